"""Metrics of episodes and groups, as flat dicts by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf.types import EpisodeInfo, Failure, Group, Score


def reward_metrics(infos: Sequence[EpisodeInfo]) -> dict[str, float]:
    """Return mean and standard deviation of the reward, and the mean of each part, over episodes with a reward that are
    learnt from; of the others, which serve as a baseline, the mean alone."""
    scores = [info.score for info in infos if isinstance(info.score, Score) and info.trained]
    values = np.array([score.value for score in scores])
    baselines = [info.score.value for info in infos if isinstance(info.score, Score) and not info.trained]
    return {
        "reward": float(values.mean()),
        "reward_std": float(values.std()),
        **{f"reward/{name}": part for name, part in mean_parts(scores).items()},
        **({"reward_baseline": float(np.mean(baselines))} if baselines else {}),
    }


def mean_parts(scores: Sequence[Score]) -> dict[str, float]:
    """Mean of each part, over the scores that have it."""
    names = dict.fromkeys(name for score in scores for name in score.parts)
    return {name: float(np.mean([score.parts[name] for score in scores if name in score.parts])) for name in names}


def length_metrics(infos: Sequence[EpisodeInfo]) -> dict[str, float]:
    lengths = [info.num_loss_tokens for info in infos]
    return {
        "completion_tokens": float(np.mean(lengths)),
        "tokens": float(sum(info.num_tokens for info in infos)),
        "truncated": float(np.mean([info.stop == "length" for info in infos])),
        "repetition": float(np.mean([info.repetition for info in infos])),
    }


def failure_metrics(groups: Sequence[Group]) -> dict[str, float]:
    failures = [info.score for group in groups for info in group.infos if isinstance(info.score, Failure)]
    kinds = {kind: sum(failure.kind == kind for failure in failures) for kind in {f.kind for f in failures}}
    return {"failures": float(len(failures)), **{f"failures/{kind}": float(n) for kind, n in sorted(kinds.items())}}


def set_metrics(groups: Sequence[Group], rejected: Sequence[Group]) -> dict[str, float]:
    """Return reward, length, truncation and repetition of each prompt set by name, as `SET/reward`, and the share of
    its groups, rejected ones included, in which all rewards are equal; empty without sets."""
    figures: dict[str, float] = {}
    everything = [*groups, *rejected]
    for name in sorted({group.prompt.data_set for group in everything} - {""}):
        infos = [info for group in groups if group.prompt.data_set == name for info in group.infos]
        values = [info.score.value for info in infos if isinstance(info.score, Score) and info.trained]
        alike = [is_without_spread(group) for group in everything if group.prompt.data_set == name]
        found = {"without_spread": float(np.mean(alike)), "prompts": float(len(alike))}
        if values:
            lengths = length_metrics(infos)
            found |= {"reward": float(np.mean(values)), **{key: lengths[key] for key in SET_LENGTHS}}
        figures |= {f"{name}/{figure}": value for figure, value in found.items()}
    return figures


def is_without_spread(group: Group) -> bool:
    """Return whether a group's rewards are all equal, so that it teaches nothing relative to itself."""
    return len({info.score.value for info in group.infos if isinstance(info.score, Score)}) < 2


SET_LENGTHS = ("completion_tokens", "truncated", "repetition")
