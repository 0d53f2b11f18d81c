"""Which Serve applications are deployed and deleted, whether there is room for them, and deadlines of Serve's calls."""

import time
from dataclasses import replace
from threading import Event

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.schema import ApplicationStatus

from rlhf.types import InputError, RunError
from serve.control import engines as module
from serve.control.engines import ApplicationState, EngineManager, call_with_timeout, missing, num_that_fit, surplus
from serve.control.release_manager import ReleaseManager
from tests.unit.serve.service.conftest import NOW, make_model
from tests.unit.serve.service.fake_serve import FakeServe

DEADLINE_S = 60


def found(status: str) -> ApplicationState:
    return ApplicationState(status=ApplicationStatus(status), num_engines=1)


THERE = {
    "rlhf-service": found("RUNNING"),
    "model-foreign": found("RUNNING"),
    "rlhf-model-of-another-service": found("RUNNING"),
    "rlhf-model-old": found("RUNNING"),
    "rlhf-model-ended": found("DEPLOY_FAILED"),
    "rlhf-model-withdrawn": found("RUNNING"),
    "rlhf-model-going": found("DELETING"),
}
DEPLOYED = {
    "rlhf-model-old",
    "rlhf-model-ended",
    "rlhf-model-withdrawn",
    "rlhf-model-going",
    "rlhf-model-gone-long-ago",
}
WANTED = {"rlhf-model-old", "rlhf-model-ended", "rlhf-model-new"}


def test_what_is_wanted_and_not_there_or_failed_is_deployed():
    assert missing(THERE, WANTED) == {"rlhf-model-ended", "rlhf-model-new"}
    assert missing({}, WANTED) == WANTED


def test_only_what_this_service_deployed_is_deleted_and_once():
    assert surplus(THERE, DEPLOYED, WANTED) == {"rlhf-model-withdrawn"}
    assert surplus(THERE, set(), set()) == set(), "also under our own prefix"


@pytest.mark.parametrize(
    ("need", "free", "num"),
    [
        ({"CPU": 1.0}, [{"CPU": 0.9999}, {"CPU": 2.0}], 2),
        ({"CPU": 1.0, "GPU": 4.0}, [{"CPU": 9.0, "GPU": 7.0}, {"CPU": 9.0, "GPU": 8.0}, {"CPU": 9.0}], 3),
        ({"CPU": 1.0, "GPU": 4.0}, [{"CPU": 9.0, "GPU": 2.0}, {"CPU": 9.0, "GPU": 2.0}], 0),
        ({"CPU": 1.0}, [], 0),
    ],
)
def test_an_engine_is_on_one_node(need, free, num):
    assert num_that_fit(need, free) == num


def test_a_call_that_does_not_come_back_is_one_sentence():
    never = Event()
    begun = time.monotonic()
    with pytest.raises(RunError, match=r"^Ray Serve did not give its status \(no answer within 0.05 s\); see its log"):
        call_with_timeout(0.05, "give its status", lambda: never.wait(DEADLINE_S))
    assert time.monotonic() - begun < DEADLINE_S / 2
    never.set()
    assert call_with_timeout(DEADLINE_S, "count", lambda: 3) == 3


def test_an_error_of_ray_is_one_sentence_and_any_other_itself():
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(RunError, match=r"^Ray Serve did not count \(ActorDiedError: .*\); see its log"):
        call_with_timeout(DEADLINE_S, "count", lambda: fail(ActorDiedError()))
    with pytest.raises(InputError, match=r"^a model$"):
        call_with_timeout(DEADLINE_S, "count", lambda: fail(InputError("a model")))


@pytest.fixture
def serving() -> FakeServe:
    return FakeServe(cpus=3)


@pytest.fixture
def manager(store, config) -> ReleaseManager:
    """`old` alone is configured: `new`, and others that tests make, are candidates."""
    config.models = {"old": config.models["old"]}
    config.replicas = replace(config.replicas, start_s=0.5, call_s=DEADLINE_S)
    return ReleaseManager(store, config, lambda: NOW)


@pytest.fixture
def engines(store, config, manager, serving, monkeypatch) -> EngineManager:
    monkeypatch.setattr(module, "POLL_S", 0.02)
    engines = EngineManager(store, config, serving, settle_s=0.0)
    engines.bring_all_up()
    assert serving.models() == ["old"]
    return engines


@pytest.fixture
def others(manager, tmp_path) -> list:
    """Three more models, registered."""
    return [manager.register(name, str(make_model(tmp_path / name, name))) for name in ("a", "b", "c")]


def nothing() -> None:
    """There is no reason to end a start."""


def test_without_room_the_engines_kept_for_a_way_back_end(engines, manager, serving, others, store):
    """Of `second_release.sh`: production, a candidate that was rolled back, and no room for the next one."""
    serving.cpus = 2
    first, second, _ = others
    engines.bring_up(first, nothing)
    manager.start("a", "ann", "")
    manager.roll_back("ann", "")
    engines.reconcile()
    assert serving.models() == ["a", "old"], "they stay while there is room"
    engines.bring_up(second, nothing)
    assert serving.models() == ["b", "old"]
    manager.start("b", "ann", "")
    engines.reconcile()
    assert (serving.models(), len(store.applications.names())) == (["b", "old"], 2)


def test_with_room_they_stay_until_the_next_release_begins(engines, manager, serving, others):
    first, second, _ = others
    engines.bring_up(first, nothing)
    manager.start("a", "ann", "")
    manager.roll_back("ann", "")
    engines.bring_up(second, nothing)
    assert serving.models() == ["a", "b", "old"]
    manager.start("b", "ann", "")
    engines.reconcile()
    assert serving.models() == ["b", "old"]


def test_without_room_a_start_is_refused_with_what_is_needed_and_what_is_free(
    engines, manager, serving, others, config
):
    serving.cpus = 1
    with pytest.raises(RunError, match=r"^there is no room for a: 1 engine of 1 CPU is needed, and free is 0 CPU;"):
        engines.bring_up(others[0], nothing)
    assert serving.models() == ["old"]
    config.replicas = replace(config.replicas, min=3, max=3, memory_bytes=1 << 30)
    serving.cpus = 2
    sentence = r"3 engines of 1 CPU and 1\.07374e\+09 memory are needed, and free is 1 CPU and 0 memory;"
    with pytest.raises(RunError, match=sentence):
        engines.make_room(others[0])


def test_what_a_watch_needs_is_no_spare_room(engines, manager, serving, others, config, store):
    config.release = replace(config.release, watch_s=100.0)
    serving.cpus = 2
    engines.bring_up(others[0], nothing)
    manager.start("a", "ann", "")
    manager.promote("ann", "")
    with pytest.raises(RunError, match="promote a release that is still watched"):
        engines.bring_up(others[1], nothing)
    manager.promote("ann", "it is good")
    config.models = {"a": str(others[0].folder)}
    engines.bring_up(others[1], nothing)
    assert serving.models() == ["a", "b"], "the predecessor of a release whose watch is over"
    assert not manager.latest().warm


def test_a_cluster_that_adds_nodes_is_waited_for(engines, serving, others, config):
    config.replicas = replace(config.replicas, wait_for_nodes=True)
    serving.cpus = 1
    with pytest.raises(RunError, match=r"model a in .* does not start within replicas\.start_s=0\.5 s"):
        engines.bring_up(others[0], nothing)
    engines.reconcile()
    assert serving.models() == ["old"], "nothing is left of a start that failed"


def test_engines_that_do_not_start_are_refused_with_the_reason(engines, serving, others, store):
    serving.broken["a"] = "ValueError: no such architecture"
    with pytest.raises(InputError, match=r"^model a in .* does not start: ValueError: no such architecture$"):
        engines.bring_up(others[0], nothing)
    engines.reconcile()
    engines.reconcile()
    assert (serving.models(), len(store.applications.names())) == (["old"], 1)


def test_a_start_that_nobody_wants_any_more_ends(engines, serving, others):
    serving.slow.add("a")

    def check() -> None:
        if "a" in serving.models():
            raise RunError("cancelled")

    with pytest.raises(RunError, match=r"^cancelled$"):
        engines.bring_up(others[0], check)
    engines.reconcile()
    assert serving.models() == ["old"]


def test_a_start_outlives_serves_controller(engines, serving, others):
    """Calls fail until it is back."""
    engines.reconcile(others[0])
    serving.failures = [ActorDiedError()] * 2
    engines.wait(others[0], nothing)
    assert serving.models() == ["a", "old"]
