"""Checks of adapters in online training, before accelerators are held."""

from __future__ import annotations

from rlhf.actors.plan import Plan
from rlhf.config import OnlineConfig
from rlhf.models.lora import check_lora
from rlhf.runtimes.configs import ADAPTER_RANKS, VLLM
from rlhf.runtimes.transport import AdapterForm, Transport
from rlhf.types import InputError

OUTPUT_HEAD = "lm_head"


def check_adapters(config: OnlineConfig) -> None:
    """Check the adapters of policy and critic against their models."""
    check_form(config)
    stage = config.backend.zero_stage
    check_lora(config.lora, config.model, zero_stage=stage)
    if config.algorithm.has_critic:
        check_lora(config.critic.lora, config.critic.model or config.model, zero_stage=stage, key="critic.lora")
    elif config.critic.lora.enabled:
        name = type(config.algorithm).__name__.removesuffix("Config")
        raise InputError(
            f"critic.lora.rank={config.critic.lora.rank}: {name} has no critic; leave it null, or use algorithm=ppo"
        )


def check_form(config: OnlineConfig) -> None:
    """Raise InputError if the adapter cannot reach the engines alone, as the configuration says."""
    if config.weight_sync.adapter is not AdapterForm.alone:
        return
    lora, engine, transport = config.lora, config.sampler.engine, config.weight_sync.transport
    if lora.rank is None:
        problem = "lora.rank=null: there is no adapter to send; set lora.rank, or"
    elif lora.rank > ADAPTER_RANKS[-1]:
        problem = f"lora.rank={lora.rank}: the engine's largest rank is {ADAPTER_RANKS[-1]}; lower it, or"
    elif OUTPUT_HEAD in {target.rpartition(".")[2] for target in lora.target_modules}:
        problem = f"lora.target_modules has {OUTPUT_HEAD}: vLLM cannot verify an adapter there; remove it, or"
    elif lora.quantize:
        problem = "lora.quantize=true: engines hold the full-precision base, on which the adapter was not trained;"
    elif engine != VLLM:
        problem = f"sampler.engine={engine}: {VLLM} alone takes versions of an adapter;"
    elif transport not in (None, Transport.object_store):
        problem = f"weight_sync.transport={transport}: an adapter travels through the object store; leave it null, or"
    else:
        return
    raise InputError(f"weight_sync.adapter=alone, {problem} set weight_sync.adapter=merged")


def check_quantised(config: OnlineConfig, plan: Plan) -> None:
    """Raise InputError if a learner with 4-bit weights shares accelerators."""
    quantised = {"policy": config.lora.quantize, "critic": config.critic.lora.quantize}
    for group in plan.groups:
        for role in group.roles:
            if len(group.roles) > 1 and quantised.get(role.role):
                raise InputError(
                    f"placement.colocate has {group.name}, whose {role.role} has 4-bit weights: they are not sharded, "
                    "and a learner that shares accelerators releases its memory through ZeRO 3; remove it from the "
                    "list, or set quantize=false"
                )
