"""Checks of keys that name a part of the reward."""

from __future__ import annotations

from pathlib import Path

from rlhf.config import OnlineConfig
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.judged import NAME as JUDGE
from rlhf.rewards.reward_model import NAME
from rlhf.types import InputError

CONSTRAINTS = "reward.constraints"
"""Key of the constraints, each of which bounds a mean over the episodes that have the part."""


def check_parts(config: OnlineConfig) -> None:
    """Raise InputError if a key names a part that the reward, or that of a prompt set, does not have."""
    check_set_rewards(config)
    for key, part in {"validation.part": config.validation.part, "curriculum.part": config.curriculum.part}.items():
        if part is not None:
            check_part(key, part, config)
    for name in config.reward.constraints:
        check_part(CONSTRAINTS, name, config)
        if len(without := sets_without(name, config)) == len(config.data.sets) > 0:
            raise InputError(
                f"reward.constraints.{name}: it is never measured, since the rewards of {', '.join(without)} are "
                "without it; add it to the reward of a set in data.sets, with weight 0 if it is a cost alone"
            )
    check_overlong(config)


def sets_without(part: str, config: OnlineConfig) -> list[str]:
    """Return the prompt sets with rewards of their own that do not have the part."""
    sets, name = config.data.sets, part.partition("/")[0]
    return [each for each in sets if sets[each].reward and name not in sets[each].reward]


def check_overlong(config: OnlineConfig) -> None:
    """Raise InputError if the punishment would begin before the first token of a completion."""
    buffer, longest = config.reward.shaping.overlong_buffer, config.sampling.max_tokens
    own = {f"data.sets.{name}.max_tokens": each.max_tokens for name, each in config.data.sets.items()}
    for key, limit in {"sampling.max_tokens": longest, **own}.items():
        if buffer is not None and limit is not None and buffer > limit:
            raise InputError(f"reward.shaping.overlong_buffer={buffer}: it is more than {key}={limit}; lower it")


def parts_of(reward: RewardConfig) -> list[str]:
    """Return the names of the functions, and those of reward model and judge if there are any."""
    others = {NAME: reward.model, JUDGE: reward.judge.url}
    return [
        *(Path(spec).name for spec in reward.functions),
        *(name for name, given in others.items() if given is not None),
    ]


def check_part(key: str, part: str, config: OnlineConfig) -> None:
    """Raise InputError if the reward has no such part, or, but for a constraint, that of a prompt set."""
    parts = parts_of(config.reward)
    # An environment of the user's own may score its episodes, with parts of its own.
    if config.environment == "single_turn" and part.partition("/")[0] not in parts:
        raise InputError(f"{key}={part}: the reward has no such part; known are {', '.join(parts)}")
    if key != CONSTRAINTS and (without := sets_without(part, config)):
        raise InputError(
            f"{key}={part}: the rewards of {', '.join(without)} in data.sets are without it; add it to theirs, with "
            "weight 0 if it is only to be measured"
        )


def check_set_rewards(config: OnlineConfig) -> None:
    """Raise InputError if a prompt set names a reward that is not loaded."""
    parts = parts_of(config.reward)
    for name, each in config.data.sets.items():
        for part in each.reward:
            if part not in parts:
                raise InputError(
                    f"data.sets.{name}.reward names '{part}', which is no reward of the run; known are "
                    f"{', '.join(parts)}: add it to reward.functions, or set reward.model for '{NAME}', or "
                    f"reward.judge.url for '{JUDGE}'"
                )
