"""The engine's side of the weight sync, on vLLM's own weight-transfer factory.

A transfer is an engine class registered here and a sender beside the learner. This one is handed buckets and has a
carrier bring their bytes. Loaded in every vLLM worker as its `worker_extension_cls`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.platforms import current_platform

from rlhf.runtimes.buckets import Bucket, unpack
from rlhf.runtimes.carriers import ObjectStoreCarrier, make_carrier
from rlhf.runtimes.memory import peak_memory_bytes
from rlhf.runtimes.transport import Carrier, Link

BUCKETS = "rlhf_buckets"


@dataclass
class BucketInit(WeightTransferInitInfo):
    link: Link | None = None
    """None: the bytes arrive with the buckets."""
    first_rank: int = 1
    """Rank of the engine's first worker in the link's process group."""


@dataclass
class BucketUpdate(WeightTransferUpdateInfo):
    bucket: Bucket


class BucketTransfer(WeightTransferEngine[BucketInit, BucketUpdate]):
    init_info_cls = BucketInit
    update_info_cls = BucketUpdate
    is_open = False
    """True between the start and the end of an update."""

    def init_transfer_engine(self, init_info: BucketInit) -> None:
        self.carrier: Carrier = ObjectStoreCarrier()
        if init_info.link is not None:
            self.carrier = make_carrier(init_info.link, init_info.first_rank + self.parallel_config.rank)

    def start_weight_update(self) -> None:
        self.is_open = True
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: BucketUpdate) -> None:
        # vLLM copies a layer once it is complete; until then its parts are views, which keep these bytes alive.
        flat = self.carrier.receive(update_info.bucket)
        self.model.load_weights(list(unpack(update_info.bucket, flat)))
        if flat.is_cuda:
            # The bytes may be the learner's own memory, which it reuses once this process holds them no longer.
            torch.cuda.current_stream().synchronize()

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            refresh_tied_heads(self.model, self.model_config)
        self.is_open = False

    def abandon_weight_update(self) -> None:
        """Close an update that was not finished; what its layers hold is replaced by the next. A layer of which a part
        has arrived takes its old weights, since the bytes of that part may be gone."""
        if not self.is_open:
            return
        for layer in self.model.modules():
            progress = get_layerwise_info(layer)
            if progress.can_load():
                progress.load_numel = 0
                progress.loaded_weights.clear()
        finalize_layerwise_reload(self.model, self.model_config)
        self.is_open = False

    def shutdown(self) -> None:
        """Nothing outlives an update."""


def refresh_tied_heads(model: object, model_config: object) -> None:
    """Repack a tied lm_head: on CPU it is a packed copy, which vLLM 0.32's reload leaves at the old weights."""
    if not getattr(model_config.hf_text_config, "tie_word_embeddings", False):  # type: ignore[attr-defined]
        return
    for module in model.modules():  # type: ignore[attr-defined]
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


class WorkerExtension:
    """Methods of every vLLM worker; importing this module there registers the transfer."""

    def abandon_weight_update(self) -> None:
        """Close an update whose sender or whose other receivers have died, if there is one."""
        with set_current_vllm_config(self.vllm_config):  # type: ignore[attr-defined]
            self.weight_transfer_engine.abandon_weight_update()  # type: ignore[attr-defined]
        self._weight_update_active = False

    def peak_memory_bytes(self) -> int:
        return peak_memory_bytes()


if BUCKETS not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BUCKETS, BucketTransfer)
