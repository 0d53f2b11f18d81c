"""A reward model that shares accelerators with engines comes first, and gives all its memory back when it leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf.actors.reward_role import RewardRole
from rlhf.actors.reward_worker import RewardModelSpec, RewardModelWorker
from rlhf.actors.sampler_pool import SamplerPool
from rlhf.runtimes.configs import Precision
from rlhf.train.failover import FailoverConfig, Restarts

SPEC = RewardModelSpec(
    model_paths=("judge",), pessimism=0.0, precision=Precision.fp32, max_tokens=64, template_date=None
)


class FakeLease:
    """Nobody competes for it."""

    @asynccontextmanager
    async def hold(self, phase: str):
        yield


class FakeWorkers:
    """One actor, which takes three turns of the event loop to start."""

    def __init__(self, role: str, lease: FakeLease, events: list[str]) -> None:
        self.role, self.lease, self.phase, self.events = role, lease, role, events
        self.actors = [SimpleNamespace(start=SimpleNamespace(remote=self.come_up))]

    def __len__(self) -> int:
        return 1

    async def come_up(self, *_: Any) -> None:
        self.events.append(f"{self.role} begins")
        for _ in range(3):
            await asyncio.sleep(0)
        self.events.append(f"{self.role} is up")

    async def start(self, call: Callable[[int, Any], Awaitable[None]]) -> None:
        async with self.lease.hold(self.phase):
            await call(0, self.actors[0])


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        (True, ["reward begins", "reward is up", "sampler begins", "sampler is up"]),
        (False, ["reward begins", "sampler begins", "reward is up", "sampler is up"]),
    ],
)
def test_an_engine_that_shares_its_accelerator_starts_after_the_reward_model(together, expected):
    events: list[str] = []
    lease = FakeLease()
    sampler, reward = (FakeWorkers(role, each, events) for role, each in
                       (("sampler", lease), ("reward", lease if together else FakeLease())))  # fmt: skip

    async def start() -> None:
        restarts = Restarts(FailoverConfig())
        role = RewardRole(reward, restarts, events.append)
        await SamplerPool(sampler, role, restarts, start_timeout_s=5, tell=events.append).start(None)

    asyncio.run(start())
    assert events == expected


def test_a_reward_model_that_leaves_gives_its_memory_to_others(monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty the cache"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: calls.append("measure") or (2, 10))
    worker = RewardModelWorker(SPEC)
    worker.models = [SimpleNamespace(move=calls.append, device=torch.device("cuda"))] * 2
    assert worker.offload() == 8
    assert calls == ["cpu", "cpu", "empty the cache", "measure"]
    worker.onload()
    assert calls[4:6] == ["cuda", "cuda"]
