"""The learning rate as a function of the step, so that a resumed run needs no state."""

import math

from rlhf.runtimes.configs import OptimizerConfig, Schedule


def learning_rate(
    config: OptimizerConfig,
    step: int,  # from 0
    num_steps: int,
) -> float:
    """Linear warm-up from 0, then constant, linear or cosine decay to `final_lr_fraction` at the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule is Schedule.constant:
        return config.lr
    progress = (step - config.warmup_steps) / max(num_steps - config.warmup_steps - 1, 1)
    progress = min(progress, 1.0)
    remaining = 1 - progress if config.schedule is Schedule.linear else (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (config.final_lr_fraction + (1 - config.final_lr_fraction) * remaining)
