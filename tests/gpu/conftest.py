"""What only CUDA reaches, on real GPUs: `make gpu-check`. Without one these tests skip themselves."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from rlhf.ports import free_port
from tests.e2e.conftest import SMALL_RUN, sums

__all__ = ["sums"]
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
DEADLINE_S = 900
Runs = Callable[..., list[dict[str, Any]]]
T = TypeVar("T")
WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 64_000}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if HERE in item.path.parents and not torch.cuda.is_available():
            item.add_marker(absent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not torch.cuda.is_available():
        terminalreporter.write_line("GPU: not run")


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Run `function` in a process of its own: its GPU memory and its process group end with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def become_the_only_rank() -> None:
    """Set the environment in which a learner is the only rank of its group."""
    port = str(free_port())
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 200 million parameters, 3.6 GB with gradients and optimiser."""
    from rlhf.models.tiny import build_tiny_model

    folder = tmp_path_factory.mktemp("wide")
    build_tiny_model(folder, alphabet="0123456789+=", shape=WIDE)
    return folder


@pytest.fixture
def train(models: dict[str, Path], sums: Path, tmp_path: Path) -> Runs:
    """`train(folder, *overrides)` is an online run on GPUs in bf16 that must succeed; it returns the metrics' rows."""

    def run(folder: str, *overrides: str) -> list[dict[str, Any]]:
        small = [each for each in SMALL_RUN if not each.startswith(("output=", "sampler.kv_cache", "sampler.eager"))]
        command = [*small, f"model={models['tied']}", f"data.path={sums}", f"output={tmp_path / folder}",
                   "backend.precision=bf16", "placement.policy=1", "validation.num_prompts=4", "log.tensorboard=false",
                   *overrides]  # fmt: skip
        done = subprocess.run([sys.executable, "launch/ppo.py", *command], cwd=REPOSITORY, capture_output=True,
                              text=True, timeout=DEADLINE_S, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]

    return run
