"""Cross entropy against a loop, and whatever the split into micro-batches."""

import itertools

import pytest

from rlhf.algorithms.sft import SFTConfig
from tests.unit.algorithms.layouts import LIKELY, loss_and_gradient, make_sequences

LENGTHS = [3, 8, 1, 5]


@pytest.mark.parametrize("seed", range(3))
def test_loss_is_the_mean_over_all_tokens_that_are_learnt(seed):
    loss, sequences = SFTConfig().build(), make_sequences(seed, LENGTHS)
    learnt = [(sequence, t) for sequence, mask in enumerate(sequences.mask) for t, on in enumerate(mask) if on]
    expected = -sum(sequences.logprobs[i][t] for i, t in learnt) / len(learnt)
    assert loss.count(sequences.rows) == len(learnt)
    for splits, packed in itertools.product(([[0, 1, 2, 3]], [[2], [3, 0], [1]]), (True, False)):
        found, gradients, metrics = loss_and_gradient(loss, sequences, splits, [], packed=packed)
        assert found == pytest.approx(expected, rel=1e-5)
        assert metrics == pytest.approx(
            {
                "entropy": sum(sequences.logprobs[i][t] ** 2 for i, t in learnt),
                "accuracy": sum(sequences.logprobs[i][t] > LIKELY for i, t in learnt),
                "exact_match": sum(
                    all(value > LIKELY for value, on in zip(*row, strict=True) if on)
                    for row in zip(sequences.logprobs, sequences.mask, strict=True)
                ),
            },
            rel=1e-5,
        )
        for i, mask in enumerate(sequences.mask):
            assert gradients[i] == pytest.approx([-1 / len(learnt) if on else 0.0 for on in mask])
