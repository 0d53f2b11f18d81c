"""Configuration of the correction for engines whose probabilities differ from the learner's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf.ops.correction import TRUNCATING, CorrectionKind
from rlhf.types import InputError

USUAL_BOUNDS = {
    CorrectionKind.auto: (0.0, 2.0),
    CorrectionKind.off: (0.0, math.inf),
    CorrectionKind.token_truncate: (0.0, 2.0),
    CorrectionKind.token_mask: (0.5, 5.0),
    CorrectionKind.sequence_truncate: (0.0, 2.0),
    CorrectionKind.sequence_mask: (0.5, 2.0),
    CorrectionKind.geometric_mask: (0.99, 1.01),
}


@dataclass(kw_only=True, slots=True)
class CorrectionConfig:
    """Keys of the correction. Its weights multiply the policy gradient only: the KL penalty and the entropy bonus still
    hold the tokens that a weight of 0 leaves without a gradient."""

    kind: CorrectionKind = CorrectionKind.auto
    """`token_truncate`: each token's ratio learner / engine, at most `high` (TIS). `token_mask`: the ratio within `low`
    and `high`, else 0 (IcePop). `sequence_truncate`, `sequence_mask`: the same with the product over the row.
    `geometric_mask`: rows whose geometric mean lies outside get weight 0, others 1. `off`: none. `auto`: `off`
    on-policy in fp32, else `token_truncate`."""
    low: float | None = None
    """Smallest ratio that a mask keeps. None: 0.5; 0.99 for `geometric_mask`."""
    high: float | None = None
    """Largest ratio that counts. None: 2; 5 for `token_mask`, 1.01 for `geometric_mask`."""

    def __post_init__(self) -> None:
        name = f"algorithm.correction.kind={self.kind.value}"
        if self.kind is CorrectionKind.off and (self.low, self.high) != (None, None):
            raise InputError(
                f"{name}, algorithm.correction.low={self.low}, algorithm.correction.high={self.high}: without a "
                "correction there are no bounds; leave both null, or choose a kind"
            )
        if self.low is not None and self.kind in (CorrectionKind.auto, *TRUNCATING):
            raise InputError(
                f"{name}, algorithm.correction.low={self.low}: only masks have a lower bound; leave it null, or choose "
                "token_mask, sequence_mask or geometric_mask"
            )
        low, high = self.bounds
        if self.kind is not CorrectionKind.off and not (0 <= low <= 1 <= high < math.inf and low < high):
            raise InputError(
                f"algorithm.correction.low={low}, algorithm.correction.high={high}: the bounds must enclose 1, the "
                "ratio where engine and learner agree, and low must be below high"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the bounds of the ratio, with the kind's usual value for one that is not set."""
        low, high = USUAL_BOUNDS[self.kind]
        return low if self.low is None else self.low, high if self.high is None else self.high
