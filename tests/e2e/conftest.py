"""One set of roles for the session: policy and critic on two ZeRO-3 ranks each, a reference, and a vLLM engine."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import OnlineConfig


@pytest.fixture(scope="session")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with answers: single-digit sums."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def compose(models: dict[str, Path], sums: Path) -> Callable[..., OnlineConfig]:
    """`compose(*overrides)`: a small online run on the tied model, as the command line would compose it."""
    from rlhf.config import compose as compose_config

    def composed(*overrides: str) -> OnlineConfig:
        base = [*SMALL_RUN, f"model={models['tied']}", f"data.path={sums}"]
        return compose_config(Path(__file__).parents[2] / "conf", "online", [*base, *overrides], OnlineConfig)

    return composed


# The untrained model never answers right: a reward on the length of what it says has a spread.
SMALL_RUN = [
    "output=unused",
    f"reward.functions=[{Path(__file__).parent / 'rewards.py'}:digits]",
    "sampling.max_tokens=8",
    "stream.prompts_per_step=4",
    "algorithm.group_size=4",
    "algorithm.kl_coef=0.05",
    "train.num_steps=3",
    "train.num_minibatches=2",
    "backend.precision=fp32",
    "backend.max_tokens_per_microbatch=64",
    "optimizer.lr=1e-3",
    "optimizer.schedule=linear",
    "sampler.context_tokens=64",
    "sampler.kv_cache_bytes=33554432",
    "sampler.accelerator_memory_fraction=0.1",
    "sampler.eager=true",
    "weight_sync.bucket_bytes=50000",
    "placement.policy=2",
]


@pytest.fixture(scope="session")
def run_async() -> Iterator[Callable[..., Any]]:
    """Runs coroutines in the session's one event loop, which actor handles and engines outlive tests in."""
    with asyncio.Runner() as runner:
        yield runner.run


PPO = ["algorithm=ppo", "critic.optimizer.lr=2e-3", "placement.critic=2"]


@pytest.fixture(scope="session")
def all_roles(cluster: None, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]) -> Iterator[Any]:
    """Every role of a PPO run, started once: imports dominate."""
    from rlhf.actors.placement import reserved
    from rlhf.stages.online.job import prepare
    from rlhf.stages.online.roles import start_roles
    from rlhf.train.clock import Clock

    job = prepare(compose(*PPO))
    with reserved(job.plan, 300) as bundles:
        started = run_async(start_roles(job, bundles, Clock()))
        yield started
        run_async(started.samplers.close())


@pytest.fixture(scope="session")
def beginning(all_roles: Any, run_async: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the learners began with."""
    folder = tmp_path_factory.mktemp("beginning")
    for name, role in all_roles.learners.items():
        run_async(role.save(folder / name))
    return folder


@pytest.fixture
def roles(all_roles: Any, beginning: Path, run_async: Callable[..., Any]) -> Any:
    """The roles, their learners as they began. GRPO's tests have no use for the critic, nor it for them."""
    for name, role in all_roles.learners.items():
        run_async(role.load(beginning / name))
    return all_roles
