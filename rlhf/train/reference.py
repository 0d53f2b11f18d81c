"""The reference of offline preference methods: logprobs computed once before training, or live in every step."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.train.artifact import committing, open_artifact
from rlhf.train.batching import Packing
from rlhf.train.learner import Learner
from rlhf.train.offline import Corpus, one_minibatch
from rlhf.types import Batch, InputError, TrainingRow

LOGPROBS, BASELINE = "ref_logprobs", "kl_baseline"


class ReferenceMode(StrEnum):
    """Time at which the reference's logprobs are computed."""

    precomputed = "precomputed"
    live = "live"


@dataclass(kw_only=True, slots=True)
class ReferenceConfig:
    """Reference of a preference method."""

    model: str | None = None
    """Folder or Hub id of the reference, with the policy's vocabulary. None: the model at the start of training."""
    mode: ReferenceMode = ReferenceMode.precomputed
    """`precomputed`: once, before the first step, and kept in the run folder. `live`: in every step, by a second model
    in memory; with LoRA and no `model`, by the policy without its adapter."""
    rows_per_batch: int = 256
    """Rows per batch in precomputation; uses host memory only."""

    def __post_init__(self) -> None:
        if self.rows_per_batch < 1:
            raise InputError(f"reference.rows_per_batch={self.rows_per_batch}: give at least 1")


@dataclass(slots=True)
class LiveReference:
    """The reference's logprobs of each batch, by a model in memory."""

    learner: Learner
    off: Callable[[], AbstractContextManager[None]] = nullcontext
    """Context in which the learner's model is the reference, with LoRA's adapter off."""

    def __call__(
        self, batch: Batch, mismatched_rows: Sequence[TrainingRow]
    ) -> Mapping[str, Sequence[np.ndarray | None]]:
        with self.off():
            return {LOGPROBS: own_columns(self.learner, batch)}


def own_columns(learner: Learner, batch: Batch) -> list[np.ndarray | None]:
    """Compute the columns of this rank's packs, in the order of the batch's packs; None for those of other ranks."""
    rank, num_ranks = learner.backend.rank, learner.backend.num_ranks
    mine = learner.compute_columns(learner.shard(batch))
    return batch.in_pack_order([mine if i == rank else itertools.repeat(None) for i in range(num_ranks)])


@dataclass(slots=True)
class KLBaseline:
    """KTO's reference point z0 (Ethayarajh et al. 2024, section 4.1): the policy's divergence from the reference on
    completions of other prompts, in nats per sequence, at least 0; one number for the whole batch."""

    learner: Learner
    packing: Packing
    reference: LiveReference | None
    """The live reference; None if the mismatched rows have its logprobs already."""

    def __call__(
        self, batch: Batch, mismatched_rows: Sequence[TrainingRow]
    ) -> Mapping[str, Sequence[np.ndarray | None]]:
        backend = self.learner.backend
        others = one_minibatch(mismatched_rows, self.packing)
        theirs = self.reference(others, ())[LOGPROBS] if self.reference else None
        mine = own_columns(self.learner, others)
        differences = [0.0] * len(mine)
        for i, policy in enumerate(mine):
            if policy is not None:
                known = theirs[i] if theirs else own_column(others, i, LOGPROBS)
                assert known is not None
                differences[i] = float((policy.astype(np.float64) - known).sum())
        # Sums in the order of the packs: the last bits must not depend on the number of ranks.
        total = sum(sum(each) for each in zip(*backend.gather(differences), strict=True))
        value = max(total / max(len(mismatched_rows), 1), 0.0)
        sizes = [sum(row.num_tokens for row in pack.rows) for part in batch.minibatches for pack in part.packs]
        return {BASELINE: [np.full(size, value, dtype=np.float32) for size in sizes]}


def own_column(batch: Batch, pack: int, name: str) -> np.ndarray:
    """Return a column that a pack's rows contain."""
    part = batch.minibatches[0]
    rows = [part.groups[row.group][row.index] for row in part.packs[pack].rows]  # type: ignore[index]
    return np.concatenate([row.columns[name] for row in rows])


def rows_of(corpora: Sequence[Corpus]) -> list[TrainingRow]:
    """Return every row of the corpora, in the order that `with_reference` expects."""
    return [
        row for corpus in corpora for row in (*(row for unit in corpus.units for row in unit), *corpus.mismatched_rows)
    ]


def with_reference(corpora: Sequence[Corpus], logprobs: Sequence[np.ndarray]) -> list[Corpus]:
    """Return the corpora with the reference's logprobs, [T] float32 each, in all their rows."""
    columns = iter(logprobs)

    def with_logprobs(row: TrainingRow) -> TrainingRow:
        return replace(row, columns={**row.columns, LOGPROBS: next(columns)})

    return [
        Corpus(
            units=[tuple(with_logprobs(row) for row in unit) for unit in corpus.units],
            mismatched_rows=[with_logprobs(row) for row in corpus.mismatched_rows],
        )
        for corpus in corpora
    ]


def digest(rows: Sequence[TrainingRow]) -> str:
    """Return a digest of all token ids, for the comparison of two lists of rows."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(np.int64(row.num_tokens).tobytes() + row.token_ids.tobytes())
    return sha.hexdigest()


def store(
    folder: Path, rows: Sequence[TrainingRow], logprobs: Sequence[np.ndarray], manifest: Mapping[str, Any]
) -> None:
    with committing(folder, {**manifest, "kind": "reference_logprobs", "rows": digest(rows)}) as staging:
        np.save(staging / "logprobs.npy", np.concatenate(logprobs))


def stored_logprobs(folder: Path, rows: Sequence[TrainingRow]) -> list[np.ndarray] | None:
    """Read the file that `store` wrote; None if it does not exist. Raises InputError if it is of other rows."""
    if not folder.is_dir():
        return None
    if open_artifact(folder).manifest["rows"] != digest(rows):
        raise InputError(
            f"{folder}: these logprobs are of other rows, so the data changed since the run began; set another output"
        )
    ends = np.cumsum([row.num_tokens for row in rows])
    return np.split(np.load(folder / "logprobs.npy"), ends[:-1])
