"""No word of a user is kept without consent, and none that was deleted stays in the database's files."""

import sqlite3
import time

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from serve.store.database import BUSY_TIMEOUT_S, Erasure, migrate, reason
from serve.store.records import Response
from serve.store.store import Store
from serve.store.tables import FEEDBACK, REQUESTS, RESPONSES
from tests.unit.serve.samples import asked, said

SECRET = "zephyrine"


def wordy(**fields):
    """A request and feedback with words of a user wherever they fit."""
    sampling = {"temperature": 0.5, "seed": 7, "echo": True, "stop": [SECRET], "logit_bias": {SECRET: 1.0}}
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": SECRET}}]
    response = Response(index=0, text=SECRET, finish_reason="tool_calls", num_tokens=3, tool_calls=calls)
    words = {"status": 400, "error": f"{SECRET}: too long", "sampling": sampling, "responses": (response,)}
    request = asked(SECRET, **words, **fields)
    return request, [
        said(request, "edit", text=SECRET),
        said(request, "outcome", 1.0, name=SECRET),
        said(request, "outcome", 2.0, name="bought"),
    ]


def in_database(store: Store) -> str:
    tables = (REQUESTS, RESPONSES, FEEDBACK)
    with store.database.engine.connect() as connection:
        return str([connection.execute(select(table)).all() for table in tables])


@pytest.mark.parametrize("withdrawn", [False, True])
def test_without_consent_no_word_of_a_user_is_kept_nor_after_it_is_withdrawn(url, withdrawn):
    store = Store(url, outcomes={"bought"})
    if withdrawn:
        store.people.set_consent("ann", True, 1.0)
    store.people.set_consent("bob", True, 1.0)
    request, events = wordy(prompt_hash="a hash")
    theirs, opinions = wordy(prompt_hash="a hash", user="bob")
    store.requests.record([request, theirs])
    for event in events + opinions:
        store.requests.add_feedback(event)
    assert store.requests.dialogue(theirs.id) == (theirs, opinions)
    if withdrawn:
        assert store.requests.dialogue(request.id) == (request, events)
        store.people.set_consent("ann", False, 2.0)
    found, (edit, named, bought) = store.requests.dialogue(request.id)
    assert found.sampling == {"temperature": 0.5, "seed": 7, "echo": True}
    assert (found.error, found.status, found.messages, found.prompt_hash) == (None, 400, None, "a hash")
    assert (edit.text, named.name, named.value, bought.name) == (None, None, 1.0, "bought")
    assert store.requests.dialogue(theirs.id) == (theirs, opinions)
    store.people.delete("bob")
    assert SECRET not in in_database(store)
    store.close()


def test_a_statement_that_the_database_refuses_quotes_no_values(store):
    store.people.set_consent("ann", True, 1.0)
    request, (edit, *_) = wordy()
    store.requests.record([request])
    store.requests.add_feedback(edit)
    with pytest.raises(IntegrityError) as refused:
        store.requests.add_feedback(edit)
    assert SECRET not in str(refused.value)
    assert edit.id not in reason(refused.value)
    assert "feedback" in reason(refused.value)


def test_the_salt_of_a_store_is_its_own_and_stays(store, tmp_path):
    migrate(f"sqlite:///{tmp_path}/other.db")
    other = Store(f"sqlite:///{tmp_path}/other.db")
    assert store.settings.salt() == store.settings.salt() != other.settings.salt() == other.settings.salt()
    assert len(store.settings.salt()) == 32
    other.close()


def test_deletion_while_somebody_reads_is_pending_and_stalls_nobody(tmp_path, sqlite_url):
    store = Store(sqlite_url, consent_by_default=True)
    store.requests.record([asked(SECRET)])
    path = tmp_path / "store.db"
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM requests").fetchone()

    def on_disk() -> int:
        return sum(file.read_bytes().count(SECRET.encode()) for file in tmp_path.iterdir())

    began = time.monotonic()
    assert store.people.delete("ann")["requests"] == 1
    assert store.database.erase() is Erasure.pending
    store.requests.record([asked("another", user="bob")])
    assert time.monotonic() - began < BUSY_TIMEOUT_S / 2, "half of what a writer waits for another"
    assert on_disk() > 0
    reader.execute("COMMIT")
    assert store.database.erase() is Erasure.gone
    assert on_disk() == 0
    assert [request.user for request, _ in store.requests.dialogues()] == ["bob"]
    reader.close()
    store.close()


def test_while_another_writes_erasure_is_pending(sqlite_url):
    store = Store(sqlite_url)
    with store.database.writer.begin():
        assert store.database.erase() is Erasure.pending
    store.requests.record([asked()])
    assert store.database.erase() is Erasure.gone
    store.close()


def test_postgresql_vacuums_by_itself(url):
    store = Store(url)
    assert store.database.erase() is (Erasure.gone if url.startswith("sqlite") else Erasure.vacuum)
    store.close()
