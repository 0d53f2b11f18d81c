"""Requests are kept together, and nobody waits for ever."""

import asyncio

import pytest

from serve.recorder import Recorder
from tests.unit.serve.samples import asked


async def test_what_waits_is_kept_together_in_order(store):
    recorder = Recorder(store)
    requests = [asked(id=f"{number:02}", at=float(number)) for number in range(20)]
    await asyncio.gather(*map(recorder.record, requests))
    assert [request.id for request, _ in store.dialogues()] == [request.id for request in requests]
    await recorder.record(asked(id="later"))
    assert store.dialogue("later")


async def test_who_goes_leaves_the_request_and_the_others_there(store):
    recorder = Recorder(store)
    first, second = (asyncio.create_task(recorder.record(asked(id=id))) for id in ("a", "b"))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert store.dialogue("a")
    assert store.dialogue("b")


@pytest.mark.parametrize("bad", [asked(id="again"), asked(id="new", prompt_tokens=2**80)])
async def test_what_the_store_does_not_take_is_counted_and_the_next_is_kept(store, bad, caplog):
    """The second is no error of the database: its driver cannot pass such a number on."""
    recorder = Recorder(store)
    await recorder.record(asked(id="again"))
    await asyncio.wait_for(recorder.record(bad), 5)
    assert recorder.lost == 1
    assert "did not take 1 requests (1 so far)" in caplog.text
    await recorder.record(asked(id="next"))
    assert store.dialogue("next")
