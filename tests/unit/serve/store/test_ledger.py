"""Releases, their transitions, and what is in production."""

import pytest

from rlhf.types import InputError
from serve.store.ledger import StaleRelease


def started(**changes) -> dict:
    return {
        "candidate": "new", "predecessor": "old", "phase": "shadow", "state": {"步": [1, None]}, "updated_at": 1.0,
        **changes,
    }  # fmt: skip


def moved(to: str, **changes) -> dict:
    return {
        "at": 2.0, "by": "controller", "before": "shadow", "after": to, "outcome": "promote", "reason": "更好",
        "evidence": {"p": 0.01}, **changes,
    }  # fmt: skip


def test_a_release_goes_through_its_phases(store):
    assert store.latest_release() is None
    assert store.production() is None
    store.set_production("old", 0.5)
    first = store.save_release(started(), moved("shadow", before="", outcome=None))
    assert store.latest_release() == first == {**started(), "id": first["id"], "version": 1}
    second = store.save_release({**first, "phase": "canary", "state": {}, "updated_at": 2.0}, moved("canary"))
    third = store.save_release({**second, "updated_at": 3.0})
    assert store.production() == "old"
    done = store.save_release({**third, "phase": "promoted"}, moved("promoted", at=4.0), production="new")
    assert store.production() == "new"
    final = {"phase": "promoted", "state": {}, "updated_at": 3.0, "version": 4}
    assert store.latest_release() == done == {**first, **final}
    assert store.transitions(first["id"]) == [
        {"release_id": first["id"], "number": number, **transition}
        for number, transition in enumerate(
            [moved("shadow", before="", outcome=None), moved("canary"), moved("promoted", at=4.0)], start=1
        )
    ]


def test_one_release_at_a_time(store):
    first = store.save_release(started())
    with pytest.raises(InputError, match="a release of 'other' cannot start while another is under way"):
        store.save_release(started(candidate="other"), moved("shadow"), production="other")
    assert store.releases() == [first]
    assert store.production() is None
    store.save_release({**first, "phase": "rolled_back"})
    second = store.save_release(started(candidate="other"))
    assert store.releases() == [{**first, "phase": "rolled_back", "version": 2}, second]
    assert store.latest_release() == second


def test_what_was_decided_on_an_old_state_is_not_saved(store):
    read = store.save_release(started())
    store.save_release({**read, "phase": "canary"})
    with pytest.raises(StaleRelease, match=r"release \d+: another process has changed it"):
        store.save_release({**read, "phase": "promoted"}, moved("promoted"), production="new")
    assert store.latest_release()["phase"] == "canary"
    assert store.transitions(read["id"]) == []
    assert store.production() is None


def test_applications_are_noted_until_they_are_deleted(store):
    for name in ("rlhf-model-old-1", "rlhf-model-new-2", "rlhf-model-new-2"):
        store.add_application(name)
    store.remove_application("rlhf-model-old-1")
    store.remove_application("model-foreign")
    assert store.applications() == {"rlhf-model-new-2"}
