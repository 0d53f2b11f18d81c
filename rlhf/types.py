"""The concepts every room shares. Plain data: numpy on the way to a tensor, opaque references on the driver."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NewType, TypeVar

import numpy as np

Reference = NewType("Reference", object)
"""A handle of data that lives elsewhere: Ray's ObjectRef in a cluster, the value itself in one process."""

T = TypeVar("T")
Message = Mapping[str, Any]
"""One turn of a dialogue: `{"role": ..., "content": ...}`, both text; the chat template reads further keys."""


class InputError(ValueError):
    """A mistake in what the user gave: one sentence with the key or path, the value and the remedy. Exit code 2."""


class RunError(RuntimeError):
    """A run that cannot continue although its input was right: what failed, where, what to do. Exit code 4."""


class Stopped(Exception):
    """A run that was asked to stop. Exit code 128 + the signal, as in shells: 130 after Ctrl-C, 143 after SIGTERM."""

    def __init__(self, by: signal.Signals, sentence: str = "") -> None:
        super().__init__(sentence)
        self.signal = by

    @property
    def exit_code(self) -> int:
        return 128 + self.signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Input of the policy. `token_ids` is `messages` through the chat template, tokenised once, here."""

    id: str
    messages: Sequence[Message]
    token_ids: tuple[int, ...]
    source: str
    """Place of the row, as `file:line`."""
    meta: Mapping[str, Any]
    """Values that a reward needs: `answer`, and every other column of the row."""
    tools: Sequence[Any] | None = None
    """Schemas of the functions that the policy may call; they are in `token_ids`."""
    data_set: str = ""
    """Name of the prompt's set. Empty: the run has one set, without a name."""
    reward_weights: Mapping[str, float] | None = None
    """Weights of the rewards that score its rollouts, by name. None: the run's."""
    max_tokens: int | None = None
    """Longest completion in tokens, if shorter than the run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling of an episode's turns. There is no top-p or top-k: the learner could not reproduce their logprobs."""

    temperature: float
    max_tokens: int
    seed: int = 0
    trained: bool = True
    """False for an episode that serves as a baseline alone (ReMax's greedy one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One generation of an engine. All sequences have the length of `token_ids`, end-of-sequence token included."""

    token_ids: np.ndarray  # [T] int32
    logprobs: np.ndarray  # [T] float32, under the distribution that was sampled from
    versions: np.ndarray  # [T] int32, the policy version that chose each token
    stop: str
    """`stop`, `length` or `abort`."""
    text: str
    """The completion as text, special tokens dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A reward. `parts` is the breakdown of a weighted sum, unweighted, by reward name."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert math.isfinite(self.value), f"a score must be finite, not {self.value}: that is a Failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Failure in place of a score. Never a reward: excluded from the group's baseline, counted, retried."""

    kind: str
    """`environment`, `reward_error`, `reward_timeout`, `reward_invalid` or `reward_died`."""
    message: str


Speaker = Literal["policy", "environment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Tokens of a row that one side wrote: those from `start` to before `stop`. The prompt is no turn."""

    speaker: Speaker
    start: int
    stop: int
    messages: Sequence[Message] = ()
    """The turn as messages of the dialogue; empty where an environment wrote tokens alone."""


@dataclass(slots=True, kw_only=True)
class Rollout:
    """One row of an episode: one token sequence, prompt first, that grows by appending. Arrays have its length. Most
    episodes have one row; one whose template drops earlier thinking has one for each dialogue that the policy read."""

    prompt_id: str
    token_ids: np.ndarray  # [T] int32
    loss_mask: np.ndarray  # [T] bool, True where the policy chose the token
    logprobs: np.ndarray  # [T] float32, the engine's; 0 where loss_mask is False
    versions: np.ndarray  # [T] int32, the policy version that chose the token; -1 where loss_mask is False
    stop: str
    """End of the policy's last turn: `stop`, `length` or `abort`."""
    text: str
    """Text of the policy's last turn, special tokens dropped."""
    turns: tuple[Turn, ...] = ()
    """Turns after the prompt, in their order."""
    token_rewards: np.ndarray | None = None  # [T] float32


@dataclass(slots=True, kw_only=True)
class Episode:
    """Result of an environment: one score for one or more rows. Each row learns with the episode's advantage."""

    rows: Sequence[Rollout]
    """Rows in the order in which they ended. Rewards read the last."""
    score: Score | Failure | None = None
    """None: the rewards score the episode. Otherwise the environment has, and no reward is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence: the `index`-th row of its minibatch's `group`-th reference, with the scalars known of it."""

    group: int
    index: int
    num_tokens: int
    num_loss_tokens: int
    signal: float = 0.0
    """Learning signal of the row: online the result of `Algorithm.group_advantages`, offline `TrainingRow.score`."""
    episode: str = ""
    """Id of the episode it is a row of. Empty offline."""
    data_set: str = ""
    """Name of its prompt's set. Empty: the run has one set, without a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeInfo:
    """All the driver ever holds of an episode."""

    id: str
    prompt_id: str
    source: str
    rows: tuple[Row, ...]
    """Rows of the episode; `index` counts those of the whole group."""
    score: Score | Failure
    stop: str
    """End of the last row."""
    versions: tuple[int, int]
    """The oldest and the newest policy version among the tokens."""
    trained: bool
    repetition: float = 0.0
    """Share of the 4-grams in the policy's tokens that repeat an earlier one, see `rlhf/ops/repetition.py`."""

    @property
    def num_tokens(self) -> int:
        return sum(row.num_tokens for row in self.rows)

    @property
    def num_loss_tokens(self) -> int:
        return sum(row.num_loss_tokens for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The episodes of one prompt: `rollouts` refers to a `list[Rollout]`, their rows in the order of `infos`."""

    prompt: Prompt
    rollouts: Reference
    infos: Sequence[EpisodeInfo]

    @property
    def survivors(self) -> list[int]:
        """Indices of the episodes that have a score."""
        return [i for i, info in enumerate(self.infos) if isinstance(info.score, Score)]

    def episodes(self, rollouts: Sequence[Rollout]) -> list[Episode]:
        """Return the episodes that the rows in `rollouts` are of."""
        return [Episode(rows=[rollouts[row.index] for row in info.rows], score=info.score) for info in self.infos]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingRow:
    """One sequence of a data set, to learn from offline."""

    token_ids: np.ndarray  # [T] int32
    loss_mask: np.ndarray  # [T] bool
    """The tokens that are learnt; where a reward model is trained those at which its score is read."""
    score: float = 0.0
    """Quality of one side of a pair, if known; for KTO, 1 = desirable, 0 = not."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)  # [T] float32 each
    """Columns known of the tokens, by the names of `MicroBatch`'s columns."""
    source: str = ""
    """Place of the row, as `file:line`."""
    prompt_id: str = ""
    """Rows of one prompt, or document, have the same, by which held-out rows are kept apart. Empty: one of its own."""

    def __post_init__(self) -> None:
        assert self.token_ids.shape == self.loss_mask.shape
        assert not self.loss_mask[0], "nothing predicts the first token"

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_loss_tokens(self) -> int:
        return int(self.loss_mask.sum())


Unit = tuple[TrainingRow, ...]
"""Rows that are learnt from together, in one pack: one row, or the chosen and the rejected side of a pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Rows that go through the model together. `columns` refer to flat arrays, the rows' tokens end to end."""

    rows: tuple[Row, ...] = ()
    columns: Mapping[str, Reference] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minibatch:
    """The packs of one optimiser step, over all ranks, and the groups their rows are in."""

    groups: tuple[Reference, ...]
    packs: tuple[Pack, ...]

    @property
    def rows(self) -> list[Row]:
        return [row for pack in self.packs for row in pack.rows]

    def shard(self, rank: int, num_ranks: int) -> tuple[Pack, ...]:
        """The packs of one rank. Every rank gets equally many, the last ones empty: unequal counts hang ZeRO."""
        size = -(-len(self.packs) // num_ranks)
        mine = self.packs[rank::num_ranks]
        return mine + (Pack(),) * (size - len(mine))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Batch of one training step: references and scalars, no tensors."""

    step: int
    """The training step, from 0."""
    minibatches: tuple[Minibatch, ...]
    order: tuple[int, ...]
    """The minibatches in the order of the optimiser steps they serve, over all epochs."""

    def with_columns(self, columns: Sequence[Mapping[str, Sequence[Reference]]]) -> Batch:
        """The same batch with more columns; each maps a name to one reference per pack, in the order of the packs."""
        references = {name: iter(column) for mapping in columns for name, column in mapping.items()}
        minibatches = []
        for minibatch in self.minibatches:
            packs = [
                replace(pack, columns={**pack.columns, **{name: next(column) for name, column in references.items()}})
                for pack in minibatch.packs
            ]
            minibatches.append(replace(minibatch, packs=tuple(packs)))
        return replace(self, minibatches=tuple(minibatches))

    def in_pack_order(self, by_rank: Sequence[Iterable[T]]) -> list[T]:
        """Items of all ranks, one per pack of each rank's shard, in the order of the batch's packs."""
        return in_pack_order([len(part.packs) for part in self.minibatches], by_rank)


def in_pack_order(num_packs: Sequence[int], by_rank: Sequence[Iterable[T]]) -> list[T]:
    """Undo the dealing of each minibatch's packs to the ranks in turn."""
    items = [iter(mine) for mine in by_rank]
    return [next(items[i % len(items)]) for number in num_packs for i in range(number)]
