"""Parameters on their way from learner to engine: flat bytes, a manifest and a checksum."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import xxhash
from torch import Tensor

from rlhf.types import RunError

ALIGNMENT = 64
"""Bytes; so that a view of any dtype into the buffer is aligned."""

CHECKSUM_WORDS = 1 << 22
"""Words that an accelerator weighs at once: 32 MiB, whatever the bucket."""
PLACE_FACTOR = 0x9E3779B97F4A7C16 - (1 << 64)
"""Even, so that a place's weight is odd and no word's change is lost: 2^64 over the golden ratio, signed."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Some of a model's parameters, under their names in the Hugging Face checkpoint."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    """Offset of each parameter in the flat bytes."""
    num_bytes: int
    checksum: str
    """Checksum of the flat bytes."""
    buffer: np.ndarray | None = None  # [num_bytes] uint8
    """The flat bytes, where they travel with the bucket."""
    handle: Any = None
    """Handle by which a receiver gets the bytes, as its carrier made it; None if it needs none."""


def pack(parameters: Sequence[tuple[str, Tensor]]) -> Bucket:
    """Parameters copied into a bucket that holds their bytes."""
    bucket, flat = flatten(parameters, torch.device("cpu"))
    return replace(bucket, buffer=flat.numpy())


def flatten(parameters: Sequence[tuple[str, Tensor]], device: torch.device) -> tuple[Bucket, Tensor]:
    """Copy parameters into flat bytes on `device`; the bucket says what is where."""
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for _, tensor in parameters]
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    flat = torch.zeros(sum(sizes), dtype=torch.uint8, device=device)
    for (_, tensor), offset in zip(parameters, offsets, strict=True):
        flat[offset : offset + tensor.nbytes].copy_(tensor.detach().contiguous().view(-1).view(torch.uint8))
    bucket = Bucket(
        names=tuple(name for name, _ in parameters),
        dtypes=tuple(str(tensor.dtype).removeprefix("torch.") for _, tensor in parameters),
        shapes=tuple(tuple(tensor.shape) for _, tensor in parameters),
        offsets=tuple(offsets),
        num_bytes=sum(sizes),
        checksum=checksum(flat),
    )
    return bucket, flat


def checksum(flat: Tensor) -> str:
    """xxh3_64 in host memory; on an accelerator a sum modulo 2^64 that weighs each word by its place."""
    if flat.device.type == "cpu":
        return xxhash.xxh3_64_hexdigest(flat.numpy().data)
    return weighted_sum(flat.view(torch.int64))


def weighted_sum(
    words: Tensor,  # [N] int64
) -> str:
    """Sum modulo 2^64 of the words, each weighed by its place; a block at a time, so that it needs little memory."""
    total = words.new_zeros(())
    for start in range(0, len(words), CHECKSUM_WORDS):
        block = words[start : start + CHECKSUM_WORDS]
        places = torch.arange(start, start + len(block), device=words.device) * PLACE_FACTOR + 1
        total += places.mul_(block).sum()
    return f"{int(total) & (1 << 64) - 1:016x}"


def view_of(bucket: Bucket) -> Tensor:
    """The flat bytes that travelled with the bucket, not to be written to."""
    assert bucket.buffer is not None, "the bytes of this bucket travel on their own"
    with warnings.catch_warnings():
        # Torch warns that a read-only buffer could be written through the tensor; nothing writes.
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(bucket.buffer.data, dtype=torch.uint8)


def unpack(bucket: Bucket, flat: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
    """Views into the flat bytes, by default the bucket's own, which must outlive them and not be written to.

    Raises RunError if the bytes received are not those sent.
    """
    flat = view_of(bucket) if flat is None else flat
    received = checksum(flat)
    if received != bucket.checksum:
        raise RunError(
            f"weight sync: the bucket from {bucket.names[0]!r} arrived with checksum {received}, sent was "
            f"{bucket.checksum}; the engine keeps no torn weights: resume from the last checkpoint"
        )
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
