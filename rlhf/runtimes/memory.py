"""Memory in use where a model works, now and at most."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


class HostBuffers:
    """Host memory that tensors leave an accelerator for and come back from, kept between moves.

    Pinned where there is an accelerator: a copy through fresh pageable memory is several times slower.
    """

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned
        self.buffers: list[Tensor] = []

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Move `tensors` to the host. Each call brings them in one order, those of earlier calls first."""
        self.buffers += [self.like(tensor) for tensor in tensors[len(self.buffers) :]]
        for i, tensor in enumerate(tensors):
            if (self.buffers[i].shape, self.buffers[i].dtype) != (tensor.shape, tensor.dtype):
                # A parameter that was gathered, and is not now.
                self.buffers[i] = self.like(tensor)
            self.buffers[i].copy_(tensor.data, non_blocking=self.pinned)
        self.wait()  # before the memory they leave is freed
        for tensor, buffer in zip(tensors, self.buffers, strict=False):
            tensor.data = buffer

    def give_back(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        """Move `tensors` to `device`; the buffers stay."""
        for tensor in tensors:
            tensor.data = tensor.data.to(device, non_blocking=self.pinned, copy=True)
        self.wait()

    def like(self, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.pinned)

    def wait(self) -> None:
        if self.pinned:
            torch.cuda.synchronize()


def used_bytes() -> int:
    """Return the bytes in use on this process's accelerator, by any process; on a CPU its resident set."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total - free
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory_bytes() -> int:
    """The most this process has held since it started: of its GPUs, by PyTorch's allocator; without any, of RAM."""
    if torch.cuda.is_available():
        return sum(torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
