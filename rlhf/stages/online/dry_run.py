"""Display of a run's inputs, and a trial of its environment and rewards, without a start."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlhf.environments.base import ChatSampler, Environment, append_completion, start, unsampled
from rlhf.environments.lookup import find_environment
from rlhf.judges.client import JudgeClient
from rlhf.judges.rubric import RubricJudge
from rlhf.rewards.judged import answer_in
from rlhf.rewards.processes import RewardProcesses
from rlhf.stages.console import CONSOLE, show_loss_masks, show_table
from rlhf.stages.online.job import Job
from rlhf.train.online import advantages_of
from rlhf.train.rollouts import Rewards, RolloutCollector, info_of
from rlhf.types import (
    Completion,
    Episode,
    Failure,
    Group,
    InputError,
    Prompt,
    Reference,
    RunError,
    Sampling,
    Score,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_TOKENISED, NUM_SCORED = 3, 5
TIMEOUT_S = 120.0
"""Seconds that an environment may take where nothing is sampled."""


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """A policy that gives the row's own answer in every turn."""

    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion:
        await asyncio.sleep(0)  # an endless environment can be interrupted
        text = str(self.prompt.meta.get("answer", ""))
        answer = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        return unsampled(answer, stop="stop", text=text)


def try_algorithm(job: Job) -> None:
    """Compute the advantages of invented episodes, with rewards 0 and 1 in turn. Raises InputError if that fails, so
    that a method with a bug is reported before accelerators wait for it."""
    algorithm, prompt = job.algorithm, job.prompts[0]
    row = append_completion(start(prompt), unsampled([job.stop_token_ids[0]], stop="stop", text=""))
    infos = [
        info_of(
            Episode(rows=[row], score=Score(value=float(i % 2))), f"{prompt.id}/0/{i}", prompt.source, each.trained, i
        )
        for i, each in enumerate(algorithm.requests(prompt))
    ]
    group = Group(prompt=prompt, rollouts=Reference([row] * len(infos)), infos=infos)
    try:
        if algorithm.admits(group):
            advantages_of(algorithm, group)
    except Exception as error:
        raise InputError(f"algorithm: invented rewards of one prompt, 0 and 1 in turn, show a bug: {error}") from error


async def try_episodes(job: Job, *, show: bool) -> None:
    """Play the environment with a policy that gives rows' own answers, and score the episodes in a process like those
    that score a run: of several rows to `show`, else of the first that has a score.

    Raises InputError if all of them fail, so that an environment or a reward with a bug, or a server that is down or
    slow, is reported before accelerators wait for it.
    """
    config = job.config.reward
    environment = find_environment(job.config.environment, job.config.environment_options)
    rewards = RewardProcesses(replace(config, num_processes=1, max_attempts=1)) if config.functions else None
    if rewards:
        await rewards.start()
    episodes: list[Episode] = []
    for prompt in job.prompts[:NUM_SCORED]:
        episodes.append(await play(job, prompt, in_time(environment, TIMEOUT_S), rewards))
        if not show and isinstance(episodes[-1].score, Score):
            break
    if rewards:
        await rewards.close()
    if show:
        rows = [row for episode in episodes[:NUM_TOKENISED] for row in episode.rows]
        show_loss_masks(job.tokenizer, [(row.token_ids, row.loss_mask) for row in rows])
    table = [
        (prompt.source, episode.rows[-1].text[:60], *cells(episode.score))
        for prompt, episode in zip(job.prompts, episodes, strict=False)
    ]
    if not any(isinstance(episode.score, Score) for episode in episodes):
        raise InputError(f"no reward for the own answers of the first {len(episodes)} rows, the last: {table[-1][2]}")
    if show and rewards:
        show_table("Reward of the rows' own answers", ("row", "answer", "reward", "parts"), table)
    if config.judge.url is not None:
        await try_judge(job, episodes[0])


async def try_judge(job: Job, episode: Episode) -> None:
    """Let the judge rate the first row's own answer, in one request, and show its rating. Raises InputError if it has
    none: the server is down or slow, refuses the key, writes something else, or the budget is too small."""
    config = replace(job.config.reward.judge, max_attempts=1)
    client = JudgeClient(config, config.api_key())
    answer = answer_in(job.prompts[0], episode.rows[-1], shows=config.shows_reference)
    try:
        (rating,) = await RubricJudge(client, config).rate([answer])
    except RunError as error:
        raise InputError(str(error)) from None
    finally:
        await client.close()
    if isinstance(rating, Failure):
        raise InputError(f"reward.judge has no rating for the own answer of {job.prompts[0].source}: {rating.message}")
    cost = f", for {client.ledger.cost:.3g}" if client.ledger.cost else ""
    CONSOLE.print(f"the judge rates the first row's own answer {rating:.2f} of 1{cost}", soft_wrap=True)


async def play(job: Job, prompt: Prompt, environment: Environment, rewards: Rewards | None) -> Episode:
    """The episode, with its score, of a policy that gives the row's own answer."""
    collector = RolloutCollector(
        sampler=OwnAnswer(job.tokenizer, prompt),
        tokenizer=lambda: job.tokenizer,
        context_tokens=sys.maxsize,  # an answer may be longer than the policy may write
        environment=environment,
        environment_name=job.config.environment,
        rewards=rewards,
        run_seed=job.config.seed,
        max_attempts=1,
    )
    episode, _ = await collector.play(prompt, 0, 0, job.sampling)
    return episode


def in_time(environment: Environment, timeout_s: float) -> Environment:
    """The environment under a deadline."""

    async def play(prompt: Prompt, sampler: ChatSampler, sampling: Sampling) -> Episode:
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                return await environment(prompt, sampler, sampling)
        except TimeoutError as error:
            if not deadline.expired():  # one of its own
                raise
            raise TimeoutError(f"no end within {timeout_s:g} s, with the row's own answer in every turn") from error

    return play


def cells(score: Score | Failure | None) -> tuple[str, str]:
    """The score and its parts as text."""
    if isinstance(score, Failure):
        return f"{score.kind}: {score.message}", ""
    assert score is not None, "the collector scores every episode"
    return f"{score.value:g}", ", ".join(f"{name} {value:g}" for name, value in score.parts.items())
