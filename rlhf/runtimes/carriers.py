"""Carriers of a bucket's bytes from a learner's rank to the engines: one interface, four ways, and those of users.

`send` runs beside the learner and yields what the driver passes on; `receive` runs in every worker of every engine.
"""

from __future__ import annotations

import datetime
import inspect
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from rlhf.lookup import find_function
from rlhf.runtimes.buckets import Bucket, view_of
from rlhf.runtimes.transport import Carrier, Link, Transport
from rlhf.types import InputError

KEY = "weight_sync.transport"
KEPT_ALIVE = 4
"""Buckets whose memory an engine may still map: those that the driver lets the sender run ahead, and the last."""


class ObjectStoreCarrier:
    """The bytes travel with the bucket, which Ray's object store delivers without a copy on one node."""

    device, from_every_rank = torch.device("cpu"), False

    def send(self, bucket: Bucket, flat: Tensor) -> Iterator[Bucket]:
        yield replace(bucket, buffer=flat.numpy())

    def receive(self, bucket: Bucket) -> Tensor:
        return view_of(bucket)

    def release(self) -> None:
        """Ray's object store forgets a bucket with the last reference to it."""


class GroupCarrier:
    """The bytes are broadcast in a process group of their own: gloo between hosts' memories, nccl between GPUs."""

    from_every_rank = False

    def __init__(self, link: Link, rank: int) -> None:
        timeout = datetime.timedelta(seconds=link.timeout_s)
        store = dist.TCPStore(link.host, link.port, link.size, rank == 0, timeout, wait_for_workers=False)
        shared = dist.PrefixStore("weights", store)
        if link.transport == Transport.nccl:
            self.device = cuda_device(Transport.nccl)
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = timeout
            self.group = dist.ProcessGroupNCCL(shared, rank, link.size, options)
        else:
            self.device = torch.device("cpu")
            self.group = dist.ProcessGroupGloo(shared, rank, link.size, timeout)
        self.store = store  # rank 0 serves it: it must live as long as the group

    def send(self, bucket: Bucket, flat: Tensor) -> Iterator[Bucket]:
        # The receivers join once the driver has passed the bucket on.
        yield bucket
        self.group.broadcast(flat, 0).wait()

    def receive(self, bucket: Bucket) -> Tensor:
        flat = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=self.device)
        self.group.broadcast(flat, 0).wait()
        return flat

    def release(self) -> None:
        """A broadcast leaves nothing with the sender."""


class CudaIPCCarrier:
    """The engine maps the learner's memory on the accelerator they share."""

    from_every_rank = True

    def __init__(self) -> None:
        self.device = cuda_device(Transport.cuda_ipc)
        self.kept: deque[Tensor] = deque(maxlen=KEPT_ALIVE)

    def send(self, bucket: Bucket, flat: Tensor) -> Iterator[Bucket]:
        self.kept.append(flat)
        yield replace(bucket, handle=reduce_tensor(flat))

    def receive(self, bucket: Bucket) -> Tensor:
        rebuild, arguments = bucket.handle
        return rebuild(*arguments)

    def release(self) -> None:
        # A block that was sent stays with the sender until it collects what the receivers let go of.
        self.kept.clear()
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()


BUILT_IN: dict[str, type[Carrier]] = {
    Transport.object_store: ObjectStoreCarrier,
    Transport.gloo: GroupCarrier,
    Transport.nccl: GroupCarrier,
    Transport.cuda_ipc: CudaIPCCarrier,
}


def make_carrier(link: Link, rank: int) -> Carrier:
    """`rank`: 0 beside the learner, from 1 in the engines' workers. Raises InputError if there is no GPU for it, or
    a class of the user's own cannot be made."""
    if link.transport == Transport.object_store:
        return ObjectStoreCarrier()
    if link.transport == Transport.cuda_ipc:
        return CudaIPCCarrier()
    if link.transport in BUILT_IN:
        return GroupCarrier(link, rank)
    place = f"weight_sync.transport={link.transport}: the class"
    try:
        carrier = carrier_class(link.transport)(link, rank)  # type: ignore[call-arg]
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{place} cannot be made as Class(link, {rank}), {type(error).__name__}: {error}: correct its __init__"
        ) from error
    if not isinstance(getattr(carrier, "device", None), torch.device):
        raise InputError(f"{place} has no torch.device as `device`: set the one on which buckets are packed")
    return carrier


def carrier_class(transport: str) -> type[Carrier]:
    """Return the class of a transport. Raises InputError if one of the user's own does not implement `Carrier`."""
    if transport in BUILT_IN:
        return BUILT_IN[transport]
    found: Any = find_function(KEY, transport)
    is_class = inspect.isclass(found)
    missing = [name for name in ("send", "receive", "release") if not callable(getattr(found, name, None))]
    if not is_class:
        problem = "is no class"
    elif missing:
        problem = f"has no {missing[0]}()"
    elif not isinstance(getattr(found, "from_every_rank", None), bool):
        problem = "has no class attribute from_every_rank, True or False"
    else:
        return found
    raise InputError(f"{KEY}={transport} {problem}: implement rlhf.runtimes.transport.Carrier")


def cuda_device(transport: Transport) -> Any:
    if not torch.cuda.is_available():
        raise InputError(
            f"weight_sync.transport={transport.value}: there is no GPU here; set it to gloo or object_store"
        )
    return torch.device("cuda", torch.cuda.current_device())
