"""Releases as the store has them, with a clock of the test's own."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf.train.artifact import committing
from rlhf.types import InputError, RunError
from serve.config import ServeConfig
from serve.control.release_manager import ReleaseDesk
from serve.gateway import routing
from serve.releases.config import ReleaseConfig
from serve.store.ledger import StaleRelease
from serve.store.records import Phase
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
def desk(store: Store, config: ServeConfig, clock: Clock, own: dict[str, Path]) -> ReleaseDesk:
    desk = ReleaseDesk(store, config, clock)
    desk.open_shop()
    return desk


def trail(desk: ReleaseDesk) -> list[tuple[str, str, str]]:
    """Who brought the latest release where, and why."""
    return [(entry["by"], entry["after"], entry["reason"]) for entry in desk.status()["release"]["transitions"]]


def test_a_release_from_start_to_promotion_and_back(desk, store, clock):
    assert desk.status()["release"] is None
    assert desk.status()["production"] == "old"
    assert [model["name"] for model in desk.status()["models"]] == ["new", "old"]
    desk.start("new", "ann", "")
    assert routing.read(store, desk.config).split.experiment == "r1/shadow"
    clock.now += 1
    desk.promote("ann", "I know it")
    assert (store.production(), desk.latest()[1].phase) == ("new", Phase.promoted)
    assert routing.read(store, desk.config).split is None
    clock.now += 1
    desk.roll_back("bob", "")
    assert (store.production(), desk.latest()[1].phase) == ("old", Phase.rolled_back)
    begun, promoted = ("ann", "shadow", "started"), ("ann", "promoted", "I know it")
    assert trail(desk) == [begun, promoted, ("bob", "rolled_back", "rolled back")]
    assert [entry["at"] for entry in desk.status()["release"]["transitions"]] == [NOW, NOW + 1, NOW + 2]
    desk.start("new", "ann", "again")
    assert desk.latest()[1].id == "r2"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("old", "candidate='old' is what is in production; an experiment needs two arms"),
        ("assistant", r"models\.assistant: that is what users ask for"),
        ("third", r"models\.third=.*: neither config\.json nor adapter_config\.json is there"),
        ("new", r"models\.new=.*: the name already belongs to other files"),
    ],
)
def test_what_cannot_be_a_candidate(desk, tmp_path, name, sentence):
    folder = make_model(tmp_path / "other", "other")
    if name == "third":
        (folder / "config.json").unlink()
    known = desk.status()
    with pytest.raises(InputError, match=sentence):
        desk.check_start(name, str(folder))
    assert desk.status() == known


def test_a_model_may_move(desk, store, own, tmp_path):
    moved = shutil.copytree(own["new"], tmp_path / "moved")
    assert desk.check_start("new", str(moved)).version == store.variant("new").version
    assert store.variant("new").folder == str(moved)


def test_a_promoted_candidate_is_watched_until_the_next_release(desk, store, clock, caplog):
    desk.config.release.watch_s = 50.0
    desk.start("new", "ann", "")
    desk.promote("ann", "I know it")
    release = desk.latest()[1]
    assert (store.production(), release.phase, release.state) == ("new", Phase.promoted, "watched")
    split = routing.read(store, desk.config).split
    assert (split.experiment, split.weights) == ("r1/watch", pytest.approx({"old": 0.05, "new": 0.95}))
    clock.now += 20
    assert desk.look() is None
    assert desk.status()["look"]["outcome"] == "hold"
    desk.start("old", "ann", "back")
    assert [entry["after"] for entry in store.transitions(1)] == ["shadow", "watched", "promoted"]
    assert store.transitions(1)[-1]["reason"] == "release r2 begins"
    desk.roll_back("ann", "")
    desk.start("old", "ann", "again")
    desk.promote("ann", "")
    clock.now += 50
    assert desk.look().after == "promoted"
    assert routing.read(store, desk.config).split is None


def test_one_release_at_a_time(desk, own):
    desk.start("new", "ann", "")
    with pytest.raises(InputError, match="release r1 of new is under way; promote it or roll it back"):
        desk.check_start("new", str(own["new"]))
    with pytest.raises(InputError, match="cannot start while another is under way"):
        desk.start("new", "ann", "")
    assert len(trail(desk)) == 1


def test_commands_where_there_is_nothing_to_command(desk):
    for command in (desk.promote, desk.roll_back):
        with pytest.raises(InputError, match="there is no release yet; start one"):
            command("ann", "")
    assert desk.look() is None
    desk.start("new", "ann", "")
    desk.roll_back("ann", "it lies")
    with pytest.raises(InputError, match="r1 is rolled_back already: it lies"):
        desk.roll_back("ann", "")
    with pytest.raises(InputError, match="r1 is rolled_back and cannot be promoted; start a new one"):
        desk.promote("ann", "")
    assert desk.look() is None


def flip_a_byte(folder: Path) -> None:
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[0] ^= 1
    weights.write_bytes(raw)


def lose_a_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


SPOILED = [(flip_a_byte, "model.safetensors is not what was registered"), (lose_a_file, "model.safetensors is missing")]


@pytest.mark.parametrize(("spoil", "sentence"), SPOILED)
def test_no_promotion_without_a_way_back(desk, store, own, spoil, sentence):
    desk.start("new", "ann", "")
    intact = shutil.copytree(own["old"], own["old"].with_name("intact"))
    spoil(own["old"])
    with pytest.raises(RunError, match="r1 is paused: not promoted"):
        desk.promote("ann", "I know it")
    assert store.production() == "old"
    by, state, reason = trail(desk)[-1]
    assert (by, state) == ("ann", "paused")
    assert reason.startswith("not promoted, as old could not be returned to: ")
    assert reason.endswith(sentence)
    shutil.copytree(intact, own["old"], dirs_exist_ok=True)
    desk.promote("ann", "it is back")
    assert (store.production(), trail(desk)[-1]) == ("new", ("ann", "promoted", "it is back"))


@pytest.mark.parametrize(("spoil", "sentence"), SPOILED)
def test_no_way_back_to_what_is_gone(desk, store, own, spoil, sentence):
    desk.start("new", "ann", "")
    desk.promote("ann", "")
    spoil(own["old"])
    with pytest.raises(InputError, match=f"r1 cannot be rolled back, as old is gone: .*{sentence}"):
        desk.roll_back("ann", "")
    assert store.production() == "new"


@pytest.mark.parametrize(("spoil", "sentence"), SPOILED)
def test_a_candidate_is_withdrawn_whatever_became_of_its_files(desk, store, own, spoil, sentence):
    desk.start("new", "ann", "")
    spoil(own["new"])
    desk.roll_back("ann", "")
    assert (store.production(), desk.latest()[1].phase) == ("old", Phase.rolled_back)


def test_a_step_that_has_had_its_time_waits_for_a_person(desk, clock, store):
    desk.start("new", "ann", "")
    clock.now += 99
    assert desk.look() is None
    assert desk.status()["look"]["outcome"] == "hold"
    assert desk.status()["look"]["reasons"]
    clock.now += 2
    transition = desk.look()
    assert (transition.by, transition.after, transition.at) == ("controller", "paused", NOW + 101)
    assert transition.evidence["experiment"] == "r1/shadow"
    assert store.transitions(1)[-1]["evidence"] == json.loads(json.dumps(dict(transition.evidence)))
    assert desk.look() is None, "a pause is told once"
    assert store.production() == "old"


def test_a_release_goes_on_after_a_restart(desk, store, config, clock):
    desk.start("new", "ann", "")
    clock.now += 101
    other = Store(str(store.engine.url))
    again = ReleaseDesk(other, config, clock)
    again.open_shop()
    assert again.latest() == desk.latest()
    assert again.look().after == "paused"
    assert trail(desk) == trail(again)
    desk.promote("ann", "")
    third = ReleaseDesk(other, config, clock)
    third.open_shop()
    assert third.status()["production"] == "new", "what is configured counts at the first start alone"
    other.close()


def test_of_two_desks_that_decide_at_once_one_is_refused(desk, store, config, clock):
    desk.start("new", "ann", "")
    saved, release = desk.latest()
    other = ReleaseDesk(store, config, clock)
    other.roll_back("bob", "it lies")

    class Late(ReleaseDesk):
        """It has read the release before the other decided."""

        def latest(self):
            return saved, release

    with pytest.raises(StaleRelease, match="another process has changed it meanwhile"):
        Late(store, config, clock).promote("ann", "")
    assert store.production() == "old"
    assert trail(desk)[-1] == ("bob", "rolled_back", "it lies")
    assert len(trail(desk)) == 2


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
        ReleaseDesk(store, config, lambda: NOW).open_shop()
    assert store.production() is None
    store.close()


def make_adapter(folder: Path, base: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base} if base else []))
    (folder / "adapter_model.safetensors").write_text("lora")
    return folder


def test_an_adapter_is_served_by_its_model_and_registered_after_it(desk, store, own, tmp_path):
    adapter = make_adapter(tmp_path / "lora", str(own["new"]))
    desk.config.models = {"a": str(adapter), **desk.config.models}
    desk.open_shop()
    assert store.variant("a").base == "new"
    seats = routing.read(store, desk.config).seats
    assert (seats["a"].app, seats["a"].adapter) == (seats["new"].app, str(adapter))
    assert (seats["old"].app != seats["new"].app, seats["new"].adapter) == (True, None)


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("elsewhere", "it is an adapter of elsewhere, which is not among the models new, old; serve that one too"),
        (None, r"its adapter_config\.json names no base_model_name_or_path"),
    ],
)
def test_an_adapter_of_what_is_not_served(desk, tmp_path, base, sentence):
    with pytest.raises(InputError, match=sentence):
        desk.check_start("a", str(make_adapter(tmp_path / "lora", base)))


def test_a_folder_that_is_not_what_its_manifest_says(desk, tmp_path):
    folder = tmp_path / "trained"
    with committing(folder, {"kind": "policy"}) as staging:
        (staging / "config.json").write_text("{}")
        (staging / "model.safetensors").write_text("trained")
    assert desk.check_start("trained", str(folder)).files["model.safetensors"]["size"] == 7
    flip_a_byte(folder)
    with pytest.raises(InputError, match=r"model\.safetensors: it is not what was written \(see manifest\.json\)"):
        desk.check_start("trained", str(folder))
