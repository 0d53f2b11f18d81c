"""pass@k: the probability that at least one of k samples of a prompt is right."""

from __future__ import annotations

import numpy as np


def pass_at(
    num_right: np.ndarray,  # [K] int, right samples of each prompt
    num_samples: np.ndarray,  # [K] int, samples of each prompt, each at least k
    k: int,
) -> np.ndarray:  # [K] float64, in [0, 1]
    """Return the unbiased estimate of each prompt's pass@k, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, eq. 1)."""
    right, samples = np.asarray(num_right, dtype=np.float64), np.asarray(num_samples, dtype=np.float64)
    assert k >= 1
    assert (samples >= k).all()
    assert (right <= samples).all()
    # C(n - c, k) / C(n, k) as a product of k factors, which neither overflows nor cancels.
    factors = 1 - right[:, None] / (samples[:, None] - np.arange(k))
    return 1 - np.prod(np.maximum(factors, 0.0), axis=-1)
