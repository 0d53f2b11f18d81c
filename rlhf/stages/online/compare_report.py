"""Report of a comparison of policies: metrics with uncertainty, win rates, and training costs."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rlhf.config import CompareConfig
from rlhf.evaluation.win_rate import WinRate, win_rate
from rlhf.ops.intervals import Estimate, estimate_mean, estimate_share
from rlhf.stages.console import CONSOLE, markdown_table, show_table
from rlhf.stages.inputs import paths_of, read_json, training_cost
from rlhf.stages.online.conclude import SHOWN_CHARACTERS
from rlhf.train.artifact import MANIFEST, without_nan
from rlhf.train.measure import successes
from rlhf.train.metrics import mean_parts
from rlhf.train.run_folder import CONFIG
from rlhf.types import Group, Score

TABLE, RECORD, PLOT = "report.md", "report.json", "report.png"
LEGEND = (
    "Intervals: 95 %, over prompts, as samples of one prompt are not independent: Agresti-Coull at the effective "
    "number of samples for success, win rates and rewards of two values, Student's and Hall's t for other rewards and "
    "KL, which have none if all prompts are equal or there is only one. A win is a higher mean reward on a prompt, a "
    "tie counts half, p is of a sign test. KL: log pi - log ref of the policy's own completions, in nats; per "
    "completion: mean over prompts. Training: all runs that led to the policy and not to the reference; tokens include "
    "prompts."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFigures:
    """Metrics of a policy."""

    success: Estimate
    reward: Estimate
    parts: Mapping[str, float]
    """Mean of each part of the reward."""
    kl_per_sequence: Estimate
    kl_per_token: float
    completion_tokens: float
    failures: int
    """Number of rollouts without a reward; they count as no success, and are left out of other metrics."""
    training_seconds: float
    training_tokens: float
    trained_in: Sequence[str]
    """Folders of the runs that led to the policy."""
    rewards: Sequence[float | None]
    """Mean reward of each prompt; None if all its rollouts failed."""

    def headlines(self) -> dict[str, float]:
        return {
            "success": self.success.mean,
            "reward": self.reward.mean,
            "kl_per_token": self.kl_per_token,
            "completion_tokens": self.completion_tokens,
            "training_seconds": self.training_seconds,
            "training_tokens": self.training_tokens,
        }


def measure_policy(
    config: CompareConfig,
    model: str,
    groups: Sequence[Group],
    nats: np.ndarray,  # [completions], log pi - log ref of each completion that has a reward
    prompts: np.ndarray,  # [completions] int, equal for completions of one prompt
) -> PolicyFigures:
    infos = [info for group in groups for info in group.infos]
    scored = [info for info in infos if isinstance(info.score, Score)]
    scores = [info.score for info in scored if isinstance(info.score, Score)]
    reached = [successes(group.infos, config.validation) for group in groups]
    num_tokens = sum(info.num_loss_tokens for info in scored)
    runs = runs_behind(Path(model)) - runs_behind(Path(config.model))
    costs = [training_cost(run) for run in sorted(runs)]
    return PolicyFigures(
        success=estimate_share(np.concatenate(reached), np.repeat(np.arange(len(groups)), [*map(len, reached)])),
        reward=estimate_mean(
            np.array([score.value for score in scores]),
            np.repeat(np.arange(len(groups)), [len(group.survivors) for group in groups]),
        ),
        parts=mean_parts(scores),
        kl_per_sequence=estimate_mean(nats, prompts),
        kl_per_token=float(nats.sum() / max(num_tokens, 1)),
        completion_tokens=num_tokens / len(scored),
        failures=len(infos) - len(scored),
        training_seconds=sum(seconds for seconds, _ in costs),
        training_tokens=sum(tokens or 0.0 for _, tokens in costs),
        trained_in=[str(run) for run in sorted(runs)],
        rewards=[mean_reward(group) for group in groups],
    )


def mean_reward(group: Group) -> float | None:
    values = [info.score.value for info in group.infos if isinstance(info.score, Score)]
    return float(np.mean(values)) if values else None


def runs_behind(model: Path) -> set[Path]:
    """Return the run folders of a model trained by this project, and of all models that it was made from."""
    root = model.resolve().parent
    if not (model / MANIFEST).is_file() or not (root / CONFIG).is_file():
        return set()
    above = paths_of(read_json(model / MANIFEST)["config"]).values()
    return {root}.union(*(runs_behind(Path(path)) for path in above))


def compare_pairs(figures: Mapping[str, PolicyFigures]) -> dict[tuple[str, str], WinRate]:
    """Compare each policy with each one before it, on the prompts for which both have a reward."""
    found = {}
    for other, one in itertools.combinations(figures, 2):
        pairs = zip(figures[one].rewards, figures[other].rewards, strict=True)
        both = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
        if not both:
            continue  # no prompt has a reward of both
        found[one, other] = win_rate([ours for ours, _ in both], [theirs for _, theirs in both])
    return found


def write_comparison(
    figures: Mapping[str, PolicyFigures], texts: Mapping[str, Sequence[tuple[str, str]]], folder: Path
) -> None:
    """Write table, record and plot to `folder`, and show the table; `texts` are prompts with completions."""
    header, rows = ("", *figures), side_by_side(figures)
    pairs = compare_pairs(figures)
    pair_header = ("", "win rate", "wins / ties / losses", "p")
    pair_rows = [
        (
            f"{one} against {other}",
            f"{won.rate:.3f} ({won.interval[0]:.3f} to {won.interval[1]:.3f})",
            f"{won.num_wins} / {won.num_ties} / {won.num_losses}",
            f"{won.p_value:.2g}",
        )
        for (one, other), won in pairs.items()
    ]
    said = [
        [prompt, *(textwrap.shorten(texts[name][i][1], SHOWN_CHARACTERS) for name in figures)]
        for i, (prompt, _) in enumerate(next(iter(texts.values())))
    ]
    said_header = ("prompt", *figures)
    tables = [markdown_table(header, rows), markdown_table(pair_header, pair_rows) if pairs else "", LEGEND]
    tables += [f"![Figures and rewards]({PLOT})", markdown_table(said_header, said)]
    (folder / TABLE).write_text("\n".join(f"{each}\n" for each in tables if each), encoding="utf-8")
    record = {
        "policies": {name: asdict(each) for name, each in figures.items()},
        "pairs": [{"one": one, "other": other, **asdict(won)} for (one, other), won in pairs.items()],
    }
    (folder / RECORD).write_text(json.dumps(without_nan(record), indent=1), encoding="utf-8")
    plot(figures, folder / PLOT)
    show_table("Completions", said_header, said)
    show_table("Side by side", header, rows)
    if pairs:
        show_table("Each against each", pair_header, pair_rows)
    CONSOLE.print(LEGEND, soft_wrap=True)


def side_by_side(figures: Mapping[str, PolicyFigures]) -> list[list[str]]:
    each = list(figures.values())
    part_names = list(dict.fromkeys(name for policy in each for name in policy.parts))
    return [
        ["success", *(str(policy.success) for policy in each)],
        ["reward", *(str(policy.reward) for policy in each)],
        *([f"reward: {name}", *(f"{policy.parts[name]:.4g}" for policy in each)] for name in part_names),
        ["KL per token", *(f"{policy.kl_per_token:.4g}" for policy in each)],
        ["KL per completion", *(str(policy.kl_per_sequence) for policy in each)],
        ["completion tokens", *(f"{policy.completion_tokens:.4g}" for policy in each)],
        ["failures", *(str(policy.failures) for policy in each)],
        ["training seconds", *(f"{policy.training_seconds:.1f}" for policy in each)],
        ["training tokens", *(f"{policy.training_tokens:.0f}" for policy in each)],
        ["trained in", *(", ".join(Path(run).name for run in policy.trained_in) for policy in each)],
    ]


def plot(figures: Mapping[str, PolicyFigures], path: Path) -> None:
    """Plot bars with intervals, and for each policy the cumulative distribution of the prompts' rewards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    estimates = {
        "success": [each.success for each in figures.values()],
        "reward": [each.reward for each in figures.values()],
        "KL per completion (nats)": [each.kl_per_sequence for each in figures.values()],
    }
    plain = {
        "training seconds": [each.training_seconds for each in figures.values()],
        "training tokens": [each.training_tokens for each in figures.values()],
    }
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.5), layout="constrained")
    colours = [f"C{i}" for i in range(len(figures))]
    for axis, (title, values) in zip(axes.flat, estimates.items(), strict=False):
        arms = np.nan_to_num([[each.mean - each.low, each.high - each.mean] for each in values]).T
        axis.bar(list(figures), [each.mean for each in values], yerr=arms, capsize=4, color=colours)
        axis.set(title=title)
    for axis, (title, heights) in zip(axes.flat[3:], plain.items(), strict=False):
        axis.bar(list(figures), heights, color=colours)
        axis.set(title=title)
    for (name, policy), colour in zip(figures.items(), colours, strict=True):
        rewards = sorted(reward for reward in policy.rewards if reward is not None)
        axes.flat[5].step(
            rewards, np.arange(1, len(rewards) + 1) / len(rewards), where="post", label=name, color=colour
        )
    axes.flat[5].set(title="share of prompts with at most this reward", xlabel="mean reward of a prompt")
    axes.flat[5].legend()
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
