"""Validation on held-out prompts before, during and after training.

The model of a step is measured after its weights are on the engines and before the next update, so it is one policy
that is measured, and that a checkpoint can hold. The prompts of the next step are sampled beside it, under the same
weights. Metrics go into a row of their own for the same step.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.train.best import BestModel
from rlhf.train.report import StepReport
from rlhf.train.run_folder import RunFolder, replace_file
from rlhf.train.stop import Stop
from rlhf.train.tracking import SAMPLES, VALIDATION, MetricsLog, write_samples
from rlhf.types import InputError

if TYPE_CHECKING:
    from rlhf.ops.intervals import Estimate

SUCCESS_BEFORE = "success_before.json"


@dataclass(kw_only=True, slots=True)
class ValidationConfig:
    """Validation before, during and after training, sampled as in training. Without held-out prompts, success before
    and after is measured on prompts of the training data."""

    every: int | None = None
    """Training steps between validations; None: only before and after training."""
    path: str | None = None
    """A file or folder of held-out prompts in the format of the data, or a data set of the Hub (see `data.path`)."""
    fraction: float = 0.0
    """Share of the prompts that is split off before training, if `path` is not set; 0: none. A digest of each prompt
    decides, so the split is the same in every run, and the rows of one prompt stay together."""
    max_overlap: float = 0.05
    """Share of the prompts in `path` that may be training prompts too; more are refused. They are left out of the
    validation."""
    num_prompts: int = 100
    """Number of prompts to measure, from the first; with `data.sets` each set gives one in turn."""
    samples_per_prompt: int = 4
    """Rollouts per prompt, sampled as in training."""
    greedy: bool = False
    """Add one rollout per prompt at temperature 0, with metrics of its own."""
    pass_at: list[int] = field(default_factory=list)
    """Values of k for pass@k: the probability that one of k rollouts is a success. At most `samples_per_prompt`."""
    threshold: float = 1.0
    """Reward from which a rollout counts as a success."""
    part: str | None = None
    """The part of the reward that must reach the threshold: a function's name, which may have weight 0, or
    `reward_model`. None: the whole reward."""
    source_key: str | None = None
    """A field of the rows, such as `data_source`, by whose values reward and success are reported too. None: by those
    of `data.sets`, if there are any."""
    texts: dict[str, str] = field(default_factory=dict)
    """General text by name, whose perplexity under the policy is measured at every validation, against forgetting:
    files, folders and data sets of the Hub as in continued pretraining, `+validation.texts.NAME=FILE`."""
    text_key: str = "text"
    """The field that holds a document in the rows of `texts`."""
    text_tokens: int | None = None
    """Tokens of the longest row of `texts`; a longer document is cut, and no token is lost. None:
    `sampler.context_tokens`."""
    text_documents: int | None = None
    """Number of documents of each text, from the first. None: all."""
    patience: int | None = None
    """Validations in a row without a better `checkpoint.keep_best` that end the training. None: it never ends so."""
    num_shown: int = 3
    """Number of completions shown before and after."""

    def __post_init__(self) -> None:
        for name in ("num_prompts", "samples_per_prompt", "every", "patience", "text_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"validation.{name}={value}: give at least 1{NULLS.get(name, '')}")
        for name in ("fraction", "max_overlap"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"validation.{name}={getattr(self, name)}: give at least 0 and less than 1")
        if self.path is not None and self.fraction:
            raise InputError(
                f"validation.path={self.path}, validation.fraction={self.fraction}: prompts come from a file or from "
                "the data; set one of them"
            )
        for k in self.pass_at:
            if not 1 <= k <= self.samples_per_prompt:
                raise InputError(
                    f"validation.pass_at={self.pass_at}, validation.samples_per_prompt={self.samples_per_prompt}: "
                    "pass@k needs k or more rollouts of each prompt; give at least 1 and at most that many"
                )

    @property
    def has_held_out(self) -> bool:
        return self.path is not None or self.fraction > 0


NULLS = {
    "every": ", or null for before and after only",
    "patience": ", or null to train all steps",
    "text_documents": ", or null for all",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Figures of a policy on a fixed set of prompts."""

    success: Estimate
    """Share of sampled episodes whose reward reached the threshold; a failed episode counts as no success."""
    figures: Mapping[str, float]
    """Metrics by name, the ends of 95 % intervals as `NAME_low` and `NAME_high`."""
    samples: Sequence[tuple[str, str]]
    """Some prompts, each with a completion."""
    texts: Mapping[str, float] = field(default_factory=dict)
    """Figures of the policy on held-out text, see `rlhf/train/perplexity.py`; empty without."""


@dataclass(slots=True, kw_only=True)
class Validation:
    """Measures the policy on fixed prompts, and ends the training when its patience is over. Follows the checkpointer
    in callbacks: a stop during a validation then loses no step."""

    config: ValidationConfig
    measure: Callable[[], Coroutine[Any, Any, Measurement]]
    folder: RunFolder
    log: MetricsLog
    stop: Stop
    tell: Callable[[str], None]
    best: BestModel | None = None
    """The checkpoint of the best model. None: it is not kept."""
    newest: tuple[int, Measurement] | None = field(default=None, init=False)
    """The last measurement, with the number of steps of the measured model."""

    async def begin(self, num_steps: int) -> bool:
        """Measure once the engines have the first weights of a run that has taken `num_steps` steps: before training,
        or what a stop prevented. Return True if patience is over."""
        if num_steps == 0 and not self.before_file.is_file():
            before = await self.after(0)
            stored = {"rate": before.success.mean, "samples": list(before.samples)}
            replace_file(self.before_file, json.dumps(stored, ensure_ascii=False))
        elif num_steps and self.is_due(num_steps) and not self.is_recorded(num_steps):
            await self.after(num_steps)
        return self.is_over(num_steps)

    async def on_step(self, report: StepReport) -> bool:
        num_steps = report.step + 1
        if not self.is_due(num_steps):
            return False
        await self.after(num_steps)
        return self.is_over(num_steps)

    async def after(self, num_steps: int) -> Measurement:
        """Return the measurement of the policy after that many steps. Raises Stopped if a stop is requested first."""
        if self.newest is None or self.newest[0] != num_steps:
            start = time.perf_counter()
            measurement = await self.stop.before(self.measure())
            figures = {**(measurement.figures if self.config.has_held_out else {}), **measurement.texts}
            if figures:
                figures["seconds"] = time.perf_counter() - start
                named = {f"{VALIDATION}{name}": value for name, value in figures.items()}
                await self.record(num_steps, named, measurement.samples)
            self.newest = num_steps, measurement
        return self.newest[1]

    async def record(self, num_steps: int, figures: dict[str, float], samples: Sequence[tuple[str, str]]) -> None:
        """Keep the model if it is the best, then write the metrics: a run killed in between measures again."""
        if self.best is not None and num_steps:
            await self.best.consider(num_steps, figures)
        if not self.is_recorded(num_steps):
            self.log.write({"step": num_steps - 1, **figures})
            lines = [{"prompt": prompt, "completion": text} for prompt, text in samples]
            write_samples(self.folder.root / SAMPLES, num_steps - 1, lines)
        self.tell(f"validation after {num_steps} steps: {in_words(figures)}")

    def is_due(self, num_steps: int) -> bool:
        return self.config.every is not None and num_steps % self.config.every == 0

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of validations, including those of the run that is continued."""
        return [row for row in self.log.history if f"{VALIDATION}seconds" in row]

    def is_recorded(self, num_steps: int) -> bool:
        return any(row["step"] == num_steps - 1 for row in self.rows())

    def is_over(self, num_steps: int) -> bool:
        """Return whether patience is over, and say so."""
        if self.config.patience is None or self.best is None:
            return False
        since = self.best.num_steps
        without = sum(row["step"] >= since for row in self.rows())
        if without < self.config.patience:
            return False
        self.tell(
            f"{self.best.figure} was best after {since} steps, and not better in {without} validations "
            f"(validation.patience): the training ends after {num_steps} steps"
        )
        return True

    @property
    def before_file(self) -> Path:
        return self.folder.root / SUCCESS_BEFORE


ENDS = ("", "_low", "_high")
PERPLEXITY = f"{VALIDATION}perplexity/"


def in_words(figures: Mapping[str, float]) -> str:
    """Return success and reward, if prompts are held out, and the perplexity of each text."""
    words = []
    if f"{VALIDATION}success" in figures:
        success = "{:.3g} ({:.3g} to {:.3g})".format(*(figures[f"{VALIDATION}success{end}"] for end in ENDS))
        words = [f"success {success}", f"reward {figures.get(f'{VALIDATION}reward', math.nan):.3g}"]
    texts = {name.removeprefix(PERPLEXITY): figures[name] for name in figures if name.startswith(PERPLEXITY)}
    return ", ".join([*words, *(f"perplexity of {name} {value:.4g}" for name, value in texts.items())])
