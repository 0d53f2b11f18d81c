"""Refuses, in one sentence and before any download, a machine that requirements/cpu.lock cannot serve.

Standard library alone, and annotations as strings: Python 3.6 reads this file too, and is refused in words.
"""

import platform
import shutil
import sys
from pathlib import Path

MIN_FREE_BYTES = 8 * 10**9  # 3 GB installed, as much again for wheels while pip unpacks them, and room to run


def system_refusal(system: str) -> "str | None":
    if system == "Linux":
        return None
    return f"The operating system is {system}, but the packages are built for Linux: use a Linux machine or container."


def machine_refusal(machine: str) -> "str | None":
    if machine in ("x86_64", "AMD64"):
        return None
    return f"The processor is {machine}, but the packages are built for x86-64: use an x86-64 machine."


def python_refusal(version: "tuple[int, int]") -> "str | None":
    if version == (3, 11):
        return None
    return (
        f"Python is {version[0]}.{version[1]}, but the CPU packages are pinned for 3.11: "
        "install Python 3.11 and name it with `make PYTHON=python3.11`."
    )


def cpu_refusal(cpuinfo: str) -> "str | None":
    """`cpuinfo`: the text of /proc/cpuinfo."""
    flags = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")]
    if flags and all("avx2" in names for names in flags):
        return None
    return "The processor has no AVX2 (see flags in /proc/cpuinfo), which vLLM's CPU build needs: use a newer one."


def disk_refusal(free_bytes: int, folder: str, min_free_bytes: int = MIN_FREE_BYTES) -> "str | None":
    if free_bytes >= min_free_bytes:
        return None
    return (
        f"{folder} has {free_bytes / 1e9:.1f} GB free, but the installation needs {min_free_bytes / 1e9:.0f} GB: "
        "free some space or clone to a larger disk."
    )


def refusal() -> "str | None":
    """The first reason why this machine cannot be served; `None` when it can."""
    root = Path(__file__).resolve().parent.parent
    return (
        system_refusal(platform.system())
        or machine_refusal(platform.machine())
        or python_refusal(sys.version_info[:2])
        or cpu_refusal(Path("/proc/cpuinfo").read_text())
        or disk_refusal(shutil.disk_usage(root).free, str(root))
    )


if __name__ == "__main__":
    sys.exit(refusal())
