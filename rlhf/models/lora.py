"""Configuration of low-rank adapters (Hu et al. 2021) and 4-bit base weights (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.models.causal_lm import read_model_config
from rlhf.types import InputError

ALL_LINEAR = "all-linear"


@dataclass(kw_only=True, slots=True)
class LoRAConfig:
    """Train low-rank adapters beside frozen weights. A model's own head (a score or value head) is trained whole."""

    rank: int | None = None
    """Rank of the adapters. None trains every parameter of the model and no adapter."""
    alpha: float = 16.0
    """The adapter's product is scaled by `alpha / rank`."""
    dropout: float = 0.0
    """Probability with which an adapter's input is dropped in training. Above 0 the results depend on the assignment of
    rows to ranks, and a resumed run differs from an uninterrupted one."""
    target_modules: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    """Names of the linear layers that get an adapter, such as `q_proj`; `all-linear` for all but the head."""
    quantize: bool = False
    """QLoRA: hold the frozen weights in 4 bits (NF4, double quantisation). Needs the bitsandbytes package and
    `backend.zero_stage` 1 or 2."""

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise InputError(f"lora.rank={self.rank}: give at least 1, or null to train every parameter")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"lora.alpha={self.alpha}: give a positive number, such as twice the rank")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout={self.dropout}: give a probability of at least 0 and below 1")
        if not self.target_modules:
            raise InputError(f"lora.target_modules=[]: name linear layers, or [{ALL_LINEAR}]")
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            raise InputError(f"lora.target_modules={self.target_modules}: {ALL_LINEAR} must be the only entry")
        if self.quantize and self.rank is None:
            raise InputError("lora.quantize=true: set lora.rank, 4-bit weights cannot be trained themselves")

    @property
    def enabled(self) -> bool:
        return self.rank is not None


def check_lora(config: LoRAConfig, model_path: str, *, zero_stage: int, key: str = "lora") -> None:
    """Raise InputError if the model in `model_path` cannot be trained with `config`, the value of `key`; runs before
    accelerators are held."""
    if not config.enabled:
        return
    if "quantization_config" in read_model_config(model_path):
        raise InputError(
            f"model {model_path!r}: its weights are quantised already, so no adapter can be merged into them; start "
            f"from the full-precision model and set {key}.quantize=true"
        )
    if config.target_modules != [ALL_LINEAR]:
        names = set(module_names(model_path))
        for target in config.target_modules:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise InputError(
                    f"{key}.target_modules has {target!r}, but no layer of model {model_path!r} is named that; set "
                    "names of its layers, which end in "
                    f"{', '.join(sorted({name.rpartition('.')[2] for name in names}))}"
                )
        check_tied_embedding(config.target_modules, model_path, key)
    if config.quantize and zero_stage == 3:
        raise InputError(
            f"{key}.quantize=true with backend.zero_stage=3: 4-bit weights are not sharded; set backend.zero_stage=2"
        )
    if config.quantize:
        check_bitsandbytes(key)


def check_tied_embedding(targets: Sequence[str], model_path: str, key: str) -> None:
    """Raise InputError if a target is an embedding that is also the output head.

    Training would adapt the embedding only, merging would change both, so the saved model would differ.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(model_path, local_files_only=True, trust_remote_code=False)
    if not config.get_text_config().tie_word_embeddings:
        return
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    for target in targets:
        if f".{name}".endswith(f".{target.removeprefix(f'{model.base_model_prefix}.')}"):
            raise InputError(
                f"{key}.target_modules has {target!r}: in model {model_path!r} that is the embedding and the output "
                "head (tie_word_embeddings), and a merged adapter would change both; leave it out, or set "
                f"{key}.rank=null to train every parameter"
            )


def adapted_layers(config: LoRAConfig, model_path: str) -> list[str]:
    """Return the last parts of the names of the layers that get an adapter, such as `q_proj`."""
    if config.target_modules != [ALL_LINEAR]:
        return sorted({target.rpartition(".")[2] for target in config.target_modules})
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path, local_files_only=True))
    head = model.get_output_embeddings()
    linear = (torch.nn.Linear, Conv1D)
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, linear) and module is not head
        }
    )


def check_bitsandbytes(key: str) -> None:
    """Raise InputError without a bitsandbytes that transformers accepts; those versions support GPUs and CPUs."""
    from transformers.utils import is_bitsandbytes_available
    from transformers.utils.import_utils import BITSANDBYTES_MIN_VERSION

    if not is_bitsandbytes_available():
        raise InputError(
            f"{key}.quantize=true: bitsandbytes is not installed, or older than {BITSANDBYTES_MIN_VERSION}; install "
            f"bitsandbytes>={BITSANDBYTES_MIN_VERSION}, or set {key}.quantize=false"
        )


def module_names(model_path: str) -> Iterator[str]:
    """Yield the names of the modules that have a weight of two dimensions in the folder's safetensors."""
    from safetensors import safe_open

    for file in sorted(Path(model_path).glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                module, _, leaf = name.rpartition(".")
                if leaf == "weight" and len(tensors.get_slice(name).get_shape()) == 2:
                    yield module
