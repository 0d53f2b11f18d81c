"""A PostgreSQL server that hangs: every wait for it ends, in one sentence, and all goes on once it answers again."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

from rlhf.types import InputError
from serve.gateway.recorder import Recorder
from serve.store.database import migrate
from serve.store.postgres import PostgresConfig
from serve.store.store import Store
from tests.unit.serve.samples import asked, said

SILENCE_S = 1.0
DEADLINE_S = 60.0
BEFORE = asked(id="before")
SENTENCE = r"no byte from PostgreSQL within store\.postgres\.silence_s=1 s"


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()
    migrate(url)
    return url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url, postgres=PostgresConfig(silence_s=SILENCE_S, statement_s=0.5))
    store.requests.record([BEFORE])
    yield store
    store.close()


@contextmanager
def hung(store: Store) -> Iterator[None]:
    """Every process of the server is stopped."""
    with store.database.engine.connect() as connection:
        backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    postmaster = psutil.Process(psutil.Process(backend).ppid())
    processes = [postmaster, *postmaster.children()]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # a backend whose client went
                process.send_signal(signal.SIGCONT)


def refused(call: Callable[[], object]) -> None:
    """It ends in the sentence, in time."""
    begun = time.monotonic()
    with pytest.raises(OperationalError, match=SENTENCE):
        call()
    assert time.monotonic() - begun < DEADLINE_S


def test_feedback_does_not_wait_for_a_server_that_hangs_and_goes_on_later(store, url):
    with store.database.engine.connect() as kept, hung(store):
        refused(lambda: store.requests.add_feedback(said(BEFORE, "thumb", 1)))
        refused(store.releases.production)  # by a new connection
        refused(lambda: kept.exec_driver_sql("SELECT 1"))  # in the middle of a transaction
        with pytest.raises(InputError, match=f"the database cannot be used .{SENTENCE}.*start its server"):
            Store(url, postgres=PostgresConfig(silence_s=SILENCE_S))
        with pytest.raises(InputError, match=f"the database cannot be used .{SENTENCE}"):
            migrate(url, postgres=PostgresConfig(silence_s=SILENCE_S))
    store.requests.add_feedback(said(BEFORE, "thumb", 1))
    store.requests.record([asked(id="after")])
    assert [len(store.requests.dialogue(id)[1]) for id in ("before", "after")] == [1, 0]


async def test_a_record_that_was_written_though_no_answer_came_is_not_lost(store):
    recorder = Recorder(store.requests, store.exposures, patience_s=1.0)
    await recorder.record(asked(id="twice"))
    await recorder.record(asked(id="twice"))
    assert (recorder.lost, recorder.problem) == (0, None)
    assert store.requests.dialogue("twice")


def test_the_server_ends_a_long_statement_itself(store):
    with store.database.engine.connect() as connection, pytest.raises(Exception, match="statement timeout"):
        connection.exec_driver_sql("SELECT pg_sleep(0.9)")


def test_more_uses_than_connections_wait_for_one_and_end(url):
    store = Store(url, postgres=PostgresConfig(silence_s=0.2, connections=1))
    with store.database.engine.connect(), pytest.raises(NoConnection, match="QueuePool limit of size 1"):
        store.releases.production()
    store.close()
