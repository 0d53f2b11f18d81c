"""Checks of adapters in online training, before accelerators are held."""

from __future__ import annotations

from rlhf.actors.plan import Plan
from rlhf.config import OnlineConfig
from rlhf.models.lora import check_lora
from rlhf.types import InputError


def check_adapters(config: OnlineConfig) -> None:
    """Check the adapters of policy and critic against their models."""
    stage = config.backend.zero_stage
    check_lora(config.lora, config.model, zero_stage=stage)
    if config.algorithm.has_critic:
        check_lora(config.critic.lora, config.critic.model or config.model, zero_stage=stage, key="critic.lora")
    elif config.critic.lora.enabled:
        name = type(config.algorithm).__name__.removesuffix("Config")
        raise InputError(
            f"critic.lora.rank={config.critic.lora.rank}: {name} has no critic; leave it null, or use algorithm=ppo"
        )


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
