"""Weights of the corrections in closed form, packed and padded."""

import math

import pytest
import torch

from rlhf.algorithms.correction import CorrectionConfig
from rlhf.ops.correction import CorrectionKind, correction_weights
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import InputError

NAN, INF = math.nan, math.inf
LOG2, LOG4 = math.log(2), math.log(4)
# Two rows, the ratios of whose loss tokens are 4 and 1/2, and 2; the others are not learnt from.
MASK = [[False, True, True], [False, True, False]]
LOG_RATIO = [[NAN, LOG4, -LOG2], [NAN, LOG2, NAN]]


def weights(kind: CorrectionKind, *, packed: bool, low: float = 0.0, high: float = INF) -> tuple[list[float], ...]:
    """Weights, truncated and masked of the three loss tokens."""
    rows = [torch.tensor(row) for row in MASK]
    batch = MicroBatch.from_rows(
        [torch.zeros(3).int().numpy()] * 2, [row.numpy() for row in rows], [0.0, 0.0], {}, packed=packed
    )
    log_ratio = torch.tensor(LOG_RATIO).reshape(batch.loss_mask.shape)
    found = correction_weights(log_ratio.requires_grad_(), batch, kind, low=low, high=high)
    assert not found.weights.requires_grad
    return tuple(each[batch.loss_mask].tolist() for each in (found.weights, found.truncated, found.masked))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("kind", "bounds", "expected"),
    [
        ("off", {}, ([1, 1, 1], [0, 0, 0], [0, 0, 0])),
        ("token_truncate", {"high": 3.0}, ([3, 0.5, 2], [1, 0, 0], [0, 0, 0])),
        ("token_mask", {"low": 0.6, "high": 3.0}, ([0, 0, 2], [0, 0, 0], [1, 1, 0])),
        ("sequence_truncate", {"high": 1.5}, ([1.5, 1.5, 1.5], [1, 1, 1], [0, 0, 0])),
        ("sequence_truncate", {"high": 3.0}, ([2, 2, 2], [0, 0, 0], [0, 0, 0])),
        ("sequence_mask", {"low": 0.5, "high": 1.5}, ([0, 0, 0], [0, 0, 0], [1, 1, 1])),
        ("sequence_mask", {"low": 0.5, "high": 3.0}, ([2, 2, 2], [0, 0, 0], [0, 0, 0])),
        # The geometric means are the square root of 2, and 2.
        ("geometric_mask", {"low": 0.5, "high": 1.5}, ([1, 1, 0], [0, 0, 0], [0, 0, 1])),
    ],
)
def test_closed_forms(kind, bounds, expected, packed):
    found = weights(CorrectionKind(kind), packed=packed, **bounds)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert (found[1], found[2]) == (list(map(bool, expected[1])), list(map(bool, expected[2])))


@pytest.mark.parametrize("kind", [kind for kind in CorrectionKind if kind not in ("auto", "off")])
def test_a_token_that_the_engine_hardly_knew_has_a_finite_weight(kind):
    batch = MicroBatch.from_rows([torch.zeros(2).int().numpy()], [torch.tensor([False, True]).numpy()], [0.0], {},
                                 packed=True)  # fmt: skip
    found = correction_weights(torch.tensor([[0.0, 500.0]]), batch, kind, low=0.0, high=1e30)
    assert found.weights[0, 1].item() in (1.0, pytest.approx(math.exp(20), rel=1e-5))


def test_usual_bounds():
    bounds = {kind: CorrectionConfig(kind=kind).bounds for kind in CorrectionKind}
    assert bounds[CorrectionKind.token_truncate] == (0.0, 2.0)
    assert bounds[CorrectionKind.token_mask] == (0.5, 5.0)
    assert bounds[CorrectionKind.geometric_mask] == (0.99, 1.01)
    assert CorrectionConfig(kind=CorrectionKind.token_mask, low=0.2).bounds == (0.2, 5.0)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"kind": "token_mask", "low": 3.0, "high": 2.0}, r"correction\.low=3\.0, algorithm\.correction\.high=2\.0: .* "
         "must enclose 1"),
        ({"kind": "sequence_mask", "low": 1.0, "high": 1.0}, "low must be below high"),
        ({"kind": "token_truncate", "high": 0.5}, r"correction\.high=0\.5: the bounds must enclose 1"),
        ({"kind": "token_truncate", "high": math.inf}, "must enclose 1"),
        ({"kind": "token_mask", "low": math.nan}, "must enclose 1"),
        ({"kind": "token_truncate", "low": 0.5}, "only masks have a lower bound"),
        ({"kind": "auto", "low": 0.5}, "only masks have a lower bound"),
        ({"kind": "off", "high": 2.0}, r"kind=off, .*correction\.high=2\.0: without a correction there are no bounds"),
    ],
)  # fmt: skip
def test_impossible_bounds_are_refused(keys, sentence):
    with pytest.raises(InputError, match=sentence):
        CorrectionConfig(**{**keys, "kind": CorrectionKind(keys["kind"])})
