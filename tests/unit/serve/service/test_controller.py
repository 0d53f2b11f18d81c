"""What operators are answered while a candidate's engines start."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.types import InputError, RunError
from serve.control import engines as module
from serve.control.controller import Controller
from serve.control.release_manager import ReleaseManager
from tests.unit.serve.service.conftest import make_model
from tests.unit.serve.service.fake_serve import FakeServe

DEADLINE_S = 60


@pytest.fixture
def serving() -> FakeServe:
    return FakeServe(cpus=2)


@pytest.fixture
async def controller(store, config, serving, monkeypatch):
    """`old` is in production, and there is room for one candidate."""
    monkeypatch.setattr(module, "POLL_S", 0.02)
    config.models = {"old": config.models["old"]}
    config.replicas = replace(config.replicas, start_s=DEADLINE_S, call_s=DEADLINE_S)
    config.release = replace(config.release, interval_s=0.02)
    controller = Controller.__new__(Controller)
    # As Serve does it.
    await controller.__init__(config, str(store.database.engine.url), lambda config: serving)
    controller.engines.settle_s = 0.0
    yield controller
    controller.running.cancel()
    controller.store.close()


@pytest.fixture
def operate(controller, tmp_path: Path):
    """Commands, as operators give them; `start` makes its candidate's folder."""

    async def operate(command: str, name: str = "") -> dict:
        arguments = {} if command == "status" else {"by": "ann", "reason": ""}
        if command == "start":
            folder = tmp_path / name
            arguments |= {"name": name, "folder": str(folder if folder.exists() else make_model(folder, name))}
        async with asyncio.timeout(DEADLINE_S):
            return await controller.command(command, arguments)

    return operate


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_status_and_refusals_while_a_candidate_starts(controller, operate, serving):
    serving.slow.add("a")
    start = asyncio.create_task(operate("start", "a"))
    await until(lambda: "a" in serving.models())
    status = await operate("status")
    assert (status["starting"]["name"], status["starting"]["cancelled_by"], status["release"]) == ("a", None, None)
    second, promoted = await operate("start", "b"), await operate("promote")
    assert isinstance(second, InputError)
    assert str(second).startswith("candidate a has been starting for 0 s: wait for its release")
    assert isinstance(promoted, InputError)
    assert "promote it once its release has begun" in str(promoted)
    serving.slow.clear()
    begun = await start
    assert (begun["release"]["state"], begun["starting"]) == ("canary-50", None)
    assert serving.models() == ["a", "old"]


async def test_a_rollback_cancels_a_start_and_leaves_nothing(controller, operate, serving):
    serving.slow.add("a")
    start = asyncio.create_task(operate("start", "a"))
    await until(lambda: "a" in serving.models())
    status = await operate("roll_back")
    assert status["starting"]["cancelled_by"] == "ann"
    refused = await start
    assert isinstance(refused, RunError)
    assert str(refused) == "the start of a was cancelled by ann's rollback"
    assert (serving.models(), (await operate("status"))["release"]) == (["old"], None)
    serving.slow.clear()
    assert (await operate("start", "a"))["release"]["candidate"] == "a"


async def test_looks_do_not_end_the_engines_that_start(controller, operate, serving):
    """They go on meanwhile."""
    serving.slow.add("a")
    start = asyncio.create_task(operate("start", "a"))
    await until(lambda: "a" in serving.models())
    await asyncio.sleep(20 * controller.config.release.interval_s)
    assert serving.models() == ["a", "old"]
    serving.slow.clear()
    await start


async def test_a_start_goes_on_without_the_client_that_asked(controller, operate, serving):
    serving.slow.add("a")
    start = asyncio.create_task(operate("start", "a"))
    await until(lambda: "a" in serving.models())
    start.cancel()
    serving.slow.clear()
    await until(lambda: controller.starting is None)
    assert (await operate("status"))["release"]["candidate"] == "a"


async def test_the_next_candidate_gets_the_room_of_one_that_was_rolled_back(controller, operate, serving):
    await operate("start", "a")
    await operate("roll_back")
    assert serving.models() == ["a", "old"]
    assert (await operate("start", "b"))["release"]["candidate"] == "b"
    assert serving.models() == ["b", "old"]


async def test_a_rollback_to_engines_that_were_given_up_starts_them_first(controller, operate, serving, config):
    """A candidate took the room of the predecessor, and did not come to a release."""
    await operate("start", "a")
    await operate("promote")
    config.models = {}
    serving.broken["b"] = "ValueError: no such architecture"
    assert isinstance(await operate("start", "b"), InputError)
    await until(lambda: serving.models() == ["a"])
    status = await operate("roll_back")
    assert (status["production"], serving.models()) == ("old", ["old"])


async def test_what_fails_is_refused_and_the_service_goes_on(controller, operate, serving):
    serving.broken["a"] = "ValueError: no such architecture"
    refused = await operate("start", "a")
    assert isinstance(refused, InputError)
    assert (serving.models(), (await operate("status"))["starting"]) == (["old"], None)


async def test_a_rollback_while_the_release_is_saved_rolls_it_back(controller, operate, serving, monkeypatch):
    saving, go = threading.Event(), threading.Event()
    start = ReleaseManager.start

    def slow(*arguments):
        saving.set()
        assert go.wait(DEADLINE_S)
        start(*arguments)

    monkeypatch.setattr(ReleaseManager, "start", slow)
    started = asyncio.create_task(operate("start", "a"))
    await until(saving.is_set)
    rolled = asyncio.create_task(operate("roll_back"))
    await asyncio.sleep(0.1)
    go.set()
    await started
    status = await rolled
    assert (status["release"]["state"], status["starting"]) == ("rolled_back", None)
