"""Check of this machine: `python launch/check.py [output=FOLDER]` exits with 0 if it can run this project, else with 2.

`output` is the folder of future runs, by default `outputs`. Starts neither Ray nor a model, and needs no package.
"""

import os
import platform
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
# Both work without an installation.
sys.path[:0] = [str(ROOT), str(ROOT / "requirements")]

import check_gpu  # noqa: E402
import check_platform  # noqa: E402

if TYPE_CHECKING:
    from rlhf.actors.machine import Finding

MIN_PYTHON = (3, 11)
"""Oldest Python that the rest of this check runs on."""
SERVICE_PORT, DASHBOARD_PORT = 8000, 8265
INDENT = 27


def main() -> int:
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        print((__doc__ or "").strip())
        return 0
    unknown = [word for word in words if not word.startswith("output=")]
    if unknown:
        print(f"error: {unknown[0]}: there is no such key; known is output, as in output=FOLDER", file=sys.stderr)
        return 2
    if sys.version_info[:2] < MIN_PYTHON:
        print(f"error: {check_platform.python_refusal(sys.version_info[:2])}", file=sys.stderr)
        return 2
    from rlhf.actors.machine import State

    output = words[-1].partition("=")[2] if words else "outputs"
    page = findings(Path(output).expanduser())
    states = [finding.state for finding in page]
    for finding in page:
        print(f"{finding.state:<9}{finding.name:<18}{fitted(finding.value).lstrip()}")
        if finding.remedy:
            print(fitted(f"-> {finding.remedy}"))
    can = "cannot run this before the remedies" if State.problem in states else "can run this"
    print(f"\nThis machine {can}: {', '.join(f'{states.count(state)} {state}' for state in State)}.")
    return 2 if State.problem in states else 0


def fitted(text: str) -> str:
    """Wrap a text in the right column of the page."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
    indent = " " * INDENT
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def findings(output: Path) -> "list[Finding]":
    """Return all findings, one per line of the page. `output` is the folder that runs will write to."""
    from rlhf.actors import machine
    from rlhf.actors.accelerators import list_devices
    from rlhf.actors.machine import checked

    gpu = shutil.which("nvidia-smi") is not None
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    ports = [
        ("service's port", SERVICE_PORT, f"set http.port to another port, or end the process on {SERVICE_PORT}"),
        (
            "dashboard's port",
            DASHBOARD_PORT,
            "a Ray cluster may run here: join it with RAY_ADDRESS, or see `ray status`",
        ),
    ]
    return [
        *platform_findings(gpu),
        machine.check_cpus(len(os.sched_getaffinity(0))),
        checked("GPUs", lambda: machine.check_gpus(*list_devices(), check_gpu.driver_refusal(check_gpu.listing())))
        if gpu
        else machine.ok("GPUs", "none: every role runs on the CPU"),
        machine.check_memory(machine.free_memory()),
        checked("disk", lambda: machine.check_disk("disk", output)),
        checked("Ray's folder", machine.check_temporary_folder),
        checked("/dev/shm", lambda: machine.check_shared_memory(shared, accelerated=gpu)),
        *(machine.check_port(*port) for port in ports),
        checked(machine.AUTH_MODE, lambda: machine.check_auth(os.environ)),
        machine.check_threads(os.environ, accelerated=gpu),
    ]


def platform_findings(gpu: bool) -> "list[Finding]":
    """Compare machine and packages with the lock for this kind of machine."""
    from rlhf.actors.machine import check_packages, installed_versions, refused

    rules, lock, install = (
        (check_gpu, "gpu.lock", "make install-gpu") if gpu else (check_platform, "cpu.lock", "make install")
    )
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    processor = check_platform.machine_refusal(platform.machine())
    if processor is None and not gpu:
        processor = check_platform.cpu_refusal(cpuinfo)
    python = f"{platform.python_version()} at {sys.executable}"
    return [
        refused("system", platform.platform(), check_platform.system_refusal(platform.system())),
        refused("processor", platform.machine(), processor),
        refused("Python", python, rules.python_refusal(sys.version_info[:2])),
        check_packages(ROOT / "requirements" / lock, installed_versions(), install),
    ]


if __name__ == "__main__":
    sys.exit(main())
