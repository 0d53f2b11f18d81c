"""What a process has held of its memory."""

from __future__ import annotations

import resource

import torch


def peak_memory_bytes() -> int:
    """The most this process has held since it started: of its GPUs, by PyTorch's allocator; without any, of RAM."""
    if torch.cuda.is_available():
        return sum(torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
