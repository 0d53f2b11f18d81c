"""Memory in use where a model works, now and at most."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch


def used_bytes() -> int:
    """Of this process's accelerator, by whomever; on a CPU the resident set of the process."""
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
