"""How much memory is in use where a model works."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def used_bytes() -> int:
    """Of this process's accelerator, by whomever; on a CPU the resident set of the process."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total - free
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
