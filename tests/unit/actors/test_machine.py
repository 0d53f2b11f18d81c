"""What `launch/check.py` finds of a machine, from real sockets, disks, locks and environments."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.actors import machine
from rlhf.actors.accelerators import parse_devices
from rlhf.actors.machine import State

ROOT = Path(__file__).parents[3]


def run_check(*arguments: str, options: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *options, str(ROOT / "launch/check.py"), *arguments]
    env = {**kept, "COLUMNS": "100", **environment}
    return subprocess.run(command, capture_output=True, env=env, text=True, timeout=600, check=False)


def states(page: str) -> dict[str, str]:
    """The state of each line of a page by its name."""
    lines = [line for line in page.splitlines() if line.startswith(tuple(State))]
    return {line[9:27].strip(): line[:9].strip() for line in lines}


def test_the_page_names_everything_and_the_exit_code_says_whether_it_runs(tmp_path):
    done = run_check(f"output={tmp_path}", OMP_NUM_THREADS="1")
    found = states(done.stdout)
    assert list(found) == [
        "system", "processor", "Python", "packages", "CPUs", "GPUs", "memory", "disk", "Ray's folder", "/dev/shm",
        "service's port", "dashboard's port", "RAY_AUTH_MODE", "OMP_NUM_THREADS",
    ]  # fmt: skip
    assert done.returncode == (2 if "problem" in found.values() else 0)
    assert f"free at {tmp_path}" in " ".join(done.stdout.split())
    # A long path is not cut.
    assert max(len(line) for line in done.stdout.splitlines() if "/" not in line) <= 100
    assert done.stderr == ""


def test_without_any_package_that_is_what_it_says():
    done = run_check(options=("-S",), OMP_NUM_THREADS="2")
    found = states(done.stdout)
    assert done.returncode == 2
    assert (found["packages"], found["disk"], found["OMP_NUM_THREADS"]) == ("problem", "warning", "warning")
    assert "-> make install" in done.stdout
    assert "not checked, as the package numpy is missing" in " ".join(done.stdout.split())
    assert done.stderr == ""


def test_a_small_disk_is_a_problem_of_the_page(small_disk):
    done = run_check(f"output={small_disk}/runs/first")
    assert done.returncode == 2
    assert states(done.stdout)["disk"] == "problem"
    assert "less than preflight.min_disk_bytes=" in " ".join(done.stdout.split())


def test_an_unknown_word_is_refused():
    done = run_check("ouput=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: ouput=x: there is no such key; known is output, as in output=FOLDER\n"


def test_a_disk_that_cannot_be_written_is_a_problem(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    finding = machine.check_disk("disk", small_disk / "run")
    assert (finding.state, finding.value) == (State.problem, f"{small_disk}: Read-only file system")
    assert "output=FOLDER" in finding.remedy


def test_a_disk_with_room_is_ok(tmp_path):
    assert machine.check_disk("disk", tmp_path / "not/yet").state is State.ok


def test_little_shared_memory_is_what_preflight_refuses(small_disk):
    size = shutil.disk_usage(small_disk).total
    finding = machine.check_shared_memory(size, accelerated=False)
    assert (finding.state, finding.value) == (State.problem, "0.41 MB")
    assert "less than preflight.min_shm_bytes=67108864: enlarge it" in finding.remedy
    assert machine.check_shared_memory(64 << 20, accelerated=False).state is State.ok
    assert machine.check_shared_memory(64 << 20, accelerated=True).state is State.problem


def test_a_port_that_something_listens_on_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        finding = machine.check_port("service's port", port, "choose another")
        assert (finding.state, finding.value, finding.remedy) == (State.warning, f"{port} is taken", "choose another")
    assert machine.check_port("service's port", port, "choose another").state is State.ok


def test_packages_are_compared_with_a_lock(tmp_path):
    versions = machine.installed_versions()
    assert versions["numpy"] == importlib.metadata.version("numpy")
    folder = tmp_path / "requirements"
    folder.mkdir()
    lock = folder / "cpu.lock"
    lock.write_text(f"numpy=={versions['numpy']}\nhydra-core=={versions['hydra-core']}\n")
    finding = machine.check_packages(lock, versions, "make install")
    assert (finding.state, finding.value) == (State.ok, "2 of 2 as in requirements/cpu.lock")
    lock.write_text(f"numpy=={versions['numpy']}\nhydra-core==0.1\n")
    finding = machine.check_packages(lock, versions, "make install")
    expected = f"1 of 2 as in requirements/cpu.lock; other versions: hydra-core {versions['hydra-core']} (locked 0.1)"
    assert (finding.state, finding.value) == (State.warning, expected)
    lock.write_text(f"numpy=={versions['numpy']}\nNo_Such.Package==3\n")
    finding = machine.check_packages(lock, versions, "make install")
    assert finding.state is State.problem
    assert finding.value == "1 of 2 as in requirements/cpu.lock; missing: no-such-package 3"
    assert finding.remedy.startswith("make install")


def test_a_lock_that_is_not_there_is_a_warning(tmp_path):
    assert machine.check_packages(tmp_path / "gpu.lock", {}, "make install-gpu").state is State.warning


def test_few_of_many_packages_are_named():
    assert machine.named(list("abcdefg")) == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("listing", "driver", "state", "said"),
    [
        ("0, 81559, 81000\n1, 81559, 80000\n", None, State.ok, "2: 85 GB of 86 GB free, 84 GB of 86 GB free"),
        ("0, 81559, 81000\n1, 81559, 8000\n", None, State.warning, "2: 85 GB of 86 GB free, 8.4 GB of 86 GB free"),
        ("0, 81559, 81000\n", "The NVIDIA driver serves CUDA 12.8.", State.problem, "1 found"),
    ],
)
def test_gpus_are_judged_by_their_driver_and_their_free_memory(listing, driver, state, said):
    finding = machine.check_gpus(parse_devices(listing), None, driver)
    assert (finding.state, finding.value) == (state, said)
    assert driver is None or finding.remedy == driver


def test_gpus_that_cannot_be_listed_are_a_problem():
    finding = machine.check_gpus((), "No devices were found", None)
    assert (finding.state, finding.value) == (State.problem, "No devices were found")


@pytest.mark.parametrize(
    ("environment", "accelerated", "state"),
    [({"OMP_NUM_THREADS": "1"}, False, State.ok), ({}, False, State.warning), ({"OMP_NUM_THREADS": "8"}, False,
     State.warning), ({}, True, State.ok)],
)  # fmt: skip
def test_one_thread_for_each_process_on_a_cpu(environment, accelerated, state):
    assert machine.check_threads(environment, accelerated=accelerated).state is state


def test_authentication(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for mode, state in (({"RAY_AUTH_MODE": "token"}, State.ok), ({"RAY_AUTH_MODE": "disabled"}, State.warning),
                        ({}, State.warning)):  # fmt: skip
        finding = machine.check_auth(mode)
        assert finding.state is state
        assert state is State.ok or "export RAY_AUTH_MODE=token" in finding.remedy
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    finding = machine.check_auth({"RAY_AUTH_MODE": "token"})
    assert (finding.state, finding.remedy) == (State.warning, f"chmod 600 {token}")
    token.chmod(0o600)
    assert machine.check_auth({"RAY_AUTH_MODE": "token"}).state is State.ok


def test_sockets_with_long_paths_are_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    finding = machine.check_temporary_folder()
    assert finding.state is State.problem
    assert "export TMPDIR=/tmp" in finding.remedy


def test_memory_and_cpus():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < machine.free_memory() <= total
    assert machine.check_memory(10**10).state is State.ok
    assert machine.check_memory(10**9).value == "1.0 GB free"
    assert machine.check_memory(10**9).state is State.warning
    assert machine.check_cpus(1).state is State.warning
    assert machine.check_cpus(2).state is State.ok
