"""The method of a run: what the configuration leaves to the run is chosen, and what contradicts it refused."""

from __future__ import annotations

from dataclasses import replace
from inspect import get_annotations, getattr_static

from rlhf.algorithms.base import Algorithm, AlgorithmConfig
from rlhf.algorithms.correction import CorrectionConfig
from rlhf.algorithms.dapo import DAPOConfig
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.config import OnlineConfig
from rlhf.lookup import spec_of
from rlhf.ops.correction import TRUNCATING, CorrectionKind
from rlhf.runtimes.configs import Precision
from rlhf.stages.online.parts import check_part
from rlhf.types import InputError, Sampling

UNCORRECTED = (
    "warning: algorithm.correction.kind=off with stream.max_staleness={staleness}: the gradient takes stale tokens for "
    "on-policy ones, and is off by 10, 30 or 63 % where a token's log-ratio deviates by 0.1, 0.3 or 0.6 "
    "(benchmarks/correction_error.py); leave the kind at auto, or watch train/rollout_ess"
)

PUNISHED_TWICE = (
    "warning: algorithm.overlong_buffer={own} and reward.shaping.overlong_buffer={buffer} punish a long completion "
    "twice; set algorithm.overlong_buffer=0 or reward.shaping.overlong_buffer=null"
)


def method_of(config: OnlineConfig, sampling: Sampling) -> Algorithm:
    """Return the method of a run, with the correction that the run chose. Raises InputError if parts of the
    configuration contradict each other."""
    method = config.algorithm
    if isinstance(method, GRPOConfig) and method.dynamic_sampling_part is not None:
        check_part("algorithm.dynamic_sampling_part", method.dynamic_sampling_part, config)
    return build_algorithm(replace(method, correction=chosen_correction(config)), sampling)


def chosen_correction(config: OnlineConfig) -> CorrectionConfig:
    """Return the correction with its kind: `auto` is none if engine and learner agree but for rounding in fp32."""
    given = config.algorithm.correction
    if given.kind is not CorrectionKind.auto:
        return given
    if reasons(config):
        return replace(given, kind=CorrectionKind.token_truncate)
    return CorrectionConfig(kind=CorrectionKind.off)


def reasons(config: OnlineConfig) -> list[str]:
    """Return the keys by which engine and learner have other probabilities of a token."""
    stale = [f"stream.max_staleness={config.stream.max_staleness}"] if config.stream.max_staleness else []
    return [*stale, *(["backend.precision=bf16"] if config.backend.precision is Precision.bf16 else [])]


def correction_line(config: OnlineConfig) -> str:
    """Describe the correction of a run in a line; a warning if tokens may be stale and none is made."""
    given, chosen = config.algorithm.correction, chosen_correction(config)
    low, high = chosen.bounds
    bounds = f"weights at most {high:g}" if chosen.kind in TRUNCATING else f"ratios from {low:g} to {high:g} are kept"
    if chosen.kind is CorrectionKind.off:
        if config.stream.max_staleness:
            return UNCORRECTED.format(staleness=config.stream.max_staleness)
        why = "rollouts are on-policy in fp32" if given.kind is CorrectionKind.auto else "as configured"
        return f"correction of the policy gradient: off, {why} (algorithm.correction.kind={given.kind.value})"
    why = f", because of {' and '.join(reasons(config))}" if given.kind is CorrectionKind.auto else ""
    name = f"algorithm.correction.kind={given.kind.value}"
    return f"correction of the policy gradient: {chosen.kind.value}, {bounds}{why} ({name})"


def method_lines(config: OnlineConfig) -> list[str]:
    """Describe the correction of a run, and warn of long completions that are punished twice."""
    method, buffer = config.algorithm, config.reward.shaping.overlong_buffer
    if isinstance(method, DAPOConfig) and method.overlong_buffer and buffer is not None:
        return [correction_line(config), PUNISHED_TWICE.format(own=method.overlong_buffer, buffer=buffer)]
    return [correction_line(config)]


def build_algorithm(config: AlgorithmConfig, sampling: Sampling) -> Algorithm:
    """The method of a configuration. Raises InputError if a class of the user's own does not build one."""
    has = f"algorithm has '{spec_of(type(config))}'"
    try:
        algorithm = config.build(sampling)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{has}, whose build raises {type(error).__name__}: {error}: correct it") from error
    # The critic's loss is looked at, not asked for: a method without one raises.
    wanted = {name for name in {*vars(Algorithm), *get_annotations(Algorithm)} if not name.startswith("_")}
    missing = sorted(name for name in wanted if getattr_static(algorithm, name, None) is None)
    if missing:
        raise InputError(
            f"{has}, whose build returns a {type(algorithm).__name__} without {', '.join(missing)}: return an instance "
            "of a class derived from rlhf.algorithms.policy_gradient.PolicyGradient, which has them"
        )
    return algorithm
