"""What is under way when a user is deleted, or withdraws consent, is not kept afterwards."""

import threading
import time

import pytest
from sqlalchemy import insert

from serve.store.people import CLOCKS_S
from serve.store.store import Store
from serve.store.tables import DELETIONS, METADATA, REQUESTS
from tests.unit.serve.samples import asked, exposed

SECRET = "zephyrine"
DEADLINE_S = 120


@pytest.fixture
def gateways(url):
    """The stores of two gateways; texts are kept of who was not asked."""
    stores = [Store(url, consent_by_default=True) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


def everything(store: Store) -> str:
    with store.database.engine.connect() as connection:
        return str([connection.execute(table.select()).all() for table in METADATA.sorted_tables])


def test_what_was_asked_before_a_deletion_is_kept_by_no_gateway(gateways):
    for store in gateways:
        store.requests.record([asked(SECRET, user=SECRET, at=10.0)])
    assert gateways[0].people.delete(SECRET, at=15.0)["requests"] == 2
    for store in gateways:
        late = [asked(SECRET, user=SECRET, at=at) for at in (12.0, 15.0 + CLOCKS_S)]
        copy = asked(SECRET, user=SECRET, at=12.5, shadow_of=late[0].id)
        others = asked(user="bob", at=12.0)
        store.requests.record([*late, copy, others])
        assert store.requests.dialogue(others.id) == (others, [])
        assert not store.exposures.add(exposed(SECRET, "new", 12.0))
        assert not store.exposures.add(exposed(SECRET, "new", 12.0), most=5)
    assert SECRET not in everything(gateways[0])
    assert gateways[0].exposures.counts("r1/canary-1") == {}


def test_who_comes_back_after_a_deletion_is_a_new_user(gateways):
    first, second = gateways
    first.people.delete("ann", at=15.0)
    back = asked(at=15.0 + 2 * CLOCKS_S)
    second.requests.record([back])
    assert second.requests.dialogue(back.id) == (back, [])
    assert second.exposures.add(exposed("ann", "new", back.at))
    assert second.people.delete("ann", at=30.0)["requests"] == 1


def test_without_a_time_a_deletion_is_of_now(gateways):
    store = gateways[0]
    store.people.delete("ann")
    store.requests.record([asked(at=time.time()), asked(id="later", at=time.time() + 2 * CLOCKS_S)])
    assert [request.id for request, _ in store.requests.dialogues()] == ["later"]


def test_a_deleted_user_who_had_refused_is_not_kept_by_default(gateways):
    first, second = gateways
    first.people.set_consent("ann", False, 1.0)
    first.people.delete("ann", at=15.0)
    second.requests.record([asked(SECRET, at=12.0)])
    assert SECRET not in everything(first)


def test_text_asked_before_consent_was_given_again_is_not_kept(gateways):
    first, second = gateways
    first.people.set_consent("ann", True, 1.0)
    first.people.set_consent("ann", False, 12.0)
    second.people.set_consent("ann", True, 14.0)
    for id, at in (("before", 11.0), ("meanwhile", 13.0)):
        second.requests.record([asked(SECRET, id=id, at=at, prompt_hash="h")])
    second.requests.record([asked(id="after", at=14.0)])
    texts = {request.id: request.responses[0].text for request, _ in first.requests.dialogues()}
    assert texts == {"before": None, "meanwhile": None, "after": "三点。"}
    assert SECRET not in everything(first)


def test_consent_given_twice_holds_from_the_first_time(gateways):
    store = gateways[0]
    store.people.set_consent("ann", True, 1.0)
    store.people.set_consent("ann", True, 20.0)
    request = asked(at=10.0)
    store.requests.record([request])
    assert store.requests.dialogue(request.id) == (request, [])


@pytest.mark.parametrize("withdraw", [False, True])
def test_a_deletion_waits_for_records_that_are_being_written(gateways, withdraw):
    """Else it would not see them, and they would stay."""
    recording, deleting = gateways

    def leave() -> None:
        if withdraw:
            deleting.people.set_consent("ann", False, 15.0)
        else:
            deleting.people.delete("ann", at=15.0)

    thread = threading.Thread(target=leave)
    with recording.people.recording({"ann"}) as (connection, people):
        assert people["ann"].is_kept(10.0)
        assert people["ann"].is_text_kept(10.0)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        request = asked(SECRET, prompt_hash="h")
        row = {column.name: getattr(request, column.name) for column in REQUESTS.c}
        connection.execute(insert(REQUESTS).values(row))
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert SECRET not in everything(recording)


def test_what_stays_of_a_deleted_user_is_a_salted_hash(store):
    store.people.delete("ann", at=15.0)
    with store.database.engine.connect() as connection:
        assert connection.execute(DELETIONS.select()).all() == [(store.settings.pseudonym("ann"), 15.0)]
    assert "ann" not in everything(store)
