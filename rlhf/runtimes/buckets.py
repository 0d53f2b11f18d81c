"""Parameters on their way from learner to engine: flat bytes, a manifest and a checksum."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import xxhash
from torch import Tensor

from rlhf.types import RunError

ALIGNMENT = 64
"""Bytes; so that a view of any dtype into the buffer is aligned."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Some of a model's parameters, under their names in the Hugging Face checkpoint."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    """Of each parameter in the buffer, in bytes."""
    checksum: str
    """xxh3_64 of the buffer."""
    buffer: np.ndarray  # [num bytes] uint8


def pack(parameters: Sequence[tuple[str, Tensor]]) -> Bucket:
    """Copy parameters into one buffer."""
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for _, tensor in parameters]
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    buffer = torch.zeros(sum(sizes), dtype=torch.uint8)
    for (_, tensor), offset in zip(parameters, offsets, strict=True):
        buffer[offset : offset + tensor.nbytes].copy_(tensor.detach().contiguous().view(-1).view(torch.uint8))
    array = buffer.numpy()
    return Bucket(
        names=tuple(name for name, _ in parameters),
        dtypes=tuple(str(tensor.dtype).removeprefix("torch.") for _, tensor in parameters),
        shapes=tuple(tuple(tensor.shape) for _, tensor in parameters),
        offsets=tuple(offsets),
        checksum=xxhash.xxh3_64_hexdigest(array.data),
        buffer=array,
    )


def unpack(bucket: Bucket) -> Iterator[tuple[str, Tensor]]:
    """Views into the buffer, which must outlive them and not be written to.

    Raises RunError where the bytes received are not those sent.
    """
    received = xxhash.xxh3_64_hexdigest(bucket.buffer.data)
    if received != bucket.checksum:
        raise RunError(
            f"weight sync: the bucket from {bucket.names[0]!r} arrived with checksum {received}, sent was "
            f"{bucket.checksum}; the engine keeps no torn weights: resume from the last checkpoint"
        )
    with warnings.catch_warnings():
        # Torch warns that a read-only buffer could be written through the tensor; nothing writes.
        warnings.simplefilter("ignore", UserWarning)
        flat = torch.frombuffer(bucket.buffer.data, dtype=torch.uint8)
    for name, dtype_name, shape, offset in zip(bucket.names, bucket.dtypes, bucket.shapes, bucket.offsets, strict=True):
        dtype = getattr(torch, dtype_name)
        num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        yield name, flat[offset : offset + num_bytes].view(dtype).view(shape)


def in_buckets(items: Iterable[T], sizes: Iterable[int], bucket_bytes: int) -> Iterator[list[T]]:
    """Cut a sequence into runs of at most `bucket_bytes`; a larger item is a run of its own."""
    run: list[T] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if run and total + size > bucket_bytes:
            yield run
            run, total = [], 0
        run.append(item)
        total += size
    if run:
        yield run
