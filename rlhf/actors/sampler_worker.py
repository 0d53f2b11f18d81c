"""An engine with its environment and its reward processes, as a Ray actor."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.exceptions import RayActorError

from rlhf.actors.judge_worker import rate_by
from rlhf.data.template_clock import fix_date
from rlhf.environments.lookup import find_environment
from rlhf.models.chat_template import load_chat_tokenizer
from rlhf.models.lora import LoRAConfig
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.judged import JudgedReward
from rlhf.rewards.processes import RewardProcesses
from rlhf.rewards.reward_model import Judge, ModelReward
from rlhf.runtimes.buckets import Bucket
from rlhf.runtimes.configs import Precision, SamplerConfig
from rlhf.runtimes.engines import make_engine
from rlhf.runtimes.protocols import Engine
from rlhf.runtimes.transport import Link
from rlhf.train.rollouts import GroupJudge, RolloutCollector
from rlhf.types import EpisodeInfo, Prompt, Rollout, RunError, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """Specification of an engine."""

    model_path: str
    sampler: SamplerConfig
    precision: Precision
    banned_token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    environment: str
    """Name of the environment, or its absolute path: its function is loaded where it works."""
    environment_name: str
    """The environment as the user gave it, for messages."""
    environment_options: Mapping[str, Any]
    reward: RewardConfig
    seed: int
    lora: LoRAConfig | None
    """Adapter whose versions are loaded in place of whole weights."""
    takes_turns: bool
    """True if the engine shares its accelerators with roles of other phases."""
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any]
    template_date: str | None

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that made the prompts."""
        tokenizer = load_chat_tokenizer(self.model_path, self.chat_template, self.chat_template_kwargs)
        fix_date(tokenizer, self.template_date)
        return tokenizer


class SamplerWorker:
    async def start(self, spec: SamplerSpec, reward_workers: Sequence[Any], judge: Any = None) -> None:
        """`judge`: the actor of the run's judge; None if it has none."""
        # The engine's thread and this event loop share the GIL: at the default switch interval of 5 ms the loop, which
        # needs microseconds per rollout, would wait for most of a short step.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        copies = [as_judge(worker) for worker in reward_workers]
        self.reward_model = ModelReward(copies, spec.reward) if copies else None
        judges: list[GroupJudge] = [self.reward_model] if self.reward_model else []
        judges += [JudgedReward(rate_by(judge), spec.reward)] if judge else []
        self.rewards = RewardProcesses(spec.reward) if spec.reward.functions else None
        if self.rewards:
            await self.rewards.start()
        self.engine: Engine = make_engine(
            spec.model_path,
            spec.sampler,
            spec.precision,
            banned_token_ids=spec.banned_token_ids,
            stop_token_ids=spec.stop_token_ids,
            takes_turns=spec.takes_turns,
            lora=spec.lora,
        )
        self.collector = RolloutCollector(
            sampler=self.engine,
            tokenizer=cache(spec.load_tokenizer),
            context_tokens=spec.sampler.context_tokens,
            environment=find_environment(spec.environment, spec.environment_options),
            environment_name=spec.environment_name,
            rewards=self.rewards,
            run_seed=spec.seed,
            max_attempts=spec.reward.max_attempts,
            judges=judges,
        )

    async def collect(
        self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]
    ) -> tuple[list[Rollout], list[EpisodeInfo]]:
        return await self.collector.collect(prompt, epoch, requests)

    async def answer(self) -> None:
        """Return at once: the process lives."""

    async def connect(self, link: Link, first_rank: int) -> None:
        await self.engine.connect(link, first_rank)

    async def offload(self) -> int:
        return await self.engine.offload()

    async def onload(self) -> int:
        return await self.engine.onload()

    async def expect_weights(self) -> None:
        await self.engine.expect_weights()

    async def load_begin(self) -> None:
        await self.engine.load_begin()

    async def load(self, bucket: Bucket) -> None:
        await self.engine.load(bucket)

    async def load_finish(self, version: int) -> None:
        await self.engine.load_finish(version)

    async def logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        return await self.engine.logprobs(token_ids)

    async def memory(self) -> int:
        return await self.engine.memory()

    async def close(self) -> None:
        for scorer in (self.rewards, self.reward_model):
            if scorer is not None:
                await scorer.close()
        await self.engine.close()


def as_judge(worker: Any) -> Judge:
    """Wrap a reward model's worker for the rewards."""

    async def judge(items: list[Any]) -> list[float]:
        try:
            return await worker.score.remote(items)
        except RayActorError as error:
            raise RunError(f"a reward model worker died: {error}") from error

    return judge
