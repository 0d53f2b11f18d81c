"""Releases as the store has them, with a clock of the test's own."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf.train.artifact import committing
from rlhf.types import InputError, RunError
from serve.config import ServeConfig
from serve.control.release_manager import ReleaseManager
from serve.gateway import routing
from serve.releases.config import ReleaseConfig
from serve.store.release_records import Phase
from serve.store.releases import StaleRelease
from serve.store.store import Store
from tests.unit.serve.service.conftest import NOW, make_model


class Clock:
    """Unix seconds that the test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def own(store: Store, config: ServeConfig, tmp_path: Path) -> dict[str, Path]:
    """Folders that the test may spoil, under the names of the registered ones."""
    config.release = ReleaseConfig(shadow_requests=5, min_step_s=10, max_step_s=100, steps=[0.25, 0.5], watch_s=0)
    found = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in config.models.items()}
    config.models = {name: str(folder) for name, folder in found.items()}
    return found


@pytest.fixture
def manager(store: Store, config: ServeConfig, clock: Clock, own: dict[str, Path]) -> ReleaseManager:
    manager = ReleaseManager(store, config, clock)
    manager.bootstrap()
    return manager


def trail(manager: ReleaseManager) -> list[tuple[str, str, str]]:
    """Who brought the latest release where, and why."""
    return [(entry["by"], entry["after"], entry["reason"]) for entry in manager.status()["release"]["transitions"]]


def test_a_release_from_start_to_promotion_and_back(manager, store, clock):
    assert manager.status()["release"] is None
    assert manager.status()["production"] == "old"
    assert [model["name"] for model in manager.status()["models"]] == ["new", "old"]
    manager.start("new", "ann", "")
    assert routing.read(store, manager.config).split.experiment == "r1/shadow"
    clock.now += 1
    manager.promote("ann", "I know it")
    assert (store.releases.production(), manager.latest().phase) == ("new", Phase.promoted)
    assert routing.read(store, manager.config).split is None
    clock.now += 1
    manager.roll_back("bob", "")
    assert (store.releases.production(), manager.latest().phase) == ("old", Phase.rolled_back)
    begun, promoted = ("ann", "shadow", "started"), ("ann", "promoted", "I know it")
    assert trail(manager) == [begun, promoted, ("bob", "rolled_back", "rolled back")]
    assert [entry["at"] for entry in manager.status()["release"]["transitions"]] == [NOW, NOW + 1, NOW + 2]
    manager.start("new", "ann", "again")
    assert manager.latest().id == "r2"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("old", "candidate='old' is in production already; name another model"),
        ("assistant", r"models\.assistant: that is what users ask for"),
        ("third", r"models\.third=.*: it has neither config\.json nor adapter_config\.json"),
        ("new", r"models\.new=.*: the name already belongs to other files"),
    ],
)
def test_what_cannot_be_a_candidate(manager, tmp_path, name, sentence):
    folder = make_model(tmp_path / "other", "other")
    if name == "third":
        (folder / "config.json").unlink()
    known = manager.status()
    with pytest.raises(InputError, match=sentence):
        manager.check_start(name, str(folder))
    assert manager.status() == known


def test_a_model_may_move(manager, store, own, tmp_path):
    moved = shutil.copytree(own["new"], tmp_path / "moved")
    assert manager.check_start("new", str(moved)).version == store.variants.get("new").version
    assert store.variants.get("new").folder == str(moved)


def test_a_promoted_candidate_is_watched_until_the_next_release(manager, store, clock, caplog):
    manager.config.release.watch_s = 50.0
    manager.start("new", "ann", "")
    manager.promote("ann", "I know it")
    release = manager.latest()
    assert (store.releases.production(), release.phase, release.state) == ("new", Phase.promoted, "watched")
    split = routing.read(store, manager.config).split
    assert (split.experiment, split.weights) == ("r1/watch", pytest.approx({"old": 0.05, "new": 0.95}))
    clock.now += 20
    assert manager.look() is None
    assert manager.status()["look"]["outcome"] == "hold"
    manager.start("old", "ann", "back")
    assert [entry.after for entry in store.releases.transitions("r1")] == ["shadow", "watched", "promoted"]
    assert store.releases.transitions("r1")[-1].reason == "release r2 begins"
    manager.roll_back("ann", "")
    manager.start("old", "ann", "again")
    manager.promote("ann", "")
    clock.now += 50
    assert manager.look().after == "promoted"
    assert routing.read(store, manager.config).split is None


def test_one_release_at_a_time(manager, own):
    manager.start("new", "ann", "")
    with pytest.raises(InputError, match="release r1 of new is under way; promote it or roll it back"):
        manager.check_start("new", str(own["new"]))
    with pytest.raises(InputError, match="cannot start while another is under way"):
        manager.start("new", "ann", "")
    assert len(trail(manager)) == 1


def test_commands_where_there_is_nothing_to_command(manager):
    for command in (manager.promote, manager.roll_back):
        with pytest.raises(InputError, match="there is no release yet; start one"):
            command("ann", "")
    assert manager.look() is None
    manager.start("new", "ann", "")
    manager.roll_back("ann", "it lies")
    with pytest.raises(InputError, match="r1 is rolled_back already: it lies"):
        manager.roll_back("ann", "")
    with pytest.raises(InputError, match="r1 is rolled_back and cannot be promoted; start a new one"):
        manager.promote("ann", "")
    assert manager.look() is None


def flip_a_byte(folder: Path) -> None:
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[0] ^= 1
    weights.write_bytes(raw)


def lose_a_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


SPOILED = [(flip_a_byte, "model.safetensors is not what was registered"), (lose_a_file, "model.safetensors is missing")]


@pytest.mark.parametrize(("spoil", "sentence"), SPOILED)
def test_no_promotion_without_a_way_back(manager, store, own, spoil, sentence):
    manager.start("new", "ann", "")
    intact = shutil.copytree(own["old"], own["old"].with_name("intact"))
    spoil(own["old"])
    with pytest.raises(RunError, match="r1 is paused: not promoted"):
        manager.promote("ann", "I know it")
    assert store.releases.production() == "old"
    by, state, reason = trail(manager)[-1]
    assert (by, state) == ("ann", "paused")
    assert reason.startswith("not promoted, as old could not be returned to: ")
    assert reason.endswith(sentence)
    shutil.copytree(intact, own["old"], dirs_exist_ok=True)
    manager.promote("ann", "it is back")
    assert (store.releases.production(), trail(manager)[-1]) == ("new", ("ann", "promoted", "it is back"))


@pytest.mark.parametrize(("spoil", "sentence"), SPOILED)
def test_no_way_back_to_what_is_gone(manager, store, own, spoil, sentence):
    manager.start("new", "ann", "")
    manager.promote("ann", "")
    spoil(own["old"])
    with pytest.raises(InputError, match=f"r1 cannot be rolled back, as old is gone: .*{sentence}"):
        manager.roll_back("ann", "")
    assert store.releases.production() == "new"


@pytest.mark.parametrize(("spoil", "sentence"), SPOILED)
def test_a_candidate_is_withdrawn_whatever_became_of_its_files(manager, store, own, spoil, sentence):
    manager.start("new", "ann", "")
    spoil(own["new"])
    manager.roll_back("ann", "")
    assert (store.releases.production(), manager.latest().phase) == ("old", Phase.rolled_back)


def test_a_step_that_has_had_its_time_waits_for_a_person(manager, clock, store):
    manager.start("new", "ann", "")
    clock.now += 99
    assert manager.look() is None
    assert manager.status()["look"]["outcome"] == "hold"
    assert manager.status()["look"]["reasons"]
    clock.now += 2
    transition = manager.look()
    assert (transition.by, transition.after, transition.at) == ("controller", "paused", NOW + 101)
    assert transition.evidence["experiment"] == "r1/shadow"
    assert store.releases.transitions("r1")[-1].evidence == json.loads(json.dumps(dict(transition.evidence)))
    assert manager.look() is None, "a pause is told once"
    assert store.releases.production() == "old"


def test_a_release_goes_on_after_a_restart(manager, store, config, clock):
    manager.start("new", "ann", "")
    clock.now += 101
    other = Store(str(store.database.engine.url))
    again = ReleaseManager(other, config, clock)
    again.bootstrap()
    assert again.latest() == manager.latest()
    assert again.look().after == "paused"
    assert trail(manager) == trail(again)
    manager.promote("ann", "")
    third = ReleaseManager(other, config, clock)
    third.bootstrap()
    assert third.status()["production"] == "new", "what is configured counts at the first start alone"
    other.close()


def test_of_two_desks_that_decide_at_once_one_is_refused(manager, store, config, clock):
    manager.start("new", "ann", "")
    release = manager.latest()
    other = ReleaseManager(store, config, clock)
    other.roll_back("bob", "it lies")

    class Late(ReleaseManager):
        """It has read the release before the other decided."""

        def latest(self):
            return release

    with pytest.raises(StaleRelease, match="another process has changed it meanwhile"):
        Late(store, config, clock).promote("ann", "")
    assert store.releases.production() == "old"
    assert trail(manager)[-1] == ("bob", "rolled_back", "it lies")
    assert len(trail(manager)) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": {}}, "models={}: there is nothing to serve"),
        ({"production": "third"}, r"production=third: it is none of models \(old, new\)"),
        ({"name": "old"}, r"models\.old: that is what users ask for"),
    ],
)
def test_what_cannot_be_served(migrated_file, tmp_path, config, changes, sentence):
    store = Store(f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'empty.db')}")
    for key, value in changes.items():
        setattr(config, key, value)
    with pytest.raises(InputError, match=sentence):
        ReleaseManager(store, config, lambda: NOW).bootstrap()
    assert store.releases.production() is None
    store.close()


def make_adapter(folder: Path, base: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base} if base else []))
    (folder / "adapter_model.safetensors").write_text("lora")
    return folder


def test_an_adapter_is_served_by_its_model_and_registered_after_it(manager, store, own, tmp_path):
    adapter = make_adapter(tmp_path / "lora", str(own["new"]))
    manager.config.models = {"a": str(adapter), **manager.config.models}
    manager.bootstrap()
    assert store.variants.get("a").base == "new"
    deployments = routing.read(store, manager.config).deployments
    assert (deployments["a"].app, deployments["a"].adapter) == (deployments["new"].app, str(adapter))
    assert (deployments["old"].app != deployments["new"].app, deployments["new"].adapter) == (True, None)


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("elsewhere", "it is an adapter of elsewhere, which is not among the models new, old; serve that one too"),
        (None, r"its adapter_config\.json names no base_model_name_or_path"),
    ],
)
def test_an_adapter_of_what_is_not_served(manager, tmp_path, base, sentence):
    with pytest.raises(InputError, match=sentence):
        manager.check_start("a", str(make_adapter(tmp_path / "lora", base)))


def test_a_folder_that_is_not_what_its_manifest_says(manager, tmp_path):
    folder = tmp_path / "trained"
    with committing(folder, {"kind": "policy"}) as staging:
        (staging / "config.json").write_text("{}")
        (staging / "model.safetensors").write_text("trained")
    assert manager.check_start("trained", str(folder)).files["model.safetensors"]["size"] == 7
    flip_a_byte(folder)
    with pytest.raises(InputError, match=r"model\.safetensors: it is not what was written \(see manifest\.json\)"):
        manager.check_start("trained", str(folder))
