"""A run whose input has been checked: everything that can be known before accelerators are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf.actors.plan import Plan, RolePlan, make_plan
from rlhf.actors.sampler_worker import SamplerSpec
from rlhf.algorithms.base import Algorithm
from rlhf.config import OnlineConfig
from rlhf.data.prompts import load_prompts
from rlhf.environments.single_turn import single_turn
from rlhf.models.causal_lm import SamplingDistribution, context_length, read_model_config, vocab_size
from rlhf.models.tokenizer import load_tokenizer, special_ids_to_ban, stop_token_ids
from rlhf.rewards.base import load_reward
from rlhf.stages.report import show_table
from rlhf.types import InputError, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run whose input has been checked."""

    config: OnlineConfig
    tokenizer: PreTrainedTokenizerBase
    prompts: list[Prompt]
    algorithm: Algorithm
    sampling: Sampling
    distribution: SamplingDistribution
    stop_token_ids: tuple[int, ...]
    plan: Plan


def prepare(config: OnlineConfig) -> Job:
    """Everything that can be known before accelerators are held."""
    load_reward(config.reward)
    model_config = read_model_config(config.model)
    tokenizer = load_tokenizer(config.model)
    context, longest = config.sampler.context_tokens, context_length(model_config)
    if context > longest:
        raise InputError(
            f"sampler.context_tokens={context}: the model {config.model} was made for {longest} tokens; lower it"
        )
    if config.backend.max_tokens_per_microbatch < context:
        raise InputError(
            f"backend.max_tokens_per_microbatch={config.backend.max_tokens_per_microbatch}: a sequence may have "
            f"sampler.context_tokens={context} tokens and must fit; raise it to at least that"
        )
    prompts = load_prompts(
        config.data, tokenizer, context_tokens=context, max_completion_tokens=config.sampling.max_tokens
    )
    if config.train.num_minibatches > config.stream.prompts_per_step:
        raise InputError(
            f"train.num_minibatches={config.train.num_minibatches}: there are only stream.prompts_per_step="
            f"{config.stream.prompts_per_step} groups to deal; lower it"
        )
    stop_ids = stop_token_ids(config.model, tokenizer)
    sampling = Sampling(temperature=config.sampling.temperature, max_tokens=config.sampling.max_tokens)
    algorithm = config.algorithm.build(sampling)
    return Job(
        config=config,
        tokenizer=tokenizer,
        prompts=prompts,
        algorithm=algorithm,
        sampling=sampling,
        distribution=SamplingDistribution(
            temperature=sampling.temperature,
            banned_token_ids=tuple(special_ids_to_ban(tokenizer, vocab_size(model_config), stop_ids)),
        ),
        stop_token_ids=stop_ids,
        plan=plan_roles(config),
    )


def plan_roles(config: OnlineConfig) -> Plan:
    placement, sampler = config.placement, config.sampler
    roles = [RolePlan(role="policy", num_workers=placement.policy)]
    if config.algorithm.reads_reference:
        roles.append(RolePlan(role="reference", num_workers=placement.reference))
    engines = RolePlan(
        role="sampler", num_workers=sampler.num_engines, accelerators_per_worker=sampler.tensor_parallel_size
    )
    return make_plan([*roles, engines])


def show_arithmetic(job: Job) -> None:
    config, prompt = job.config, job.prompts[0]
    prompts, group_size = config.stream.prompts_per_step, len(job.algorithm.requests(prompt))
    rollouts, updates = prompts * group_size, config.train.updates_per_step
    epochs = config.train.num_steps * prompts / len(job.prompts)
    longest = max(len(prompt.token_ids) for prompt in job.prompts)
    show_table(
        "Batch arithmetic, all figures global",
        ("quantity", "value", "from"),
        [
            ("prompts", len(job.prompts), f"{config.data.path}; the longest has {longest} tokens"),
            ("prompts per step", prompts, "stream.prompts_per_step"),
            ("rollouts per step", rollouts, f"x {group_size} per prompt (algorithm.group_size)"),
            ("prompts in flight", prompts * (config.stream.max_staleness + 1), "x (stream.max_staleness + 1)"),
            ("optimiser steps per step", updates, "train.num_minibatches x train.num_epochs"),
            ("rollouts per optimiser step", f"about {rollouts // config.train.num_minibatches}", "split by tokens"),
            ("training steps", config.train.num_steps, f"{epochs:.1f} epochs"),
        ],
    )  # fmt: skip


def sampler_spec(job: Job) -> SamplerSpec:
    config = job.config
    return SamplerSpec(
        model_path=config.model,
        sampler=config.sampler,
        precision=config.backend.precision,
        banned_token_ids=job.distribution.banned_token_ids,
        stop_token_ids=job.stop_token_ids,
        environment=single_turn,
        reward=config.reward,
        seed=config.seed,
    )
