"""A step's figures, flat, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf.types import Failure, Group, RolloutInfo, Score

if TYPE_CHECKING:
    from rlhf.train.online import StepReport


def step_metrics(report: StepReport) -> dict[str, float]:
    """Rewards, lengths, learning, failures, seconds, and what each role used of its accelerators."""
    infos = [info for group in report.groups for info in group.infos]
    lengths = length_metrics(infos)
    return {
        **reward_metrics(infos),
        **lengths,
        "tokens_per_second": lengths["tokens"] / report.seconds["step"],
        **{f"train/{name}": value for name, value in report.stats.values().items()},
        **failure_metrics([*report.groups, *report.rejected]),
        "staleness_max": float(
            max((report.step - info.versions[0] for info in infos if info.num_loss_tokens), default=0)
        ),
        **{f"seconds/{name}": value for name, value in report.seconds.items()},
        **{f"busy/{role}": use.busy for role, use in report.use.items() if use.busy is not None},
        **{f"memory_bytes/{role}": float(use.memory_bytes) for role, use in report.use.items()},
        **report.measured,
    }


def reward_metrics(infos: Sequence[RolloutInfo]) -> dict[str, float]:
    """Mean and spread of the reward, and the mean of each part of it, over rollouts that have one."""
    scores = [info.score for info in infos if isinstance(info.score, Score)]
    values = np.array([score.value for score in scores])
    parts = {name: [score.parts[name] for score in scores if name in score.parts] for name in scores[0].parts}
    return {
        "reward": float(values.mean()),
        "reward_std": float(values.std()),
        **{f"reward/{name}": float(np.mean(part)) for name, part in parts.items()},
    }


def length_metrics(infos: Sequence[RolloutInfo]) -> dict[str, float]:
    lengths = [info.num_loss_tokens for info in infos]
    return {
        "completion_tokens": float(np.mean(lengths)),
        "tokens": float(sum(info.num_tokens for info in infos)),
        "truncated": float(np.mean([info.stop == "length" for info in infos])),
    }


def failure_metrics(groups: Sequence[Group]) -> dict[str, float]:
    failures = [info.score for group in groups for info in group.infos if isinstance(info.score, Failure)]
    kinds = {kind: sum(failure.kind == kind for failure in failures) for kind in {f.kind for f in failures}}
    return {"failures": float(len(failures)), **{f"failures/{kind}": float(n) for kind, n in sorted(kinds.items())}}
