"""Records are kept together; a slow, locked or broken store delays nobody for long, and loses nothing with room."""

import asyncio
import dataclasses
import time

import pytest
from sqlalchemy.exc import OperationalError

from serve.gateway import recorder as module
from serve.gateway.recorder import QUEUE_CHARACTERS, Recorder
from tests.unit.serve.samples import asked, exposed
from tests.unit.serve.service.conftest import PATIENCE_S


async def until_written(recorder: Recorder) -> None:
    async with asyncio.timeout(60):
        while recorder.waiting:
            await asyncio.sleep(0.01)


async def test_what_waits_is_kept_together_in_order(store):
    recorder = Recorder(store.requests, store.exposures, patience_s=PATIENCE_S)
    requests = [asked(id=f"{number:02}", at=float(number)) for number in range(20)]
    await asyncio.gather(*map(recorder.record, requests))
    assert [request.id for request, _ in store.requests.dialogues()] == [request.id for request in requests]
    await recorder.record(asked(id="later"))
    assert store.requests.dialogue("later")


async def test_who_goes_leaves_the_request_and_the_others_there(store):
    recorder = Recorder(store.requests, store.exposures, patience_s=PATIENCE_S)
    first, second = (asyncio.create_task(recorder.record(asked(id=id))) for id in ("a", "b"))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert store.requests.dialogue("a")
    assert store.requests.dialogue("b")


@pytest.mark.parametrize("bad", [asked(id="new", variant=None), asked(id="new", prompt_tokens=2**80)])
async def test_what_the_store_does_not_take_is_lost_alone(store, bad, caplog):
    """The second is no error of the database: its driver cannot pass such a number on."""
    recorder = Recorder(store.requests, store.exposures, patience_s=1.0)
    await asyncio.gather(recorder.record(asked(id="before")), recorder.record(bad), recorder.record(asked(id="after")))
    await until_written(recorder)
    assert (recorder.lost, recorder.problem) == (1, None)
    assert "did not take 1 records (1 so far)" in caplog.text
    assert store.requests.dialogue("before")
    assert store.requests.dialogue("after")


async def test_a_locked_store_delays_an_answer_by_a_second_and_gets_its_records_later(store):
    recorder = Recorder(store.requests, store.exposures, patience_s=1.0)
    with store.database.writer.begin() as connection:
        # PostgreSQL locks a table by request, SQLite all by any writer.
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE requests, exposures")
        begun = time.monotonic()
        took_part = await asyncio.gather(
            recorder.record(asked(id="a")),
            recorder.expose(exposed("ann", "new", 1.0), most=None),
            recorder.expose(exposed("bot/1", "new", 1.0, owner="bot"), most=1),
        )
        assert recorder.patience_s <= time.monotonic() - begun < 30 * recorder.patience_s
        assert took_part == [None, None, None], "nobody waits for longer"
        assert len(recorder.waiting) == 3
    await until_written(recorder)
    assert recorder.lost == 0
    assert store.requests.dialogue("a")
    assert sum(store.exposures.counts("r1/canary-1").values()) == 2


async def test_an_exposure_that_the_store_does_not_take_is_lost_alone(store):
    recorder = Recorder(store.requests, store.exposures, patience_s=PATIENCE_S)
    wrong = dataclasses.replace(exposed("ann", "new", 1.0), at=None)
    took_part, _ = await asyncio.gather(recorder.expose(wrong, most=None), recorder.record(asked(id="a")))
    assert took_part is False, "nobody takes part who is not counted"
    await until_written(recorder)
    assert recorder.lost == 1
    assert store.requests.dialogue("a")


class Failing:
    """A store that is out of reach for its first calls."""

    def __init__(self, requests, failures: int) -> None:
        self.requests, self.failures = requests, failures

    def record(self, requests) -> None:
        if self.failures:
            self.failures -= 1
            raise OperationalError("INSERT", {}, ConnectionRefusedError("connection refused"))
        self.requests.record(requests)


async def test_exposures_and_requests_of_one_batch_are_kept_once_each(store):
    recorder = Recorder(Failing(store.requests, 1), store.exposures, patience_s=1.0)
    await asyncio.gather(recorder.record(asked(id="a")), recorder.expose(exposed("ann", "new", 1.0), most=1))
    await until_written(recorder)
    assert recorder.lost == 0
    assert store.requests.dialogue("a")
    assert store.exposures.counts("r1/canary-1") == {"new": 1}


async def test_an_unreachable_store_is_tried_again(store, caplog):
    recorder = Recorder(Failing(store.requests, 2), store.exposures, patience_s=1.0)
    first = asyncio.create_task(recorder.record(asked(id="a")))
    await asyncio.sleep(0.05)
    assert recorder.problem == "connection refused"
    await recorder.record(asked(id="b"))
    await first
    await until_written(recorder)
    assert (recorder.lost, recorder.problem, recorder.characters) == (0, None, 0)
    assert store.requests.dialogue("a")
    assert store.requests.dialogue("b")
    assert caplog.text.count("the store takes no records") == 1


async def test_what_waits_is_bounded_and_what_is_lost_counted(store, monkeypatch, caplog):
    monkeypatch.setattr(module, "QUEUE_RECORDS", 3)
    recorder = Recorder(Failing(store.requests, 10**9), store.exposures, patience_s=0.05)
    await asyncio.gather(*(recorder.record(asked(id=str(number))) for number in range(5)))
    assert (len(recorder.waiting), recorder.lost) == (3, 2)
    assert "did not take 1 records (2 so far): 3 records wait for it already" in caplog.text
    long = Recorder(Failing(store.requests, 10**9), store.exposures, patience_s=0.05)
    await long.record(asked("x" * QUEUE_CHARACTERS))
    assert (len(long.waiting), long.lost) == (0, 1)
    for each in (recorder, long):
        if each.writing:
            each.writing.cancel()


async def test_the_end_of_a_gateway_gives_what_waits_a_last_chance(store, monkeypatch):
    recorder = Recorder(store.requests, store.exposures, patience_s=PATIENCE_S)
    recording = asyncio.create_task(recorder.record(asked(id="last")))
    await asyncio.sleep(0)
    await recorder.flush()
    await recording
    assert store.requests.dialogue("last")
    monkeypatch.setattr(module, "FLUSH_S", 0.05)
    broken = Recorder(Failing(store.requests, 10**9), store.exposures, patience_s=0.05)
    await broken.record(asked(id="gone"))
    await broken.flush()
    assert broken.lost == 1
    broken.writing.cancel()
