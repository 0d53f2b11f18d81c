"""One rank of a model on DeepSpeed: ZeRO 1 to 3, any number of ranks, gloo or nccl."""

from __future__ import annotations

import datetime
import io
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import deepspeed
import torch
from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum
from deepspeed.utils import logger as deepspeed_logger
from huggingface_hub import save_torch_state_dict
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import GenerationConfig

from rlhf.models.adapters import save_merged
from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig
from rlhf.models.rope import RopeScalingConfig
from rlhf.ops.microbatch import MicroBatch
from rlhf.runtimes.buckets import Bucket, flatten, in_buckets
from rlhf.runtimes.carriers import ObjectStoreCarrier
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.runtimes.loading import load_model, load_saved, load_whole, rounding_of
from rlhf.runtimes.memory import HostBuffers, used_bytes
from rlhf.runtimes.pieces import gathered, pieces_of, tensors_of, whole
from rlhf.runtimes.protocols import Readout
from rlhf.runtimes.transport import Carrier

deepspeed_logger.setLevel(logging.ERROR)
# DeepSpeed's all-reduce over shared memory compiles at the first start on a machine (half a minute), assumes one node,
# and leaves 69 MB per rank in /dev/shm; gloo needs none of it.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

T = TypeVar("T")
OutputsT = TypeVar("OutputsT")
CHECKPOINT_TAG = "zero"
MAX_SHARD_SIZE = "5GB"
PARTITIONED = (
    OffloadStateTypeEnum.lp_params, OffloadStateTypeEnum.lp_grads, OffloadStateTypeEnum.contiguous_grad_buffer,
)  # fmt: skip
"""States that ZeRO-3 moves to the host by itself."""
BESIDE_FROZEN = PARTITIONED[1:]
"""The same with an adapter: DeepSpeed 0.19.8 would move frozen parameters to places that were counted without them."""


class DeepSpeedBackend:
    """A model with its optimiser, or without one a model that is only asked.

    The environment holds RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun sets them.
    """

    def __init__(
        self,
        model_path: str,
        config: BackendConfig,
        optimizer: OptimizerConfig | None,
        head: Head = Head.causal_lm,
        lora: LoRAConfig | None = None,
        rope: RopeScalingConfig | None = None,
    ) -> None:
        self.rank, self.num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model_path, self.head, self.config = model_path, head, config
        self.rope = rope or RopeScalingConfig()
        self.lora = lora if lora is not None and lora.enabled else None
        self.rounding = rounding_of(config, self.lora, model_path)
        self.host_buffers = HostBuffers(pinned=self.device.type == "cuda")
        # A model on one rank that is only asked needs no engine: ZeRO-3 would gather what is already whole.
        self.sharded = config.zero_stage == 3 and (optimizer is not None or self.num_ranks > 1)
        deepspeed.init_distributed(
            dist_backend="nccl" if self.device.type == "cuda" else "gloo",
            timeout=datetime.timedelta(seconds=config.collective_timeout_s),
            verbose=False,
        )
        self.optimizing, self.states_on_host = optimizer is not None, config.offload_optimizer
        settings = deepspeed_config(config, optimizer, self.num_ranks, self.device)
        self.model = load_model(
            model_path, head, config, settings if self.sharded else None, lora=self.lora, rope=self.rope
        )
        self.engine = self.model
        if optimizer is not None or self.sharded:
            parameters = [p for p in self.model.parameters() if p.requires_grad] if optimizer else None
            # BF16_Optimizer prints memory figures, whatever the level of the log.
            with redirect_stdout(io.StringIO()):
                self.engine, *_ = deepspeed.initialize(model=self.model, model_parameters=parameters, config=settings)
        self.engine.to(self.device).train(optimizer is not None)

    def forward(self, batch: MicroBatch, readout: Readout[OutputsT], *, grad: bool) -> OutputsT:
        if self.model.training != grad:  # an adapter's dropout is for training alone
            self.model.train(grad)
        with torch.set_grad_enabled(grad):
            return readout(self.engine, batch.to(self.device))

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Switch the adapter off, so that `forward` runs the base model: the reference of preference methods."""
        assert self.lora is not None, "a model without an adapter has no reference within it"
        with self.model.disable_adapter():
            yield

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages gradients over the ranks; the loss is a share of a sum.
        self.engine.backward(loss * self.num_ranks)

    def step(self, lr: float) -> tuple[float, bool]:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        # A gradient that is not finite is found in the reduced norm, so every rank skips the same step.
        norm = float(self.engine.get_global_grad_norm())
        applied = bool(self.engine.was_step_applied()) and math.isfinite(norm)
        if not applied and self.states_on_host and self.config.zero_stage < 3:
            # DeepSpeed 0.19.8 adds the next step's gradients to those it skipped.
            self.engine.optimizer.averaged_gradients = dict.fromkeys(self.engine.optimizer.averaged_gradients)
        return norm, applied

    def gather(self, value: T) -> list[T]:
        """The small values of all ranks, in their order."""
        values: list[Any] = [None] * self.num_ranks
        torch.distributed.all_gather_object(values, value)
        return values

    def generate(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """Greedy completions, the same on every rank, which all have to ask. For a look at a model in training:
        engines are far faster."""
        width, fill = max(map(len, prompts)), stop_token_ids[0]
        # Padding goes before the prompts: what follows them continues them.
        ids = [[fill] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self.model.eval()
        with torch.no_grad():
            found = self.model.generate(
                input_ids=torch.tensor(ids, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
                generation_config=GenerationConfig(
                    max_new_tokens=max_tokens, do_sample=False, eos_token_id=list(stop_token_ids), pad_token_id=fill
                ),
                synced_gpus=self.sharded and self.num_ranks > 1,
            )
        return found[:, width:].tolist()

    def weights(
        self, bucket_bytes: int, carrier: Carrier | None = None, *, adapter_alone: bool = False
    ) -> Iterator[Bucket]:
        carrier = carrier or ObjectStoreCarrier()
        sends = self.rank == 0 or carrier.from_every_rank
        pieces = pieces_of(self.model, adapter_alone=adapter_alone)
        failure: RuntimeError | None = None
        for run in in_buckets(pieces, [piece.num_bytes for piece in pieces], bucket_bytes):
            with torch.no_grad(), gathered(run, sharded=self.sharded):
                packed = flatten([(p.name, p.read()) for p in run], carrier.device) if sends else None
            if packed is not None and failure is None:
                try:
                    yield from carrier.send(*packed)
                except RuntimeError as error:
                    # A receiver is gone. The other ranks gather on, so this one must, too.
                    failure = error.with_traceback(None)  # its frames would keep the broken group open
        if failure is not None:
            raise failure

    def offload(self) -> int:
        if self.optimizing:
            states = BESIDE_FROZEN if self.lora is not None else PARTITIONED
            self.engine.offload_states(include=states, pin_memory=self.device.type == "cuda")
        self.host_buffers.take(self.moved_tensors())
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return used_bytes()

    def onload(self) -> int:
        self.host_buffers.give_back(self.moved_tensors(), self.device)
        if self.optimizing:
            self.engine.reload_states()
        return used_bytes()

    def moved_tensors(self) -> list[Tensor]:
        """Return what DeepSpeed does not move itself: frozen parameters, the optimiser's tensors (it knows its own Adam
        alone). An adapter that is learnt stays: it is small."""
        frozen = [p for p in self.model.parameters() if not (self.optimizing and p.requires_grad)]
        buffers = [] if self.optimizing or self.sharded else list(self.model.buffers())
        parameters = [part for p in frozen for part in (p, p.ds_tensor)] if self.sharded else frozen
        if not self.optimizing or self.states_on_host:
            return [*parameters, *buffers]
        optimizer = self.engine.optimizer
        moments = (value for state in optimizer.optimizer.state.values() for value in state.values())
        flat = optimizer.fp32_partitioned_groups_flat
        return [*parameters, *flat, *(m for m in moments if isinstance(m, Tensor))]

    def save(self, folder: Path) -> None:
        """Save this rank's shard of parameters and optimiser states. The caller commits the folder once all ranks
        did."""
        self.engine.save_checkpoint(
            str(folder), tag=CHECKPOINT_TAG, save_latest=False, exclude_frozen_parameters=self.lora is not None
        )

    def load(self, folder: Path) -> None:
        """Continue from `save`, at the same number of ranks. The folder must have been verified: it holds pickles."""
        loaded, _ = self.engine.load_checkpoint(str(folder), tag=CHECKPOINT_TAG, load_module_strict=self.lora is None)
        assert loaded is not None, f"DeepSpeed found no checkpoint in {folder}"

    def save_pretrained(self, folder: Path) -> None:
        """Weights as safetensors with config and generation config, as `from_pretrained` reads them. Rank 0 writes.

        With an adapter: the base with it merged in, in the base's own precision, and itself in `folder/adapter`.
        """
        if self.lora is not None:
            state = self.adapter()
            if self.rank == 0:
                base = load_whole(self.model_path, self.head, self.rope)
                save_merged(folder, base, self.lora, self.head, state, max_shard_size=MAX_SHARD_SIZE)
            return
        tensors = self.whole(self.tensors())
        if self.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            save_torch_state_dict(tensors, folder, max_shard_size=MAX_SHARD_SIZE, metadata={"format": "pt"})
            # Its folder may have been another's, with another head.
            self.model.config.architectures = [type(self.model).__name__]
            self.model.config.save_pretrained(folder)
            if self.model.can_generate():
                self.model.generation_config.save_pretrained(folder)

    def adapter(self) -> dict[str, Tensor]:
        """The adapter and the head trained with it, on the CPU, under the names of peft's files; empty but on rank 0.

        Every rank calls it.
        """
        state = self.whole({name: p for name, p in self.model.named_parameters() if p.requires_grad})
        if self.rank != 0:
            return {}
        return get_peft_model_state_dict(self.model, state_dict=state, save_embedding_layers=False)

    def tensors(self) -> dict[str, Tensor]:
        return tensors_of(self.model)

    def whole(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors on the CPU; empty but on rank 0."""
        return whole(named, sharded=self.sharded, keep=self.rank == 0)

    def load_saved(self, folder: Path) -> nn.Module:
        return load_saved(folder, self.head, self.config)


def deepspeed_config(
    config: BackendConfig, optimizer: OptimizerConfig | None, num_ranks: int, device: torch.device
) -> dict[str, Any]:
    """DeepSpeed's settings. Accumulation is ours: `backward` says which micro-batch is the last of a step."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = config.persistence_threshold
    if config.offload_optimizer and optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": num_ranks,
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        # ZeRO 1 in bf16 then has BF16_Optimizer, which adds each gradient to its fp32 sum as soon as it is computed.
        "bf16": {"enabled": config.precision is Precision.bf16, "immediate_grad_update": True},
    }
    if config.zero_stage == 1:
        # BF16_Optimizer reduces its fp32 sums once a step, and rounds them to bf16 for it by default.
        settings["communication_data_type"] = "fp32"
    if optimizer:
        # In bf16 a sum over many micro-batches loses what is small beside it.
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["gradient_clipping"] = optimizer.gradient_clipping
        # torch_adam: DeepSpeed's own kernels compile at the first use, minutes on a CPU machine.
        compiled = config.offload_optimizer and device.type == "cuda"
        settings["optimizer"] = {
            "type": "AdamW",
            "params": {
                "lr": optimizer.lr,
                "betas": list(optimizer.betas),
                "eps": optimizer.eps,
                "weight_decay": optimizer.weight_decay,
                "torch_adam": not compiled,
                **({"fused": True} if device.type == "cuda" and not compiled else {}),
            },
        }
    return settings
