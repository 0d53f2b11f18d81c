"""Measurement of a policy on fixed prompts: rewards, success, pass@k, lengths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlhf.ops.intervals import Estimate, estimate_mean, estimate_share
from rlhf.ops.pass_at import pass_at
from rlhf.train.stream import GroupSource
from rlhf.train.validation import Measurement, ValidationConfig
from rlhf.types import EpisodeInfo, Failure, Group, InputError, Prompt, Reference, RunError, Sampling, Score

MEASUREMENT_EPOCH = -1
"""Epoch of measurements, from which their seeds are derived; no epoch of training has this number."""


async def measure(
    source: GroupSource,
    fetch: Callable[[Sequence[Reference]], list[Any]],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    config: ValidationConfig,
) -> Measurement:
    """Sample the prompts, with the same seeds for every policy. Raises RunError if only greedy episodes fail."""
    requests = [sampling] * config.samples_per_prompt
    if config.greedy:
        requests.append(Sampling(temperature=0.0, max_tokens=sampling.max_tokens))
    groups = await sample(source, prompts, requests)
    shown = groups[: config.num_shown]
    return Measurement(
        success=success_of(groups, config),
        figures=figures_of(groups, config),
        samples=first_answers(shown, fetch),
    )


async def sample(source: GroupSource, prompts: Sequence[Prompt], requests: Sequence[Sampling]) -> list[Group]:
    """Sample episodes of the prompts, with the same seeds for every policy."""
    return await asyncio.gather(*(source.collect(prompt, MEASUREMENT_EPOCH, requests) for prompt in prompts))


def sampled(group: Group, config: ValidationConfig) -> Sequence[EpisodeInfo]:
    """Return the episodes sampled as in training; a greedy one may follow them."""
    return group.infos[: config.samples_per_prompt]


def successes(infos: Sequence[EpisodeInfo], config: ValidationConfig) -> list[bool]:
    """Return for each episode whether its reward reached the threshold."""
    return [isinstance(info.score, Score) and measured(info.score, config) >= config.threshold for info in infos]


def measured(score: Score, config: ValidationConfig) -> float:
    """The score, or the part of it that success is measured by. Raises InputError if it has no such part."""
    if config.part is None:
        return score.value
    if config.part not in score.parts:
        raise InputError(
            f"validation.part={config.part}: the score of an episode has no such part; it has "
            f"{', '.join(score.parts) or 'none'}; name one of them, or leave it null"
        )
    return score.parts[config.part]


def success_of(groups: Sequence[Group], config: ValidationConfig) -> Estimate:
    """Return the success rate of the sampled episodes, with its interval over prompts."""
    reached = [successes(sampled(group, config), config) for group in groups]
    return estimate_share(np.concatenate(reached), np.repeat(np.arange(len(groups)), [*map(len, reached)]))


def figures_of(groups: Sequence[Group], config: ValidationConfig) -> dict[str, float]:
    """Return all metrics of a validation by name."""
    infos = [info for group in groups for info in sampled(group, config)]
    figures = {
        **as_figures("success", success_of(groups, config)),
        **reward_figures([sampled(group, config) for group in groups]),
        **pass_figures(groups, config),
        "completion_tokens": float(np.mean([info.num_loss_tokens for info in infos])),
        "truncated": float(np.mean([info.stop == "length" for info in infos])),
        "repetition": float(np.mean([info.repetition for info in infos])),
        "failures": float(sum(isinstance(info.score, Failure) for info in infos)),
    }
    return figures | source_figures(groups, config) | greedy_figures(groups, config)


def as_figures(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def reward_figures(by_prompt: Sequence[Sequence[EpisodeInfo]]) -> dict[str, float]:
    """Return the mean over prompts of the mean reward, with its interval; empty if no episode has a reward."""
    pairs = [(info.score.value, i) for i, infos in enumerate(by_prompt) for info in infos
             if isinstance(info.score, Score)]  # fmt: skip
    if not pairs:
        return {}
    values, prompts = zip(*pairs, strict=True)
    return as_figures("reward", estimate_mean(np.array(values), np.array(prompts)))


def pass_figures(groups: Sequence[Group], config: ValidationConfig) -> dict[str, float]:
    """Return pass@k for each k, with its interval over prompts."""
    right = np.array([sum(successes(sampled(group, config), config)) for group in groups])
    samples = np.full_like(right, config.samples_per_prompt)
    figures: dict[str, float] = {}
    for k in config.pass_at:
        figures |= as_figures(f"pass@{k}", estimate_share(pass_at(right, samples, k), np.arange(len(groups))))
    return figures


def source_of(prompt: Prompt, config: ValidationConfig) -> str | None:
    """Return the source of a prompt: the value of its field `source_key`, else the name of its set; None without."""
    if config.source_key is not None:
        return str(prompt.meta[config.source_key])
    return prompt.data_set or None


def source_figures(groups: Sequence[Group], config: ValidationConfig) -> dict[str, float]:
    """Return mean reward and success of each source, as `SOURCE/reward` and `SOURCE/success`; empty without sources."""
    by_source: dict[str, list[Group]] = {}
    for group in groups:
        if (source := source_of(group.prompt, config)) is not None:
            by_source.setdefault(source, []).append(group)
    figures: dict[str, float] = {}
    for source, each in sorted(by_source.items()):
        found = {
            **reward_figures([sampled(group, config) for group in each]),
            **as_figures("success", success_of(each, config)),
        }
        figures |= {f"{source}/{name}": value for name, value in found.items()}
    return figures


def greedy_figures(groups: Sequence[Group], config: ValidationConfig) -> dict[str, float]:
    """Return reward and success of the greedy episodes. Raises RunError if they alone fail: the engine cannot."""
    if not config.greedy:
        return {}
    greedy = [group.infos[config.samples_per_prompt :] for group in groups]
    failures = [info.score for infos in greedy for info in infos if isinstance(info.score, Failure)]
    sampling_works = any(isinstance(info.score, Score) for group in groups for info in sampled(group, config))
    if sampling_works and len(failures) == len(groups):
        raise RunError(
            f"validation.greedy=true: all {len(failures)} episodes at temperature 0 failed, and not all others; the "
            f"last one: {failures[-1].kind}: {failures[-1].message}; let sampler.engine and environment take "
            "temperature 0, or set validation.greedy=false"
        )
    reached = np.array([successes(infos, config)[0] for infos in greedy])
    found = {**as_figures("success", estimate_share(reached, np.arange(len(groups)))), **reward_figures(greedy)}
    return {f"greedy/{name}": value for name, value in found.items()}


def figure_names(config: ValidationConfig, prompts: Sequence[Prompt]) -> list[str]:
    """Return the metrics that a validation of the prompts has, without the ends of their intervals."""
    sources = {source_of(prompt, config) for prompt in prompts} - {None}
    nested = [*sorted(map(str, sources)), *(["greedy"] if config.greedy else [])]
    return [
        "success",
        "reward",
        *(f"pass@{k}" for k in config.pass_at),
        "completion_tokens",
        "truncated",
        "repetition",
        "failures",
        *(f"{name}/{figure}" for name in nested for figure in ("success", "reward")),
        *(f"{figure}/{name}" for name in config.texts for figure in ("perplexity", "nats_per_token")),
    ]


def first_answers(groups: Sequence[Group], fetch: Callable[[Sequence[Reference]], list[Any]]) -> list[tuple[str, str]]:
    """Return each group's prompt, and the text with which its first episode ends."""
    answers = []
    for group, rollouts in zip(groups, fetch([group.rollouts for group in groups]), strict=True):
        first = group.episodes(rollouts)[0]
        answers.append((group.prompt.messages[-1]["content"], first.rows[-1].text))
    return answers
