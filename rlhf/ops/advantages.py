"""Baselines and advantages."""

from collections.abc import Sequence

import numpy as np


def group_relative_scores(
    scores: Sequence[float],  # [K], the rewards of one prompt's rollouts
    *,
    scale_by_std: bool,
) -> list[float]:  # [K]
    """Rewards relative to their group (Shao et al. 2024, DeepSeekMath, section 4.1.2).

    The mean is subtracted; with `scale_by_std` the result is divided by the standard deviation (of the sample, plus
    1e-6). Without it this is Dr. GRPO (Liu et al. 2025). A group of equal rewards gives zeros.
    """
    rewards = np.asarray(scores, dtype=np.float64)
    centred = rewards - rewards.mean()
    if scale_by_std:
        centred /= rewards.std(ddof=1) + 1e-6
    return centred.tolist()
