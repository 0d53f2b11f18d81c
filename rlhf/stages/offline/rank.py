"""One rank of an offline training, as Ray Train starts it: load, fit, measure, save."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from rlhf.actors.ray_train import report_checkpoint, run_on_ranks
from rlhf.algorithms.base import Loss
from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
from rlhf.models.heads import Head
from rlhf.models.neftune import NEFTune
from rlhf.models.score_model import ScoreReadout
from rlhf.offline_config import OfflineConfig
from rlhf.stages.offline.samples import as_lines, compare_samples
from rlhf.stages.tracking import metrics_log
from rlhf.train.artifact import Artifact, FileRecords, files_in, files_of_rank, record
from rlhf.train.batching import packing_of
from rlhf.train.checkpoint import TRAINER, committing_together
from rlhf.train.layout import Layout, layout_of
from rlhf.train.learner import Learner
from rlhf.train.offline import ColumnFunction, Corpus, OfflineTrainer, columns_of_rows
from rlhf.train.reference import (
    KLBaseline,
    LiveReference,
    ReferenceConfig,
    ReferenceMode,
    rows_of,
    store,
    stored_logprobs,
    with_reference,
)
from rlhf.train.run_folder import RunFolder, replace_file
from rlhf.train.tracking import SAMPLES, MetricsLog, truncate_to, write_samples
from rlhf.train.verify import SavedModel, as_manifest, verify_saved

if TYPE_CHECKING:
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

STOP, REFERENCE, LAYOUT = ".stop", "reference", ".layout"
PROMPTS_AT_ONCE = 32
BEFORE_TRAINING = -1
"""Step number of metrics that are measured before the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpora:
    """All rows of a run."""

    train: Corpus
    held_out: Mapping[str, Corpus]
    """Held-out corpora by the prefix of their metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineJob:
    """Specification of a training, the same for every rank."""

    config: OfflineConfig
    head: Head
    loss: Loss
    corpora: Any
    """`Corpora`, or a Ray reference to them while the job is sent to the ranks."""
    manifest: Mapping[str, Any]
    save_beside: Callable[[Path], None]
    """Write the files of a model folder other than the weights."""
    reference: ReferenceConfig | None = None
    """Reference of methods that read its logprobs."""
    prompts: Sequence[tuple[Sequence[int], str]] = ()
    """Held-out prompts to complete, as token ids, each with its expected completion as text."""
    stop_token_ids: tuple[int, ...] = ()
    decode: Callable[[Sequence[int]], str] = str
    """Decode token ids to text."""
    conclude: Callable[[OfflineRank], dict[str, float]] | None = None
    """Function for further metrics of the trained model; every rank calls it."""
    panels: Mapping[str, str] = field(default_factory=dict)
    """Panels of the plot, each with the metric that it shows."""
    earlier_figures: Mapping[str, float] = field(default_factory=dict)
    """Metrics of earlier measurements, for the model's manifest."""
    root: Path = Path()
    """Path of the run's folder."""


def train_on_ranks(job: OfflineJob) -> None:
    """Train on free accelerators of the cluster. Blocks until the model exists or the run was stopped."""
    config = job.config
    run_on_ranks(
        run_rank,
        job,
        num_ranks=config.placement.policy,
        root=job.root,
        max_restarts=config.train.max_restarts,
        backend=config.backend,
    )


def run_rank(job: OfflineJob) -> None:
    """Run one rank; Ray Train calls it on every rank."""
    # Imported here: it takes seconds, and drivers do not need it.
    import torch

    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    config = job.config
    with ThreadPoolExecutor(1) as pool:
        # The first rank verifies every byte, for all, while the model loads.
        verified = pool.submit(RunFolder(job.root).newest_checkpoint) if os.environ["RANK"] == "0" else None
        backend = DeepSpeedBackend(
            config.model, config.backend, config.optimizer, job.head, config.lora, config.rope_scaling
        )
        newest = verified.result() if verified else None
    OfflineRank(job, backend).run(newest)


class OfflineRank:
    def __init__(self, job: OfflineJob, backend: DeepSpeedBackend) -> None:
        self.job, self.config, self.backend = job, job.config, backend
        self.folder, self.corpora = RunFolder(job.root), ray.get(job.corpora)
        readout = ScoreReadout() if job.head is Head.score else TokenReadout(SamplingDistribution())
        self.noise = NEFTune[Any](readout, self.config.neftune_alpha, self.config.seed)
        layout = self.choose_layout()
        self.packing = packing_of(replace(self.config.backend, packed=layout.packed), backend.num_ranks)
        self.learner = Learner(backend, self.noise, packed=layout.packed)
        self.trainer = OfflineTrainer(
            learner=self.learner,
            loss=job.loss,
            optimizer=self.config.optimizer,
            config=self.config.train,
            packing=self.packing,
            seed=self.config.seed,
        )

    @property
    def is_first(self) -> bool:
        return self.backend.rank == 0

    def choose_layout(self) -> Layout:
        """Choose the layout of rows; the driver shows the notes, from a file."""
        layout = layout_of(self.config.backend, "policy", self.config.model, self.backend, self.noise)
        if self.is_first and layout.notes:
            replace_file(self.folder.root / LAYOUT, "".join(json.dumps({"note": note}) + "\n" for note in layout.notes))
        return layout

    def run(self, newest: Artifact | None) -> None:
        """Train, starting from the first rank's `newest` checkpoint, if any."""
        next_step, figures = self.load(newest)
        if self.job.reference:
            self.trainer.column_functions = self.read_reference(self.job.reference, fresh=next_step == 0)
        num_steps = self.config.train.steps_over(len(self.corpora.train))
        self.noise.step = next_step
        # The metrics before the first step are measured again if the run has no checkpoint yet.
        with self.log(next_step or BEFORE_TRAINING) as log:
            if next_step == 0:
                self.write(log, {"step": float(BEFORE_TRAINING), **self.held_out(BEFORE_TRAINING)})
            for figures in self.trainer.fit(self.corpora.train, next_step=next_step):
                next_step = self.noise.step = int(figures["step"]) + 1
                if next_step == num_steps or is_due(next_step, self.config.held_out.every):
                    figures |= self.held_out(next_step - 1)
                self.write(log, figures)
                stops = self.is_stopped() and next_step < num_steps
                if stops or is_due(next_step, self.config.checkpoint.every):
                    self.save_checkpoint(next_step, figures)
                if stops:
                    return
        concluded = self.job.conclude(self) if self.job.conclude else {}
        self.save_model(num_steps, {**figures, **concluded, **self.job.earlier_figures})

    def load(self, newest: Artifact | None) -> tuple[int, dict[str, float]]:
        """Load the first rank's checkpoint; return the next step and the metrics of the last one."""
        found = self.backend.gather((newest.folder, newest.manifest) if newest else None)[0]
        if found is None:
            return 0, {}
        folder, manifest = found
        self.backend.load(folder / TRAINER)
        return manifest["step"], manifest["metrics"]

    @contextmanager
    def log(self, next_step: int) -> Iterator[MetricsLog | None]:
        """Open the metrics log on the first rank."""
        if self.is_first:
            truncate_to(self.folder.root / SAMPLES, next_step)
        with metrics_log(self.config, self.folder, next_step) if self.is_first else nullcontext() as log:
            yield log

    def write(self, log: MetricsLog | None, figures: dict[str, float]) -> None:
        if log is not None and len(figures) > 1:
            log.write(figures)

    def held_out(self, step: int) -> dict[str, float]:
        """Measure loss and metrics on the held-out corpora, and complete their prompts."""
        figures: dict[str, float] = {}
        for name, corpus in self.corpora.held_out.items():
            found = self.trainer.evaluate(corpus)
            if self.job.head is Head.causal_lm and not self.job.reference:
                found["perplexity"] = math.exp(min(found["loss"], 700.0))
            figures |= {f"{name}/{key}": value for key, value in found.items()}
        return {**figures, **self.sample(step)}

    def sample(self, step: int) -> dict[str, float]:
        """Complete held-out prompts, write the completions, and compare them with the expected ones."""
        held_out, prompts = self.config.held_out, self.job.prompts
        completions: list[str] = []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            asked = [prompt for prompt, _ in prompts[start : start + PROMPTS_AT_ONCE]]
            found = self.backend.generate(asked, held_out.sample_tokens, self.job.stop_token_ids)
            completions += map(self.job.decode, found)
        expected = [text for _, text in prompts]
        if self.is_first:
            asked_texts = [self.job.decode(prompt) for prompt, _ in prompts]
            write_samples(self.folder.root / SAMPLES, step, as_lines(asked_texts, completions, expected))
        return compare_samples(completions, expected, held_out.sample_language)

    def is_stopped(self) -> bool:
        """Return whether a stop was requested; all ranks agree."""
        return bool(self.backend.gather((self.folder.root / STOP).exists())[0])

    def save_checkpoint(self, num_steps: int, figures: Mapping[str, float]) -> None:
        target = self.folder.checkpoint(num_steps)
        manifest = {**self.job.manifest, "kind": "checkpoint", "step": num_steps, "metrics": figures}
        records: FileRecords = {}
        with committing_together(self.backend, target, manifest, records) as staging:
            model = self.write_model(staging, verify=self.config.checkpoint.verify)
            manifest |= as_manifest(model.verification)
            records |= model.records
            self.backend.save(staging / TRAINER)
            records |= record(files_of_rank(staging / TRAINER, self.backend.rank))
        report_checkpoint(target, self.backend.rank, figures)
        if self.is_first:
            self.folder.keep_newest(self.config.checkpoint.keep)

    def save_model(self, num_steps: int, figures: Mapping[str, float]) -> None:
        manifest = {**self.job.manifest, "kind": "model", "step": num_steps, "metrics": figures}
        records: FileRecords = {}
        with committing_together(self.backend, self.folder.model, manifest, records) as staging:
            model = self.write_model(staging, verify=True)
            manifest |= as_manifest(model.verification)
            records |= model.records

    def write_model(self, folder: Path, *, verify: bool) -> SavedModel:
        """Write the model into an empty folder; the first rank records it."""
        self.backend.save_pretrained(folder)
        probe = self.corpora.train.units[0][0].token_ids.tolist()
        verified = verify_saved(folder, self.backend, self.noise, probe) if verify else None
        if self.is_first:
            self.job.save_beside(folder)
        return SavedModel(verification=verified, records=record(files_in(folder)) if self.is_first else {})

    def read_reference(self, config: ReferenceConfig, *, fresh: bool) -> list[ColumnFunction]:
        """Return the functions that compute the reference's columns. Precomputed columns are kept in the run folder."""
        live = None
        if config.mode is ReferenceMode.live:
            live = self.live_reference(config, fresh=False)
        else:
            corpora = [self.corpora.train, *self.corpora.held_out.values()]
            rows, folder = rows_of(corpora), self.folder.root / REFERENCE
            logprobs = stored_logprobs(folder, rows)
            if logprobs is None:
                reference = self.live_reference(config, fresh=fresh)
                with reference.off():
                    size = config.rows_per_batch
                    logprobs = columns_of_rows(reference.learner, rows, self.packing, rows_per_batch=size)
                if self.is_first:
                    store(folder, rows, logprobs, self.job.manifest)
            train, *others = with_reference(corpora, logprobs)
            self.corpora = Corpora(train=train, held_out=dict(zip(self.corpora.held_out, others, strict=True)))
        column_functions: list[ColumnFunction] = [live] if live else []
        if self.corpora.train.mismatched_rows:
            column_functions.append(KLBaseline(self.learner, self.packing, live))
        return column_functions

    def live_reference(self, config: ReferenceConfig, *, fresh: bool) -> LiveReference:
        """Return the reference model: `config.model`, or the policy before its first step or without its adapter."""
        if config.model is None and self.backend.lora is not None:
            return LiveReference(self.learner, off=self.backend.without_adapter)
        if config.model is None and fresh:
            return LiveReference(self.learner)
        from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

        rope = self.config.rope_scaling if config.model is None else None
        path = config.model or self.config.model
        frozen = DeepSpeedBackend(path, self.config.backend, None, rope=rope)
        # Policy and reference share one layout; this raises if it is not exact for the reference.
        laid_out = replace(self.config.backend, packed=self.learner.packed)
        layout_of(laid_out, "reference", path, frozen, self.learner.readout)
        return LiveReference(Learner(frozen, self.learner.readout, packed=self.learner.packed))


def is_due(num_steps: int, every: int | None) -> bool:
    return every is not None and num_steps % every == 0
