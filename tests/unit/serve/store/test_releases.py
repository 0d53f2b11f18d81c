"""Releases, their transitions and ids, and what is in production."""

import json
from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from rlhf.types import InputError
from serve.store.database import connect, migrate, parse
from serve.store.release_records import Outcome, Phase, Release
from serve.store.releases import StaleRelease
from serve.store.store import Store
from tests.unit.serve.samples import moved, released


def test_a_release_goes_through_its_phases(store):
    assert store.releases.latest() is None
    assert store.releases.production() is None
    store.releases.set_production("old", 0.5)
    first = store.releases.save(released(), moved("shadow", before="", outcome=Outcome.hold))
    assert store.releases.latest() == first == released(version=1)
    second = store.releases.save(replace(first, phase=Phase.canary, step=1), moved("canary-1"))
    third = store.releases.save(replace(second, warm=False))
    assert store.releases.production() == "old"
    done = store.releases.save(replace(third, phase=Phase.promoted), moved("promoted", at=4.0))
    assert store.releases.production() == "new"
    assert store.releases.latest() == done == released(phase=Phase.promoted, step=1, warm=False, version=4)
    assert store.releases.transitions(first.id) == [
        moved("shadow", before="", outcome=Outcome.hold),
        moved("canary-1"),
        moved("promoted", at=4.0),
    ]


def test_one_release_at_a_time(store):
    first = store.releases.save(released())
    with pytest.raises(InputError, match="a release of 'other' cannot start while another is under way"):
        store.releases.save(released(id="r2", candidate="other"), moved("shadow", release="r2"))
    assert store.releases.all() == [first]
    assert store.releases.production() is None
    store.releases.save(replace(first, phase=Phase.rolled_back))
    second = store.releases.save(released(id="r2", candidate="other"))
    assert store.releases.all() == [replace(first, phase=Phase.rolled_back, version=2), second]
    assert store.releases.latest() == second


def test_what_was_decided_on_an_old_state_is_not_saved(store):
    read = store.releases.save(released())
    store.releases.save(replace(read, phase=Phase.canary, step=1))
    with pytest.raises(StaleRelease, match=r"release r1: another process has changed it"):
        store.releases.save(replace(read, phase=Phase.promoted), moved("promoted"))
    assert store.releases.latest().phase == "canary"
    assert store.releases.transitions(read.id) == []
    assert store.releases.production() is None


def test_an_id_does_not_come_again_whatever_is_deleted_and_who_asks(store, url):
    assert store.releases.new_id() == "r1"
    store.releases.save(released(phase=Phase.rolled_back))
    with store.database.writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM releases")
    other = Store(url)
    assert [other.releases.new_id(), store.releases.new_id()] == ["r2", "r3"]
    other.close()


def test_the_database_holds_each_id_once(store):
    first = store.releases.save(released(phase=Phase.rolled_back))
    with pytest.raises(StaleRelease, match="release r1: another process"):
        store.releases.save(released(phase=Phase.rolled_back))
    second = store.releases.save(released(id="r2", phase=Phase.rolled_back))
    with pytest.raises(IntegrityError), store.database.writer.begin() as connection:
        connection.exec_driver_sql("UPDATE releases SET name = 'r1' WHERE name = 'r2'")
    assert store.releases.all() == [first, second]


def insert_release(connection, number: int, release: Release, *, salted: bool = True) -> None:
    """As the versions before did. They had no `version` in the state, and once no salt."""
    state = release.to_json()
    if not salted:
        del state["salt"]
    row = f"{number}, 'new', 'old', '{release.phase}', '{json.dumps(state)}', 1.0, 3, NULL"
    connection.exec_driver_sql(
        f"INSERT INTO releases (id, candidate, predecessor, phase, state, updated_at, version, open) VALUES ({row})"
    )


def test_ids_from_before_stay_and_new_ones_follow_all_there_ever_were(bare_url):
    migrate(bare_url, "0005")
    engine = connect(parse(bare_url))
    past = [released(id=id, phase=Phase.rolled_back, salt=id) for id in ("r1", "r2", "r2")]
    with engine.execution_options(writes=True).begin() as connection:
        for number, release in zip((1, 2, 4), past, strict=True):
            insert_release(connection, number, release, salted=number > 1)
        transition = "2, 1, 2.0, 'shadow', 'rolled_back', 'roll_back', 'ann', 'no', '{}'"
        connection.exec_driver_sql(f"INSERT INTO transitions VALUES ({transition})")
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT setval('releases_id_seq', 7)")
        else:
            connection.exec_driver_sql("UPDATE sqlite_sequence SET seq = 7 WHERE name = 'releases'")
    engine.dispose()
    migrate(bare_url)
    store = Store(bare_url)
    first, second, third = store.releases.all()
    assert (first, third) == (replace(past[0], version=3), replace(past[2], version=3))
    assert second == replace(past[1], id="r2-2", version=3), "of two with one id the newest keeps it"
    assert [entry.by for entry in store.releases.transitions("r2-2")] == ["ann"]
    assert store.releases.transitions("r2") == []
    assert store.releases.new_id() == "r8"
    assert store.releases.save(replace(third, warm=False)).version == 4
    store.close()


def test_a_store_without_releases_gets_the_first_id_after_the_upgrade(bare_url):
    migrate(bare_url, "0005")
    migrate(bare_url)
    store = Store(bare_url)
    assert store.releases.new_id() == "r1"
    store.close()


def test_applications_are_noted_until_they_are_deleted(store):
    for name in ("rlhf-model-old-1", "rlhf-model-new-2", "rlhf-model-new-2"):
        store.applications.add(name)
    store.applications.remove("rlhf-model-old-1")
    store.applications.remove("model-foreign")
    assert store.applications.names() == {"rlhf-model-new-2"}
