"""Rows of tokens as tensors: packed end to end in one row, or padded to the longest row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class MicroBatch:
    """Rows that go through a model at once: R sequences laid out in [B, T]. Packed: B = 1; padded: B = R.

    Padding follows the tokens and keeps counting positions, so a causal model needs no attention mask; a packed row
    restarts `position_ids` at each sequence, from which the model tells the sequences apart.
    """

    token_ids: Tensor  # [B, T] int64
    position_ids: Tensor  # [B, T] int64
    loss_mask: Tensor  # [B, T] bool, True where the token is learnt from
    row_ids: Tensor  # [B, T] int64, the sequence a token belongs to; R where there is padding
    signals: Tensor  # [R] float32, learning signal of each sequence: an advantage, a reward, a grade or a label
    rollout_logprobs: Tensor | None = None  # [B, T] float32, of the engine
    staleness: Tensor | None = None  # [B, T] float32, training steps by which the token's policy lags the learner
    old_logprobs: Tensor | None = None  # [B, T] float32, of the policy before this batch's first update
    ref_logprobs: Tensor | None = None  # [B, T] float32, of the reference
    teacher_logprobs: Tensor | None = None  # [B, T] float32, of the teacher
    values: Tensor | None = None  # [B, T] float32, of the critic: the return expected before the token was chosen
    advantages: Tensor | None = None  # [B, T] float32
    returns: Tensor | None = None  # [B, T] float32, the critic's targets
    kl_baseline: Tensor | None = None  # [B, T] float32, KTO's z0: the same everywhere in a batch
    targets: Tensor | None = None  # [B, T] float32, the target of a score, from 0 to 1
    token_types: Tensor | None = None  # [B, T] float32, the segment an encoder sees a token in: 0 or 1

    @classmethod
    def from_rows(
        cls,
        token_ids: Sequence[np.ndarray],  # R arrays [T_r]
        loss_mask: Sequence[np.ndarray],  # R arrays [T_r] bool
        signals: Sequence[float],  # [R]
        columns: Mapping[str, np.ndarray],  # flat arrays [sum of T_r]
        *,
        packed: bool,
    ) -> MicroBatch:
        lengths = np.array([len(row) for row in token_ids])
        num_rows, num_tokens = len(lengths), int(lengths.sum())
        starts = np.cumsum(lengths) - lengths
        rows: np.ndarray = np.repeat(np.arange(num_rows), lengths)
        positions = np.arange(num_tokens) - starts[rows]
        shape = (1, num_tokens) if packed else (num_rows, int(lengths.max()))
        cells = np.arange(num_tokens) if packed else rows * shape[1] + positions

        def lay_out(flat: np.ndarray, background: np.ndarray | float, dtype: type) -> Tensor:
            grid: np.ndarray = np.full(shape, background, dtype=dtype)
            grid.reshape(-1)[cells] = flat
            return torch.from_numpy(grid)

        return cls(
            token_ids=lay_out(np.concatenate(token_ids), 0, np.int64),
            position_ids=lay_out(positions, np.arange(shape[1]), np.int64),
            loss_mask=lay_out(np.concatenate(loss_mask), False, np.bool_),
            row_ids=lay_out(rows, num_rows, np.int64),
            signals=torch.tensor(signals, dtype=torch.float32),
            **{name: lay_out(column, 0.0, np.float32) for name, column in columns.items()},
        )

    @classmethod
    def empty(cls) -> MicroBatch:
        """Return a batch of two masked tokens, for a rank that has fewer packs than the others."""
        zeros = torch.zeros(1, 2)
        columns = {field.name: zeros for field in fields(cls) if field.default is None}
        return cls(
            token_ids=zeros.long(),
            position_ids=torch.arange(2).unsqueeze(0),
            loss_mask=zeros.bool(),
            row_ids=zeros.long(),
            signals=torch.zeros(0),
            **columns,
        )

    @property
    def num_rows(self) -> int:
        return len(self.signals)

    @property
    def num_loss_tokens(self) -> int:
        return int(self.loss_mask.sum())

    def column(self, name: str) -> Tensor:
        """Return the column `name`, which must have been computed."""
        value = getattr(self, name)
        if value is None:
            raise AssertionError(f"the batch has no column {name!r} yet: no role computes it")
        return value

    def to(self, device: torch.device) -> MicroBatch:
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return MicroBatch(**{name: value if value is None else value.to(device) for name, value in moved.items()})

    def per_token(
        self,
        values: Tensor,  # [R]
    ) -> Tensor:  # [B, T]
        """Spread each sequence's value over its tokens; 0 on padding."""
        return torch.cat([values, values.new_zeros(1)])[self.row_ids]

    def per_row(
        self,
        values: Tensor,  # [B, T]
    ) -> Tensor:  # [R]
        """Sum the values of each sequence's tokens."""
        sums = values.new_zeros(self.num_rows + 1)
        return sums.index_add(0, self.row_ids.flatten(), values.flatten())[: self.num_rows]

    def left_align(
        self,
        values: Tensor,  # [B, T]
    ) -> Tensor:  # [R, L]
        """Return the values at each sequence's loss tokens, left-aligned, 0 after the last."""
        rows, places, longest = self._loss_token_places()
        dense = values.new_zeros(self.num_rows, longest)
        dense[rows, places] = values[self.loss_mask]
        return dense

    def at_chosen(
        self,
        dense: Tensor,  # [R, L]
    ) -> Tensor:  # [B, T]
        """Invert `left_align`: put the values at the loss tokens, 0 where nothing is learnt."""
        rows, places, _ = self._loss_token_places()
        values = dense.new_zeros(self.loss_mask.shape)
        values[self.loss_mask] = dense[rows, places]
        return values

    def _loss_token_places(self) -> tuple[Tensor, Tensor, int]:
        """Return each loss token's sequence [N] and index within it [N], and the longest sequence's count, at least
        1."""
        rows = self.row_ids[self.loss_mask]
        counts = torch.bincount(rows, minlength=self.num_rows)
        places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        return rows, places, int(counts.max()) if len(rows) else 1

    def flatten(
        self,
        values: Tensor,  # [B, T]
    ) -> np.ndarray:  # [sum of T_r] float32
        """Return the values of all sequences' tokens end to end: the format in which columns are sent."""
        return values[self.row_ids < self.num_rows].float().cpu().numpy()
