"""Heads with which a model folder can be loaded."""

from __future__ import annotations

from enum import StrEnum
from types import MethodType
from typing import TYPE_CHECKING, Any

from rlhf.models.tokenizer import load_tokenizer
from rlhf.types import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig


class Head(StrEnum):
    """The head of a model; each value is the Auto class of transformers that loads it."""

    causal_lm = "AutoModelForCausalLM"
    value = "AutoModelForTokenClassification"
    score = "AutoModelForSequenceClassification"


def config_for(path: str, head: Head) -> PreTrainedConfig:
    """Return the config for training a model: one label for a critic or a reward model, no dropout for a critic.

    Raises InputError if transformers has no model of the folder's architecture with such a head.
    """
    config = read_config(path, head)
    if head is not Head.causal_lm:
        config.num_labels = 1
    if head is Head.value:
        config.classifier_dropout = 0.0
    if head is Head.score and config.pad_token_id is None:
        # transformers finds a sequence's last token, whose score is the sequence's, through pad_token_id.
        config.pad_token_id = load_tokenizer(path).pad_token_id
    return config


def read_config(path: str, head: Head) -> PreTrainedConfig:
    """Read the folder's own config. Raises InputError if transformers has no model of its architecture with such a
    head."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if type(config) not in getattr(transformers, f"MODEL_FOR_{MAPPINGS[head]}_MAPPING"):
        raise InputError(
            f"model {path!r}: transformers has no {head.value} of model_type {config.model_type!r}; use a model that "
            "has one, such as Qwen3 or Llama"
        )
    return config


def model_class(config: PreTrainedConfig, head: Head) -> Any:
    """Return the transformers class for the config with the head."""
    import transformers

    return getattr(transformers, f"MODEL_FOR_{MAPPINGS[head]}_MAPPING")[type(config)]


def compute_in_fp32(model: nn.Module) -> None:
    """Make the head of a critic or a reward model compute in fp32 from its inputs and weights, which keep their type.

    In bf16 a score near 5 has steps of 0.03.
    """
    import torch.nn.functional as F
    from torch import nn

    def forward(self: nn.Linear, states: Tensor) -> Tensor:  # [..., H], to [..., 1] float32
        return F.linear(states.float(), self.weight.float(), None if self.bias is None else self.bias.float())

    for module in model.modules():
        if type(module) is nn.Linear and module.out_features == 1:
            module.forward = MethodType(forward, module)


MAPPINGS = {
    Head.causal_lm: "CAUSAL_LM",
    Head.value: "TOKEN_CLASSIFICATION",
    Head.score: "SEQUENCE_CLASSIFICATION",
}
