"""The engine's side of the weight sync, on vLLM's own weight-transfer factory.

A transfer is an engine class registered here and a sender beside the learner. This one receives buckets as ordinary
arguments, which Ray's object store delivers without a copy. Loaded in every vLLM worker as its `worker_extension_cls`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

from rlhf.runtimes.buckets import Bucket, unpack
from rlhf.runtimes.memory import peak_memory_bytes

OBJECT_STORE = "rlhf_object_store"


@dataclass
class NoInit(WeightTransferInitInfo):
    """Nothing to set up: the buckets arrive with the calls."""


@dataclass
class BucketUpdate(WeightTransferUpdateInfo):
    bucket: Bucket


class ObjectStoreTransfer(WeightTransferEngine[NoInit, BucketUpdate]):
    init_info_cls = NoInit
    update_info_cls = BucketUpdate

    def init_transfer_engine(self, init_info: NoInit) -> None:
        self.buckets: list[Bucket] = []

    def start_weight_update(self) -> None:
        self.buckets = []
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: BucketUpdate) -> None:
        # A layer is loaded once it is complete, until then its parts stay views into the buffers: keep them alive.
        self.buckets.append(update_info.bucket)
        self.model.load_weights(list(unpack(update_info.bucket)))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            refresh_tied_heads(self.model, self.model_config)
        self.buckets = []

    def shutdown(self) -> None:
        self.buckets = []


def refresh_tied_heads(model: object, model_config: object) -> None:
    """Pack a tied lm_head anew: on CPU it is a packed copy, which vLLM 0.32's reload leaves at the old weights."""
    if not getattr(model_config.hf_text_config, "tie_word_embeddings", False):  # type: ignore[attr-defined]
        return
    for module in model.modules():  # type: ignore[attr-defined]
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


class WorkerExtension:
    """Methods of every vLLM worker; importing this module there registers the transfer."""

    def peak_memory_bytes(self) -> int:
        return peak_memory_bytes()


if OBJECT_STORE not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(OBJECT_STORE, ObjectStoreTransfer)
