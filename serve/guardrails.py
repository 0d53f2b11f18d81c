"""What must not become worse: one question per guardrail, asked sequentially, so that every look may act."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serve.metrics import QUANTILES, scale
from serve.release_settings import LIMITS, GuardrailConfig
from serve.sequential import Evidence, exceeds, quantile_worse, worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one question says of a step."""

    against: str | None = None
    """Why the candidate has to go."""
    waits: tuple[str, ...] = ()
    """Why the step cannot be passed yet."""
    passes: tuple[str, ...] = ()
    """What is said for it if nothing else is the case."""
    final: bool = False
    """Whether waiting changes nothing any more."""
    evidence: dict[str, Any]


def inspect_guardrail(
    name: str,
    config: GuardrailConfig,
    ours: np.ndarray,  # [num_candidate], in the metric's unit, in order of entry
    theirs: np.ndarray,  # [num_predecessor]
    share: float,
) -> Finding:
    """Whether the candidate breaches a guardrail. `share`: the candidate's weight of both arms' together."""
    kind, given = next((kind, limit) for kind in LIMITS if (limit := getattr(config, kind)) is not None)
    relative = kind in ("at_most_ratio", "worse_by")
    test = (quantile_evidence if config.metric in QUANTILES else mean_evidence)(config, ours, theirs, share)
    value, baseline = typical(config, ours), typical(config, theirs)
    limit = absolute(config, baseline)
    at = f"guardrail {name}: {config.metric}"
    against = None
    if test.exceeded:
        of = f" of the predecessor's {shown(baseline)}" if relative else ""
        against = f"{at} is {shown(value)}, beyond the limit {shown(limit)} ({kind}={given:g}{of})"
    counts = {"candidate": len(ours), **({"predecessor": len(theirs)} if relative else {})}
    waits = [
        f"{at} has {count} of {config.min_samples} samples of the {arm}"
        for arm, count in counts.items()
        if count < config.min_samples
    ]
    if relative and not waits and test.limit is None:
        waits = [f"{at} has too few samples of the predecessor ({len(theirs)}) to bound its quantile"]
    evidence = {
        "metric": config.metric,
        kind: given,
        "candidate": value,
        "predecessor": baseline,
        "limit": limit,
        "num_candidate": len(ours),
        "num_predecessor": len(theirs),
        "alpha": config.alpha,
        "test": asdict(test),
    }
    return Finding(against=against, waits=tuple(waits), evidence=evidence)


def mean_evidence(config: GuardrailConfig, ours: np.ndarray, theirs: np.ndarray, share: float) -> Evidence:
    """Against the claim that a mean keeps its limit, of values scaled to [0, 1]."""
    ours, theirs = (scale(values, config.low, config.high) for values in (ours, theirs))
    span = config.high - config.low
    if config.at_most is not None:
        return exceeds(ours, (config.at_most - config.low) / span, alpha=config.alpha)
    if config.at_least is not None:
        return exceeds(1 - ours, (config.high - config.at_least) / span, alpha=config.alpha)
    if config.at_most_ratio is not None:
        return worse(ours, theirs, share=share, alpha=config.alpha, ratio=config.at_most_ratio)
    assert config.worse_by is not None
    if config.higher_is_better:
        ours, theirs = 1 - ours, 1 - theirs
    return worse(ours, theirs, share=share, alpha=config.alpha, by=config.worse_by / span)


def quantile_evidence(config: GuardrailConfig, ours: np.ndarray, theirs: np.ndarray, share: float) -> Evidence:
    """Against the claim that a quantile keeps its limit, of the shares of values beyond it."""
    quantile = QUANTILES[config.metric]
    if config.at_most is not None:
        return exceeds((ours > config.at_most).astype(float), 1 - quantile, alpha=config.alpha)
    if config.at_least is not None:
        return exceeds((ours < config.at_least).astype(float), quantile, alpha=config.alpha)
    ratio = 1.0 if config.at_most_ratio is None else config.at_most_ratio
    return quantile_worse(ours, theirs, quantile, alpha=config.alpha, ratio=ratio, by=config.worse_by or 0.0)


def typical(config: GuardrailConfig, values: np.ndarray) -> float | None:
    """The metric's value of one arm, in its own unit; None without any."""
    if not len(values):
        return None
    if config.metric in QUANTILES:
        return float(np.quantile(values, QUANTILES[config.metric]))
    return float(np.clip(values, config.low, config.high).mean())


def absolute(config: GuardrailConfig, baseline: float | None) -> float | None:
    """The limit in the metric's own unit; None while it depends on a predecessor without values."""
    if config.at_most is not None or config.at_least is not None:
        return config.at_most if config.at_least is None else config.at_least
    if baseline is None:
        return None
    if config.at_most_ratio is not None:
        return config.at_most_ratio * baseline
    assert config.worse_by is not None
    return baseline - config.worse_by if config.higher_is_better else baseline + config.worse_by


def shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
