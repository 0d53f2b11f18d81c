"""Success before and after training, and the output at the end of a run."""

from __future__ import annotations

import asyncio
import json
import shlex
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING
from rich.markup import escape

from rlhf.config import OnlineConfig, SuccessConfig, as_plain
from rlhf.data.template_clock import writes_date
from rlhf.models.tokenizer import load_tokenizer
from rlhf.overrides import as_value
from rlhf.rewards.base import ModelInput, RewardConfig
from rlhf.rewards.lookup import by_own_names
from rlhf.stages.console import CONSOLE
from rlhf.train.run_folder import RunFolder, flatten
from rlhf.train.stream import GroupSource
from rlhf.train.tracking import PLOT
from rlhf.types import Group, InputError, Prompt, Reference, Sampling, Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUCCESS_BEFORE = "success_before.json"
MEASUREMENT_EPOCH = -1
"""Epoch of measurements, from which their seeds are derived; no epoch of training has this number."""

SHOWN_CHARACTERS = 160
EVALUATED = ("seed", "template_date", "backend.precision", "backend.max_tokens_per_microbatch", "placement.reward",
             "placement.timeout_s", "placement.start_timeout_s", "preflight.", "data.", "reward.", "sampling.",
             "sampler.", "success.", "environment")  # fmt: skip
"""Keys of a configuration that an evaluation reads. The chat template is in the model's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """Success of a policy on a fixed set of prompts."""

    rate: float
    """Share of episodes whose reward reached the threshold; a failed episode counts as no success."""
    samples: Sequence[tuple[str, str]]
    """Some prompts, each with a completion."""


async def sample(
    source: GroupSource, prompts: Sequence[Prompt], sampling: Sampling, config: SuccessConfig
) -> list[Group]:
    """Sample episodes of the first prompts, with the same seeds for every policy."""
    requests = [sampling] * config.samples_per_prompt
    asked = prompts[: config.num_prompts]
    return await asyncio.gather(*(source.collect(prompt, MEASUREMENT_EPOCH, requests) for prompt in asked))


def successes(group: Group, config: SuccessConfig) -> list[bool]:
    """Return for each episode whether its reward reached the threshold."""
    return [isinstance(info.score, Score) and measured(info.score, config) >= config.threshold for info in group.infos]


def measured(score: Score, config: SuccessConfig) -> float:
    """The score, or the part of it that success is measured by. Raises InputError if it has no such part."""
    if config.part is None:
        return score.value
    if config.part not in score.parts:
        raise InputError(
            f"success.part={config.part}: the score of an episode has no such part; it has "
            f"{', '.join(score.parts) or 'none'}; name one of them, or leave it null"
        )
    return score.parts[config.part]


async def measure_success(
    source: GroupSource,
    fetch: Callable[[Sequence[Reference]], list[Any]],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    config: SuccessConfig,
) -> Success:
    groups = await sample(source, prompts, sampling, config)
    reached = [success for group in groups for success in successes(group, config)]
    shown = groups[: config.num_shown]
    return Success(rate=sum(reached) / len(reached), samples=first_answers(shown, fetch))


def first_answers(groups: Sequence[Group], fetch: Callable[[Sequence[Reference]], list[Any]]) -> list[tuple[str, str]]:
    """Return each group's prompt, and the text with which its first episode ends."""
    answers = []
    for group, rollouts in zip(groups, fetch([group.rollouts for group in groups]), strict=True):
        first = group.episodes(rollouts)[0]
        answers.append((group.prompt.messages[-1]["content"], first.rows[-1].text))
    return answers


async def success_before(folder: RunFolder, measure: Callable[[], Awaitable[Success]]) -> Success:
    """Measure success before training, once per run: a resumed run no longer has its first policy."""
    file = folder.root / SUCCESS_BEFORE
    if not file.is_file():
        file.write_text(json.dumps(asdict(await measure()), ensure_ascii=False), encoding="utf-8")
    stored = json.loads(file.read_text(encoding="utf-8"))
    return Success(rate=stored["rate"], samples=[(prompt, text) for prompt, text in stored["samples"]])


def conclude(
    config: OnlineConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: RunFolder,
    before: Success,
    after: Success,
    num_steps: int,
) -> None:
    """Print samples before and after, paths of the results, next commands, and a line for scripts."""
    for (prompt, early), (_, late) in zip(before.samples, after.samples, strict=True):
        asked, early, late = (escape(textwrap.shorten(text, SHOWN_CHARACTERS)) for text in (prompt, early, late))
        CONSOLE.print(f"{asked}  before: [red]{early}[/red]  after: [green]{late}[/green]")
    CONSOLE.print(f"model: {folder.model}", f"plot: {folder.root / PLOT}", sep="\n", soft_wrap=True)
    if config.checkpoint.every is None:
        CONSOLE.print("to be able to continue a run, set checkpoint.every", soft_wrap=True)
    else:
        CONSOLE.print("continue: the same command with a larger train.num_steps", soft_wrap=True)
    CONSOLE.print(f"chat: python launch/chat.py {folder.model}", soft_wrap=True)
    command = how_to_evaluate(config, folder.model, is_dated=is_dated(config.reward, tokenizer))
    CONSOLE.print(f"evaluate: {command}", soft_wrap=True, markup=False, emoji=False)
    CONSOLE.print(f"steps={num_steps} success_before={before.rate:.3f} success_after={after.rate:.3f}", soft_wrap=True)


def is_dated(reward: RewardConfig, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template of the policy, or of a reward model that reads text, writes the date."""
    judges = [reward.model, *reward.ensemble] if reward.model and reward.model_input is ModelInput.text else []
    return any(map(writes_date, [tokenizer, *map(load_tokenizer, judges)]))


def how_to_evaluate(config: OnlineConfig, model: Path, *, is_dated: bool) -> str:
    """Return the shell command that measures a model of this run as the run did, with the date if a template writes
    it."""
    # Model and output are set below; any algorithm is suitable, since nothing is learnt.
    usual = OnlineConfig(model=MISSING, output=MISSING, algorithm=config.algorithm)
    options = by_own_names(config.reward.functions, config.reward.options)
    before = flatten(as_plain(usual))
    now = flatten(as_plain(replace(config, reward=replace(config.reward, options=options))))
    words = [f"model={as_value(str(model))}", "output=unused"]
    for key, value in now.items():
        if key == "template_date" and not is_dated:
            continue
        if key.startswith(EVALUATED) and (key not in before or before[key] != value):
            # Under dicts, such as reward.options, a key is a new one.
            words.append(f"{'' if key in before else '++'}{key}={as_value(value)}")
    return shlex.join(["python", "launch/evaluate.py", *words])
