"""Checks of one machine before any cluster starts on it: packages, accelerators, memory, disks, ports, settings.

Imports only the standard library, since a missing package is one of the things to report. `preflight` and `connect`
check the requirements of a run; they are imported where they are called.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf.actors.accelerators import Device
    from rlhf.actors.preflight import NodeReport

LOW_MEMORY_BYTES = 8 * 10**9
"""Free memory below which several processes with torch may not fit: an estimate, so it only warns."""
MIN_CPUS = 2
NUM_NAMED = 5
"""Largest number of packages that a finding names."""
AUTH_MODE, THREADS = "RAY_AUTH_MODE", "OMP_NUM_THREADS"


class State(StrEnum):
    """Verdict of a finding."""

    ok = "ok"
    warning = "warning"
    """Runs, with a restriction."""
    problem = "problem"
    """Does not run before the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check."""

    name: str
    state: State
    value: str
    """State of this machine."""
    remedy: str = ""
    """Action that solves it; empty where the state is `ok`."""


def ok(name: str, value: str) -> Finding:
    return Finding(name=name, state=State.ok, value=value)


def warning(name: str, value: str, remedy: str) -> Finding:
    return Finding(name=name, state=State.warning, value=value, remedy=remedy)


def problem(name: str, value: str, remedy: str) -> Finding:
    return Finding(name=name, state=State.problem, value=value, remedy=remedy)


def refused(name: str, value: str, sentence: str | None) -> Finding:
    """Return a problem with `sentence`, which has the remedy, or ok if `sentence` is None."""
    return ok(name, value) if sentence is None else problem(name, value, sentence)


def checked(name: str, check: Callable[[], Finding]) -> Finding:
    """Run a check; return a warning if it needs a missing package."""
    try:
        return check()
    except ImportError as error:
        return warning(name, f"not checked, as the package {error.name} is missing", "install the packages first")


def installed_versions() -> dict[str, str]:
    """Return the versions of all installed distributions, by the name that locks use."""
    return {canonical(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of(lock: str) -> dict[str, str]:
    """Return the versions in the text of a lock, by name."""
    lines = [line.strip().partition("==") for line in lock.splitlines()]
    return {canonical(name): version for name, equals, version in lines if equals and not name.startswith("#")}


def check_packages(lock: Path, installed: Mapping[str, str], install: str) -> Finding:
    """Compare the installed packages with a lock; `install` is the command that installs it."""
    if not lock.is_file():
        return warning("packages", f"not checked, as {lock} is missing", "run it from a clone of the repository")
    pins = pins_of(lock.read_text(encoding="utf-8"))
    missing = [f"{name} {version}" for name, version in pins.items() if name not in installed]
    other = [
        f"{name} {installed[name]} (locked {version})"
        for name, version in pins.items()
        if installed.get(name, version) != version
    ]
    value = f"{len(pins) - len(missing) - len(other)} of {len(pins)} as in {lock.parent.name}/{lock.name}"
    value += f"; missing: {named(missing)}" if missing else ""
    value += f"; other versions: {named(other)}" if other else ""
    if missing:
        return problem("packages", value, f"{install}, and run with the Python of the environment that it makes")
    return warning("packages", value, f"{install}; other versions are not tested") if other else ok("packages", value)


def named(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - NUM_NAMED} more" if len(entries) > NUM_NAMED else ""
    return f"{', '.join(entries[:NUM_NAMED])}{more}"


def check_cpus(count: int) -> Finding:
    """Check the number of CPUs that this process may use."""
    if count < MIN_CPUS:
        return warning("CPUs", str(count), f"use a machine with at least {MIN_CPUS}: roles run side by side and wait")
    return ok("CPUs", str(count))


def check_gpus(devices: Sequence[Device], failure: str | None, driver_refusal: str | None) -> Finding:
    """Check the GPUs and their driver. `driver_refusal` is the reason why the driver is unsuitable."""
    from rlhf.actors.preflight import FREE_MEMORY, in_words

    if failure is not None or driver_refusal is not None:
        return problem("GPUs", failure or f"{len(devices)} found", driver_refusal or "reload the driver or reboot")
    each = ", ".join(f"{in_words(device.free_bytes)} of {in_words(device.total_bytes)} free" for device in devices)
    value = f"{len(devices)}: {each}"
    if taken := [str(device.index) for device in devices if device.free_share < FREE_MEMORY]:
        return warning(
            "GPUs", value, f"end the processes that hold memory of {', '.join(taken)} (nvidia-smi shows them)"
        )
    return ok("GPUs", value)


def free_memory() -> int:
    """Return the free bytes of memory: those of the machine, or of this container if it has fewer."""
    available = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    assert available is not None, "Linux reports it since 3.14"
    free = int(available[1]) * 1024
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()) != "max":
        free = min(free, int(text) - int(used.read_text(encoding="utf-8")))
    return free


def check_memory(free_bytes: int) -> Finding:
    value = f"{free_bytes / 1e9:.1f} GB free"
    if free_bytes < LOW_MEMORY_BYTES:
        return warning("memory", value, "end other processes, or use tiny models: each role's process loads torch")
    return ok("memory", value)


def this_node(**changes: object) -> NodeReport:
    """Return a report of this machine for `preflight.judge_node`, without problems except those in `changes`."""
    from rlhf.actors.preflight import NodeReport

    given = {"node": socket.gethostname(), "versions": {}, "shm_bytes": 1 << 62, "free_bytes": {}, **changes}
    return NodeReport(shares_output=True, **given)  # type: ignore[arg-type]


def check_disk(name: str, folder: Path) -> Finding:
    """Check free space and permissions at `folder`, which may not exist yet."""
    from rlhf.actors.preflight import PreflightConfig, in_words, judge_node
    from rlhf.train.disk import why_not_made_in

    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if (number := why_not_made_in(place)) is not None:
        return problem(
            name, f"{place}: {os.strerror(number)}", "use a folder that this user may write to (output=FOLDER)"
        )
    free = shutil.disk_usage(place).free
    value = f"{in_words(free)} free at {place}"
    problems = judge_node(this_node(free_bytes={str(place): free}), PreflightConfig())
    return refused(name, value, problems[0] if problems else None)


def check_shared_memory(size: int, *, accelerated: bool) -> Finding:
    """Check the size of /dev/shm, with preflight's limit."""
    from rlhf.actors.accelerators import AcceleratorReport
    from rlhf.actors.preflight import PreflightConfig, in_words, judge_node

    gpus = AcceleratorReport(devices=(), failure=None, driver_cuda=None, torch_cuda=None, engine_for_cpu=False)
    problems = judge_node(
        this_node(shm_bytes=size, accelerators=gpus if accelerated else None), PreflightConfig()
    )  # fmt: skip
    return refused("/dev/shm", in_words(size), problems[0] if problems else None)


def check_port(name: str, port: int, remedy: str) -> Finding:
    """Check that a port of loopback is free to listen on."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        taken = "taken" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        return warning(name, f"{port} is {taken}", remedy)
    return ok(name, f"{port} is free")


def check_temporary_folder() -> Finding:
    """Check the space in Ray's temporary folder, and the length of socket paths in it."""
    from rlhf.actors.connect import check_temporary, temporary_folder

    return sentenced("Ray's folder", check_temporary) or check_disk("Ray's folder", Path(temporary_folder()))


def check_auth(environment: Mapping[str, str]) -> Finding:
    """Check Ray's authentication: its mode, and who may read the token."""
    from rlhf.actors.connect import check_home, token_file

    mode = environment.get(AUTH_MODE)
    if mode == "disabled":
        return warning(
            AUTH_MODE, mode, "export RAY_AUTH_MODE=token: anyone who reaches Ray's ports can run code as this user"
        )
    if (refusal := sentenced(AUTH_MODE, check_home)) is not None:
        return refusal
    token = token_file()
    if token is not None and token.is_file() and token.stat().st_mode & 0o077:
        return warning(AUTH_MODE, f"others may read {token}", f"chmod 600 {token}")
    if mode is None:
        return warning(
            AUTH_MODE, "not set", "export RAY_AUTH_MODE=token (make does): Ray's command line and jobs need it"
        )
    return ok(AUTH_MODE, mode)


def sentenced(name: str, check: Callable[[], None]) -> Finding | None:
    """Return the InputError of a check as a problem; None if the check raises none."""
    from rlhf.types import InputError

    try:
        check()
    except InputError as error:
        return problem(name, "cannot be used", str(error))
    return None


def check_threads(environment: Mapping[str, str], *, accelerated: bool) -> Finding:
    """Check the number of threads per process: on a CPU several processes share the cores."""
    threads = environment.get(THREADS)
    if threads == "1" or accelerated:
        return ok(THREADS, threads or "not set")
    return warning(
        THREADS,
        threads or "not set",
        "export OMP_NUM_THREADS=1 (make does): more threads than cores wait for each other",
    )
