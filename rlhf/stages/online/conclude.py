"""Success before and after training, and the output at the end of a run."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING
from rich.markup import escape

from rlhf.config import OnlineConfig, as_plain
from rlhf.data.template_clock import writes_date
from rlhf.help.fields import shown
from rlhf.models.tokenizer import load_tokenizer
from rlhf.overrides import as_value
from rlhf.paths import SETS
from rlhf.rewards.base import ModelInput, RewardConfig
from rlhf.rewards.lookup import by_own_names
from rlhf.stages.console import CONSOLE
from rlhf.stages.online.job import Job
from rlhf.train.run_folder import RunFolder, flatten
from rlhf.train.tracking import PLOT, SAMPLES, VALIDATION, read_rows
from rlhf.train.validation import SUCCESS_BEFORE, Measurement
from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_CHARACTERS = 160
EVALUATED = ("seed", "template_date", "backend.precision", "backend.max_tokens_per_microbatch", "placement.reward",
             "placement.timeout_s", "placement.start_timeout_s", "preflight.", "data.", "reward.", "sampling.",
             "sampler.", "stream.prompts_per_step", "validation.", "environment")  # fmt: skip
"""Keys of a configuration that an evaluation reads. The chat template is in the model's folder."""
DURING_TRAINING = ("validation.every", "validation.patience", "validation.text", "reward.shaping.",
                   "reward.constraints.")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """Success of a policy, with some of its completions."""

    rate: float
    samples: Sequence[tuple[str, str]]
    """Some prompts, each with a completion."""


def success_of(measurement: Measurement) -> Success:
    return Success(rate=measurement.success.mean, samples=measurement.samples)


def success_of_best(folder: RunFolder, manifest: Mapping[str, Any]) -> Success:
    """Return the success of the best model, as measured when it was saved."""
    rows = [row for row in read_rows(folder.root / SAMPLES) if row["step"] == manifest["step"] - 1]
    samples = [(row["prompt"], row["completion"]) for row in rows]
    return Success(rate=manifest["metrics"][f"{VALIDATION}success"], samples=samples)


def success_before(folder: RunFolder) -> Success:
    """Return the success before training, which a resumed run no longer can measure. Raises InputError if its file is
    missing."""
    file = folder.root / SUCCESS_BEFORE
    if not file.is_file():
        raise InputError(f"{file} is missing: the run measured it before its first step; restore it to continue")
    stored = json.loads(file.read_text(encoding="utf-8"))
    return Success(rate=stored["rate"], samples=[(prompt, text) for prompt, text in stored["samples"]])


def conclude(job: Job, before: Success, after: Success, folder: RunFolder, num_steps: int) -> None:
    """Print samples before and after, paths of the results, next commands, and a line for scripts."""
    config = job.config
    for (prompt, early), (_, late) in zip(before.samples, after.samples, strict=False):
        asked, early, late = (escape(textwrap.shorten(text, SHOWN_CHARACTERS)) for text in (prompt, early, late))
        CONSOLE.print(f"{asked}  before: [red]{early}[/red]  after: [green]{late}[/green]")
    CONSOLE.print(f"model: {folder.model}", f"plot: {folder.root / PLOT}", sep="\n", soft_wrap=True)
    if config.checkpoint.every is None:
        CONSOLE.print("to be able to continue a run, set checkpoint.every", soft_wrap=True)
    else:
        CONSOLE.print("continue: the same command with a larger train.num_steps", soft_wrap=True)
    CONSOLE.print(f"chat: python launch/chat.py {folder.model}", soft_wrap=True)
    command = how_to_measure(config, folder.model, is_dated=is_dated(config.reward, job.tokenizer))
    CONSOLE.print(f"measure: {command}", soft_wrap=True, markup=False)
    CONSOLE.print(f"success is measured on {measured_on(job)}", soft_wrap=True)
    CONSOLE.print(f"steps={num_steps} success_before={before.rate:.3f} success_after={after.rate:.3f}", soft_wrap=True)


def measured_on(job: Job) -> str:
    """Return in words on which prompts success is measured."""
    number = len(job.measured_prompts)
    if job.held_out.prompts:
        return f"{number} held-out prompts"
    return f"{number} prompts of the training; hold some out with validation.fraction or validation.path"


def is_dated(reward: RewardConfig, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template of the policy, or of a reward model that reads text, writes the date."""
    judges = [reward.model, *reward.ensemble] if reward.model and reward.model_input is ModelInput.text else []
    return any(map(writes_date, [tokenizer, *map(load_tokenizer, judges)]))


def how_to_measure(config: OnlineConfig, model: Path, *, is_dated: bool) -> str:
    """Return the shell command that measures a model of this run as the run did, with the date if a template writes
    it."""
    # Model and output are set below; any algorithm is suitable, since nothing is learnt.
    usual = OnlineConfig(model=MISSING, output=MISSING, algorithm=config.algorithm)
    options = by_own_names(config.reward.functions, config.reward.options)
    before = flatten(as_plain(usual))
    now = flatten(as_plain(replace(config, reward=replace(config.reward, options=options))))
    words = [f"model={as_value(str(model))}", "output=unused"]
    for key, value in now.items():
        if key.startswith((*DURING_TRAINING, SETS)) or (key == "template_date" and not is_dated):
            continue
        if key.startswith(EVALUATED) and (key not in before or before[key] != value):
            # Under dicts, such as reward.options, a key is a new one.
            words.append(f"{'' if key in before else '++'}{key}={as_value(value)}")
    if config.data.sets:
        # An entry of a dict of keys comes as a whole.
        words.append(f"++data.sets={shown(as_plain(config)['data']['sets'])}")
    return shlex.join(["python", "launch/measure.py", *words])
