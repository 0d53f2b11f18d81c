"""Repetition within a generation, which grows when a policy collapses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NGRAM = 4
"""Tokens of an n-gram, as usual for this measure."""
NONE: np.ndarray = np.empty((0, NGRAM), np.int32)


def repetition(
    rows: Sequence[tuple[np.ndarray, np.ndarray]],  # token_ids [T] int, loss_mask [T] bool
) -> float:
    """Return the share of an episode's n-grams that repeat an earlier one: 1 - distinct / all, with n = 4 (seq-rep-4,
    Welleck et al. 2020). From 0, also where no n-gram exists, to nearly 1.

    An n-gram is of consecutive tokens that the policy chose. Those of all rows and turns count together, so a turn
    that says what an earlier one said repeats it.
    """
    grams = np.concatenate([NONE, *(ngrams(token_ids, mask) for token_ids, mask in rows)])
    if not len(grams):
        return 0.0
    # Rows as bytes: a set of them is several times as fast as numpy's unique rows.
    return 1.0 - len(set(grams.view(f"V{grams.itemsize * NGRAM}").ravel().tolist())) / len(grams)


def ngrams(
    token_ids: np.ndarray,  # [T] int
    mask: np.ndarray,  # [T] bool
) -> np.ndarray:  # [number, n] int32
    """Return all n consecutive tokens under the mask."""
    if len(token_ids) < NGRAM:
        return NONE
    windows = np.lib.stride_tricks.sliding_window_view
    return np.ascontiguousarray(windows(token_ids.astype(np.int32), NGRAM)[windows(mask, NGRAM).all(axis=1)])
