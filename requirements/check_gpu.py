"""Refuses, in one sentence and before any download, a machine that requirements/gpu.lock cannot serve.

Standard library alone, and annotations as strings, as in check_platform.py.
"""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from check_platform import disk_refusal, machine_refusal, system_refusal

MIN_FREE_BYTES = 25 * 10**9  # 10 GB installed, as much again for wheels while pip unpacks them, and room to run
MIN_CUDA = (13, 0)


def python_refusal(version: "tuple[int, int]") -> "str | None":
    if version == (3, 12):
        return None
    return (
        f"Python is {version[0]}.{version[1]}, but the GPU packages are pinned for 3.12: "
        "install Python 3.12 and name it with `make PYTHON_GPU=python3.12`."
    )


def driver_refusal(listing: "str | None") -> "str | None":
    """`listing`: what nvidia-smi prints, None where it does not run."""
    if listing is None:
        return "nvidia-smi does not run here, so there is no working NVIDIA driver: install one for CUDA 13."
    found = re.search(r"CUDA (?:UMD )?Version: *(\d+)\.(\d+)", listing)
    if found is None:
        return "nvidia-smi does not say which CUDA version the driver serves: install a driver for CUDA 13."
    version = (int(found.group(1)), int(found.group(2)))
    if version >= MIN_CUDA:
        return None
    return (
        f"The NVIDIA driver serves CUDA {version[0]}.{version[1]}, but torch is built for CUDA 13: install a driver of "
        "version 580 or newer."
    )


def listing() -> "str | None":
    try:
        return subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def refusal() -> "str | None":
    """The first reason why this machine cannot be served; `None` when it can."""
    root = Path(__file__).resolve().parent.parent
    return (
        system_refusal(platform.system())
        or machine_refusal(platform.machine())
        or python_refusal(sys.version_info[:2])
        or driver_refusal(listing())
        or disk_refusal(shutil.disk_usage(root).free, str(root), MIN_FREE_BYTES)
    )


if __name__ == "__main__":
    sys.exit(refusal())
