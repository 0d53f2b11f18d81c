"""Preparation of a run: all checks that are possible before accelerators are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf.actors.plan import Plan, RolePlan, lay_out, make_plan
from rlhf.algorithms.base import Algorithm
from rlhf.config import OnlineConfig
from rlhf.data.dialogues import Dialogue
from rlhf.data.encoding import refuse_unscored
from rlhf.data.files import errors_at
from rlhf.data.template_clock import fix_date
from rlhf.environments.lookup import find_environment
from rlhf.lookup import with_absolute_path
from rlhf.models.causal_lm import (
    SamplingDistribution,
    check_tensor_parallel,
    context_length,
    read_model_config,
    refuse_experts,
    vocab_size,
)
from rlhf.models.chat_template import load_chat_tokenizer
from rlhf.models.heads import Head, config_for
from rlhf.models.reward_model import check_reward_model, check_vocabulary
from rlhf.models.tokenizer import load_tokenizer, special_ids_to_ban, stop_token_ids
from rlhf.rewards.base import ModelInput, RewardConfig, load_reward
from rlhf.runtimes.carriers import carrier_class
from rlhf.runtimes.configs import VLLM
from rlhf.runtimes.engines import find_engine
from rlhf.runtimes.transport import AdapterForm, Transport
from rlhf.stages.console import show_table
from rlhf.stages.online.held_out import HeldOut, hold_out
from rlhf.stages.online.lora import check_adapters, check_quantised
from rlhf.stages.online.method import method_of
from rlhf.stages.online.teacher import check_teacher, plan_teacher
from rlhf.stages.online.texts import load_texts, text_rows
from rlhf.types import InputError, Prompt, Sampling, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run whose input has been checked."""

    config: OnlineConfig
    tokenizer: PreTrainedTokenizerBase
    held_out: HeldOut
    texts: dict[str, list[Unit]]
    """Rows of each held-out text, `validation.texts`."""
    algorithm: Algorithm
    sampling: Sampling
    distribution: SamplingDistribution
    stop_token_ids: tuple[int, ...]
    plan: Plan

    @property
    def prompts(self) -> list[Prompt]:
        """Return the prompts that are trained on."""
        return self.held_out.train

    @property
    def measured_prompts(self) -> list[Prompt]:
        """Return the prompts on which success is measured: held-out ones, or those of the training if there are
        none."""
        return (self.held_out.prompts or self.prompts)[: self.config.validation.num_prompts]


def prepare(config: OnlineConfig) -> Job:
    """Check the input and load everything that needs no accelerator."""
    if config.reward.functions:
        load_reward(config.reward)
    config.reward.judge.api_key()
    if config.sampler.engine != VLLM:
        find_engine(config.sampler.engine)
    find_environment(config.environment, config.environment_options)
    model_config = read_model_config(config.model)
    check_model(config, model_config)
    tokenizer = load_chat_tokenizer(config.model, config.chat_template, config.chat_template_kwargs)
    fix_date(tokenizer, config.template_date)
    plan = plan_roles(config)
    check_adapters(config)
    check_roles(config, tokenizer)
    check_teacher(config, tokenizer)
    held_out = hold_out(config, tokenizer)
    check_judged(config.reward, [*held_out.train, *held_out.prompts])
    if config.train.num_minibatches > config.stream.prompts_per_step:
        raise InputError(
            f"train.num_minibatches={config.train.num_minibatches}: there are only stream.prompts_per_step="
            f"{config.stream.prompts_per_step} groups to deal; lower it"
        )
    stop_ids = stop_token_ids(config.model, tokenizer)
    sampling = Sampling(temperature=config.sampling.temperature, max_tokens=config.sampling.max_tokens)
    algorithm = method_of(config, sampling)
    return Job(
        config=config,
        tokenizer=tokenizer,
        held_out=held_out,
        texts=load_texts(config, tokenizer),
        algorithm=algorithm,
        sampling=sampling,
        distribution=SamplingDistribution(
            temperature=sampling.temperature,
            banned_token_ids=tuple(special_ids_to_ban(tokenizer, vocab_size(model_config), stop_ids)),
        ),
        stop_token_ids=stop_ids,
        plan=plan,
    )


def check_model(config: OnlineConfig, model_config: dict[str, Any]) -> None:
    """Check the policy's folder against the configuration."""
    refuse_experts(config.model, model_config)
    check_tensor_parallel(config.model, model_config, config.sampler.tensor_parallel_size)
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


def plan_roles(config: OnlineConfig) -> Plan:
    """Plan the roles of a run and their placement. Raises InputError if placement and algorithm contradict each
    other."""
    placement, sampler = config.placement, config.sampler
    on_cpu = config.backend.offload_optimizer
    roles = [RolePlan(role="policy", num_workers=placement.policy, steps_on_cpu=on_cpu)]
    if config.algorithm.reads_reference and not config.lora.enabled:
        roles.append(RolePlan(role="reference", num_workers=placement.reference))
    roles += plan_teacher(config)
    if config.algorithm.has_critic:
        if placement.critic == 0:
            raise InputError(
                "placement.critic=0: PPO learns a critic; give it at least 1 accelerator, or leave it null"
            )
        num_critics = 1 if placement.critic is None else placement.critic
        roles.append(RolePlan(role="critic", num_workers=num_critics, steps_on_cpu=on_cpu))
    elif placement.critic or config.critic.model is not None:
        name = type(config.algorithm).__name__.removesuffix("Config")
        raise InputError(
            f"placement.critic={placement.critic}, critic.model={config.critic.model}: {name} has no critic; leave "
            "both null, or use algorithm=ppo"
        )
    if config.reward.model is not None:
        roles.append(RolePlan(role="reward", num_workers=1 if placement.reward is None else placement.reward))
    elif placement.reward:
        raise InputError(
            f"placement.reward={placement.reward}: there is no reward model; set reward.model to its folder, or leave "
            "placement.reward null"
        )
    engines = RolePlan(
        role="sampler", num_workers=sampler.num_engines, accelerators_per_worker=sampler.tensor_parallel_size
    )
    plan = make_plan([*roles, engines], placement.colocate)
    check_sharing(config, plan)
    check_transport(config, plan)
    if placement.num_nodes is not None and placement.accelerators_per_node is not None:
        lay_out(plan, [placement.accelerators_per_node] * placement.num_nodes)
    return plan


def check_sharing(config: OnlineConfig, plan: Plan) -> None:
    check_quantised(config, plan)
    for group in plan.groups:
        names = [role.role for role in group.roles]
        if len(names) > 1 and {"policy", "critic"} & set(names) and config.backend.zero_stage != 3:
            raise InputError(
                f"placement.colocate has {group.name}, backend.zero_stage={config.backend.zero_stage}: a learner that "
                "shares accelerators releases its memory through ZeRO 3; set backend.zero_stage=3"
            )
        if "sampler" in names and set(names) - {"sampler", "reward"} and config.stream.max_staleness > 0:
            raise InputError(
                f"placement.colocate has {group.name}, stream.max_staleness={config.stream.max_staleness}: engines "
                "that take turns cannot sample ahead; set stream.max_staleness=0, or remove the sampler from the list"
            )


def check_transport(config: OnlineConfig, plan: Plan) -> None:
    transport, shared = config.weight_sync.transport, plan.group_of("policy") == plan.group_of("sampler")
    if transport == Transport.nccl and shared:
        raise InputError(
            f"weight_sync.transport=nccl, placement.colocate={config.placement.colocate}: NCCL joins no two processes "
            "on one GPU, and policy and sampler share theirs; choose cuda_ipc or object_store, or leave it null"
        )
    if transport is not None and carrier_class(transport).from_every_rank and not can_map_memory(config, plan):
        raise InputError(
            f"weight_sync.transport={transport}, placement.colocate={config.placement.colocate}: engines map the "
            "memory of the policy's rank on the same accelerator; let policy and sampler share, with no more engines "
            "than ranks, or choose nccl"
        )


def can_map_memory(config: OnlineConfig, plan: Plan) -> bool:
    """Return whether every engine shares its accelerator with a rank of the policy."""
    return plan.group_of("policy") == plan.group_of("sampler") and config.sampler.num_engines <= config.placement.policy


def transport_of(config: OnlineConfig, plan: Plan, *, on_gpus: bool) -> str:
    """Return the configured transport, else the fastest that placement and machines allow. Raises InputError if the
    configured one needs GPUs and the cluster has none."""
    asked = config.weight_sync.transport
    if asked in (Transport.nccl, Transport.cuda_ipc) and not on_gpus:
        raise InputError(
            f"weight_sync.transport={asked}: the cluster has no GPU; set it to gloo or object_store, or leave it null"
        )
    if asked is not None:
        return with_absolute_path(asked)
    if not on_gpus or config.weight_sync.adapter is AdapterForm.alone:
        return Transport.object_store
    if can_map_memory(config, plan):
        return Transport.cuda_ipc
    return Transport.object_store if plan.group_of("policy") == plan.group_of("sampler") else Transport.nccl


def check_roles(config: OnlineConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check the model folders of the roles other than the policy."""
    if config.algorithm.has_critic:
        critic = config.critic.model or config.model
        refuse_experts(critic, read_model_config(critic))
        config_for(critic, Head.value)
        if critic != config.model:
            check_vocabulary("critic.model", critic, config.model, tokenizer)
    reward = config.reward
    if reward.model is not None:
        check_judge("reward.model", reward.model, config, tokenizer)
    for folder in reward.ensemble:
        check_judge("reward.ensemble", folder, config, tokenizer)


def check_judge(key: str, folder: str, config: OnlineConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check the folder of a reward model."""
    longest = check_reward_model(folder)
    if config.reward.model_input is ModelInput.text:
        load_tokenizer(folder)
        return
    check_vocabulary(key, folder, config.model, tokenizer)
    if longest < config.sampler.context_tokens:
        raise InputError(
            f"{key}={folder}: it was made for {longest} tokens, a rollout may have "
            f"sampler.context_tokens={config.sampler.context_tokens}; lower that, or choose another reward model"
        )


def check_judged(reward: RewardConfig, prompts: Sequence[Prompt]) -> None:
    """Raise InputError if a reward model that reads text would ignore a part of a prompt, such as its tools."""
    folders = [reward.model, *reward.ensemble] if reward.model and reward.model_input is ModelInput.text else []
    for tokenizer in map(load_tokenizer, folders):
        for prompt in prompts:
            with errors_at(prompt.source):
                answered = [*prompt.messages, {"role": "assistant", "content": "."}]
                refuse_unscored(tokenizer, Dialogue(answered, prompt.tools))


def show_arithmetic(job: Job) -> None:
    config, prompt = job.config, job.prompts[0]
    requests = job.algorithm.requests(prompt)
    prompts, group_size = config.stream.prompts_per_step, len(requests)
    baselines = sum(not request.trained for request in requests)
    beside = f", {baselines} of them a baseline that is not learnt from" if baselines else ""
    rollouts, updates = prompts * group_size, config.train.updates_per_step
    epochs = config.train.num_steps * prompts / len(job.prompts)
    longest = max(len(prompt.token_ids) for prompt in job.prompts)
    show_table(
        "Batch arithmetic, all figures global",
        ("quantity", "value", "from"),
        [
            ("prompts", len(job.prompts), f"{config.data.origin}; the longest has {longest} tokens"),
            ("prompts held out", len(job.held_out.prompts) or "none", job.held_out.origin),
            *text_rows(config, job.texts),
            ("prompts per step", prompts, "stream.prompts_per_step"),
            ("rollouts per step", rollouts, f"x {group_size} per prompt (algorithm.group_size){beside}"),
            ("prompts in flight", prompts * (config.stream.max_staleness + 1), "x (stream.max_staleness + 1)"),
            ("optimiser steps per step", updates, "train.num_minibatches x train.num_epochs"),
            ("rollouts per optimiser step", f"about {rollouts // config.train.num_minibatches}", "split by tokens"),
            ("training steps", config.train.num_steps, f"{epochs:.1f} epochs"),
        ],
    )  # fmt: skip
