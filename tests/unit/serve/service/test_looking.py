"""The release controller looks without being in the way of operators."""

import asyncio
import threading

import pytest

from serve.config import ServeConfig
from serve.control.controller import Controller
from serve.control.engines import EngineManager
from serve.control.release_manager import Judgement, ReleaseManager
from serve.store.release_records import Phase, Transition
from tests.unit.serve.service.conftest import NOW
from tests.unit.serve.service.fake_serve import FakeServe


class SlowDesk(ReleaseManager):
    """Whose judging takes until the test lets it go on."""

    reached, go_on, acted = threading.Event(), threading.Event(), threading.Event()

    def judge(self) -> Judgement | None:
        judgement = super().judge()
        self.reached.set()
        assert self.go_on.wait(60)
        return judgement

    def act(self, judgement: Judgement | None) -> Transition | None:
        try:
            return super().act(judgement)
        finally:
            self.acted.set()


class WithoutServe(Controller):
    """Its engines are pretended ones."""

    def __init__(self, config: ServeConfig, manager: ReleaseManager) -> None:
        self.config, self.store, self.manager, self.lock = config, manager.store, manager, asyncio.Lock()
        self.engines, self.starting = EngineManager(manager.store, config, FakeServe(cpus=9), settle_s=0.0), None


class Clock:
    """Every call is a minute later."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        self.now += 60
        return self.now


@pytest.fixture
def config(config):
    """Steps that a person has to decide about after a second."""
    config.release.interval_s, config.release.min_step_s, config.release.max_step_s = 0.01, 0.0, 1.0
    return config


def test_a_verdict_on_a_release_that_has_changed_since_does_nothing(store, config):
    manager = ReleaseManager(store, config, Clock())
    manager.start("new", "ann", "")
    judgement = manager.judge()
    assert judgement.verdict.outcome == "inconclusive"
    assert manager.verdict is None, "judging changes nothing"
    manager.roll_back("ann", "enough")
    assert manager.act(judgement) is None
    assert manager.latest().phase is Phase.rolled_back
    manager.start("new", "ann", "again")
    assert manager.act(judgement) is None, "also where the next release has changed as often"
    assert manager.act(None) is None
    assert manager.verdict is None
    assert manager.act(manager.judge()).after == "paused"


def test_commands_do_not_wait_for_a_look(store, config):
    manager = SlowDesk(store, config, Clock())
    manager.start("new", "ann", "")

    async def run() -> dict:
        controller = WithoutServe(config, manager)
        running = asyncio.create_task(controller.run())
        assert await asyncio.to_thread(manager.reached.wait, 60)
        status = await asyncio.wait_for(controller.command("roll_back", {"by": "ann", "reason": "enough"}), 60)
        manager.go_on.set()
        assert await asyncio.to_thread(manager.acted.wait, 60)
        running.cancel()
        return status

    assert asyncio.run(run())["release"]["state"] == "rolled_back"
    assert store.releases.latest().phase == "rolled_back"
    assert manager.verdict is None
