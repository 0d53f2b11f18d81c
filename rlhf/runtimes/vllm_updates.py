"""New versions of an engine's weights: all of them, or an adapter beside the base that the engine started with.

Called on the engine's thread, between two steps.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rlhf.runtimes import vllm_environment  # noqa: F401  before vllm, which reads its environment once

# isort: split
from safetensors.torch import save_file
from torch import Tensor
from vllm.lora.request import LoRARequest
from vllm.v1.engine.llm_engine import LLMEngine

from rlhf.models.lora import LoRAConfig, adapted_layers
from rlhf.runtimes.buckets import Bucket, unpack
from rlhf.runtimes.configs import ADAPTER_RANKS
from rlhf.types import RunError

NODE_MEMORY = Path("/dev/shm")
"""Folder in memory that all processes of an engine see."""
ADAPTER_ID = 1
"""The same for every version: vLLM replaces the adapter in its place, under requests that are not finished too."""


class WeightUpdates(Protocol):
    whole: bool
    """True if an update replaces all weights, so that a sleeping engine may drop the old ones."""
    arguments: Mapping[str, Any]
    """Arguments with which vLLM must be started."""

    def begin(self, engine: LLMEngine) -> None:
        """Begin a version, in place of one that was begun and not finished."""

    def receive(self, engine: LLMEngine, bucket: Bucket) -> None: ...
    def finish(self, engine: LLMEngine, version: int) -> LoRARequest | None:
        """Complete the version; return the adapter that new requests name."""


class WholeWeights:
    """Updates of all parameters, by vLLM's weight transfer."""

    whole = True
    arguments: Mapping[str, Any] = {}

    def begin(self, engine: LLMEngine) -> None:
        engine.collective_rpc("abandon_weight_update")
        engine.collective_rpc("start_weight_update")

    def receive(self, engine: LLMEngine, bucket: Bucket) -> None:
        try:
            engine.collective_rpc("update_weights", kwargs={"update_info": {"bucket": bucket}})
        except (ValueError, KeyError) as error:
            raise RunError(
                f"weight sync: vLLM has no place for the weights that transformers gives this model ({brief(error)}); "
                "use an architecture that docs/architectures.md lists as accepted"
            ) from error

    def finish(self, engine: LLMEngine, version: int) -> None:
        engine.collective_rpc("finish_weight_update")


class AdapterAlone:
    """Updates of an adapter, which vLLM reads from a folder.

    Each load has a name and a path of its own, which are keys of the prefix cache: a version may come again with other
    weights, when the run continues from a checkpoint. Adapters of a smaller rank than vLLM's next size are padded there
    with zeros.
    """

    whole = False

    def __init__(self, model_path: str, lora: LoRAConfig) -> None:
        assert lora.rank is not None
        self.model_path, self.lora = model_path, lora
        rank = next(rank for rank in ADAPTER_RANKS if rank >= lora.rank)
        self.arguments: Mapping[str, Any] = {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": rank,
            # Without a list vLLM 0.32 wraps the output head too, whose adapter cannot compute prompt logprobs beside
            # other requests.
            "lora_target_modules": adapted_layers(lora, model_path),
        }
        self.tensors: dict[str, Tensor] = {}
        self.num_loads = 0

    def begin(self, engine: LLMEngine) -> None:
        self.tensors = {}

    def receive(self, engine: LLMEngine, bucket: Bucket) -> None:
        self.tensors |= {name: tensor.clone() for name, tensor in unpack(bucket)}

    def finish(self, engine: LLMEngine, version: int) -> LoRARequest:
        self.num_loads += 1
        name = f"version-{version}-load-{self.num_loads}"
        try:
            # vLLM has read the folder when it returns, in all its processes.
            with tempfile.TemporaryDirectory(prefix=f"rlhf-adapter-{version}-", dir=NODE_MEMORY) as folder:
                self.write(Path(folder))
                engine.add_lora(LoRARequest(name, ADAPTER_ID, folder, load_inplace=True))
        except OSError as error:
            raise RunError(
                f"weight sync: version {version} of the adapter cannot be written to {NODE_MEMORY}: {error}; free "
                "memory there or mount a larger one, or set weight_sync.adapter=merged, and resume the run"
            ) from error
        except (ValueError, RuntimeError) as error:
            raise RunError(
                f"weight sync: vLLM does not take version {version} of the adapter ({brief(error)}); set "
                "weight_sync.adapter=merged, or lora.target_modules to layers of attention and feed-forward"
            ) from error
        self.tensors = {}
        return LoRARequest(name, ADAPTER_ID, folder)

    def write(self, folder: Path) -> None:
        """Write the adapter as peft does."""
        targets = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in self.tensors})
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": self.model_path,
            "r": self.lora.rank,
            "lora_alpha": self.lora.alpha,
            "target_modules": targets,
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        save_file(self.tensors, folder / "adapter_model.safetensors")


def brief(error: BaseException) -> str:
    """Return the beginning of an error's message."""
    return " ".join(str(error).split())[:200]
