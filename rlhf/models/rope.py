"""Longer contexts by scaling rotary position embeddings; the saved model carries it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

UNSCALED = "default"


class RopeScaling(StrEnum):
    """Scaling of positions. Dynamic NTK is not supported: its frequencies depend on the longest sequence of a forward
    pass, so a row's outputs would depend on the other rows, and vLLM computes it differently."""

    none = "none"
    linear = "linear"
    yarn = "yarn"


@dataclass(kw_only=True, slots=True)
class RopeScalingConfig:
    """Stretch the context of a model with rotary embeddings; train on long sequences with it."""

    type: RopeScaling = RopeScaling.none
    """`linear`: positions divided by the factor (Chen et al. 2023). `yarn`: frequency by frequency (Peng et al. 2023).
    `none`: as the model's folder has it."""
    factor: float = 1.0
    """Factor by which the context grows."""

    def __post_init__(self) -> None:
        if self.type is RopeScaling.none and self.factor != 1:
            raise InputError(f"rope_scaling.factor={self.factor}: it does nothing without rope_scaling.type; set yarn")
        if self.type is not RopeScaling.none and not 1 < self.factor < math.inf:
            raise InputError(f"rope_scaling.factor={self.factor}: give a number above 1, by which the context grows")


def with_rope_scaling(path: str, model_config: dict[str, Any], rope: RopeScalingConfig) -> dict[str, Any]:
    """Return the `config.json` of the model in `path` with `rope` applied. Raises InputError as `apply_rope_scaling`
    does."""
    if rope.type is RopeScaling.none:
        return model_config
    from transformers import AutoConfig

    settings = {name: value for name, value in model_config.items() if name != "model_type"}
    config = AutoConfig.for_model(model_config["model_type"], **settings)
    apply_rope_scaling(config, rope, path)
    return config.to_dict()


def apply_rope_scaling(config: PreTrainedConfig, rope: RopeScalingConfig, path: str) -> None:
    """Write `rope` into the config of the model in `path`, in place.

    YaRN stores the scaled `max_position_embeddings` and the original; linear leaves it unchanged, and readers
    (transformers and vLLM) multiply it by the factor. Raises InputError for models without rotary embeddings, with
    different ones for some layers, or scaled already.
    """
    if rope.type is RopeScaling.none:
        return
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    scaling = f"rope_scaling.type={rope.type}: model {path!r}"
    if "rope_theta" not in parameters:
        found = "has layers with different rotary embeddings" if parameters else "has no rotary embeddings"
        raise InputError(f"{scaling} {found}; set rope_scaling.type=none")
    if parameters.get("rope_type", UNSCALED) != UNSCALED:
        raise InputError(f"{scaling} scales them already ({parameters['rope_type']}); set rope_scaling.type=none")
    parameters = {**parameters, "rope_type": rope.type.value, "factor": rope.factor}
    if rope.type is RopeScaling.yarn:
        original = text.max_position_embeddings
        parameters["original_max_position_embeddings"] = original
        text.max_position_embeddings = int(original * rope.factor)
    text.rope_parameters = parameters


def context_factor(settings: dict[str, Any]) -> float:
    """Return the factor from a config's `max_position_embeddings` to the context. Newer files say `rope_parameters`,
    older ones `rope_scaling`; Gemma 3 has multiplied it already."""
    if settings.get("model_type", "").startswith("gemma3"):
        return 1.0
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type"))
    return float(parameters.get("factor") or 1.0) if kind == RopeScaling.linear else 1.0
