"""What only CUDA reaches, on real GPUs: `make gpu-check`. Without one these tests skip themselves."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import SMALL_RUN, sums

__all__ = ["sums"]
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
DEADLINE_S = 900
Runs = Callable[..., list[dict[str, Any]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if HERE in item.path.parents and not torch.cuda.is_available():
            item.add_marker(absent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not torch.cuda.is_available():
        terminalreporter.write_line("GPU: not run")


@pytest.fixture
def train(models: dict[str, Path], sums: Path, tmp_path: Path) -> Runs:
    """`train(folder, *overrides)` is an online run on GPUs in bf16 that must succeed; it returns the metrics' rows."""

    def run(folder: str, *overrides: str) -> list[dict[str, Any]]:
        small = [each for each in SMALL_RUN if not each.startswith(("output=", "sampler.kv_cache", "sampler.eager"))]
        command = [*small, f"model={models['tied']}", f"data.path={sums}", f"output={tmp_path / folder}",
                   "backend.precision=bf16", "placement.policy=1", "success.num_prompts=4", "log.tensorboard=false",
                   *overrides]  # fmt: skip
        done = subprocess.run([sys.executable, "launch/ppo.py", *command], cwd=REPOSITORY, capture_output=True,
                              text=True, timeout=DEADLINE_S, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]

    return run
