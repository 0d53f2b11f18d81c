"""Who may import whom, and what an import loads."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT_IMPORTS, "--no-logo", "--no-cache"], cwd=folder, capture_output=True, text=True)


def loaded_by(rooms: list[str]) -> set[str]:
    """Top-level packages in a fresh interpreter after importing every module of `rooms` that exists."""
    code = f"""
import importlib, pkgutil, sys, rlhf
for module in pkgutil.walk_packages(rlhf.__path__, "rlhf."):
    if module.name.split(".")[1] in {rooms!r}:
        importlib.import_module(module.name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_contracts_hold():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "line", "contract"),
    [
        (
            "rlhf/train/intruder.py",
            "import ray",
            "Only actors, stages, rooms above them and curate import ray",
        ),
        ("rlhf/actors/intruder.py", "import vllm", "Only runtimes import vllm"),
        ("rlhf/train/intruder.py", "def late():\n    from deepspeed import comm", "Only runtimes import deepspeed"),
        ("rlhf/ops/intruder.py", "import rlhf.train", "Rooms import downwards only"),
        ("rlhf/stages/intruder.py", "import rlhf.pipelines.kinds", "Rooms import downwards only"),
        ("rlhf/data/intruder.py", "import rlhf.algorithms", "Rooms import downwards only"),
        ("rlhf/protocols/intruder.py", "import rlhf.ops.kl", "Rooms import downwards only"),
        ("rlhf/protocols/intruder.py", "import serve.text", "rlhf knows nothing of serving"),
        ("rlhf/data/intruder.py", "import serve.config", "rlhf knows nothing of serving"),
        ("serve/store/intruder.py", "import rlhf.stages.chat", "Serving stands on rlhf, beside its stages"),
        ("serve/store/intruder.py", "import serve.statistics.metrics", "Rooms of serving import downwards only"),
        ("serve/releases/intruder.py", "import serve.feedback.export", "Rooms of serving import downwards only"),
        ("serve/annotate/__init__.py", "import serve.gateway.routes", "Rooms of serving import downwards only"),
        ("serve/attic/__init__.py", "", "Rooms of serving import downwards only"),
        ("rlhf/attic/__init__.py", "", "Rooms import downwards only"),
    ],
)
def test_contracts_catch(tmp_path, path, line, contract):
    for package in ("rlhf", "serve"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    intruder = tmp_path / path
    intruder.parent.mkdir(exist_ok=True)
    intruder.write_text(line + "\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in " ".join(done.stdout.split())


def test_light_rooms_load_no_runtime():
    loaded = loaded_by(["config", "ops", "algorithms", "rewards", "train"])
    assert loaded.isdisjoint({"ray", "vllm", "deepspeed"})


def test_ops_load_torch_and_nothing_else():
    loaded = loaded_by(["ops"])
    assert loaded.isdisjoint({"ray", "vllm", "deepspeed", "transformers", "datasets", "peft", "hydra", "omegaconf"})


def test_protocols_load_pydantic_and_no_server():
    loaded = loaded_by(["protocols"])
    assert "pydantic" in loaded
    assert loaded.isdisjoint({"ray", "vllm", "torch", "transformers", "fastapi", "starlette", "omegaconf", "serve"})
