"""Runs that are prepared and not started."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import OnlineConfig, compose
from rlhf.stages.online.job import Job, prepare

CONF = Path(__file__).parents[4] / "conf"
BASE = ["output=unused", "sampling.max_tokens=4", "stream.prompts_per_step=2", "sampler.context_tokens=64"]
PPO = ["algorithm=ppo", "algorithm.kl_coef=0.1"]


@pytest.fixture
def job(models: dict[str, Path], tmp_path: Path) -> Callable[..., Job]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(4)))

    def prepared(*overrides: str) -> Job:
        base = [*BASE, f"model={models['tied']}", f"data.path={rows}"]
        return prepare(compose(CONF, "online", [*base, *overrides], OnlineConfig))

    return prepared
