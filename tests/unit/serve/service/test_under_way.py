"""What a gateway keeps of an answer that is under way when its user goes, and logs of one that fails."""

import logging
import pickle
import time
import traceback

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from ray.exceptions import ActorDiedError, RayTaskError

from serve.config import HttpConfig
from serve.gateway.engine import Engine
from serve.gateway.log_redaction import UnexpectedError, describe_error, redact_error_messages
from serve.gateway.transport import Transport
from serve.store.store import Store
from tests.unit.serve.service.conftest import running
from tests.unit.serve.service.engines import answers
from tests.unit.serve.service.test_gateway import ask, experiment, kept


def deleting(store: Store, user: str):
    """An engine that answers a user whom another gateway deletes meanwhile."""

    async def behave(variant, endpoint, body):
        store.people.delete(user, time.time())
        async for answer in answers(variant, endpoint, body):
            yield answer

    return behave


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_whose_user_is_deleted_under_way_is_not_kept(gateway, engines, store, stream):
    experiment(gateway)
    another = Store(str(store.database.engine.url), consent_by_default=True)
    engines.behaviours = dict.fromkeys(("old", "new"), deleting(another, "ann"))
    reply = await ask(gateway, user="ann", stream=stream)
    text = "".join([piece async for piece in reply.body_iterator]) if stream else reply.body.decode()
    assert "says" in text, "the user has the answer"
    assert kept(gateway) == []
    assert store.exposures.counts("r1/canary-1") == {}
    assert gateway.ongoing == 0
    await ask(gateway, user="bob")
    assert [request.user for request in kept(gateway)] == ["bob"]
    another.close()


SECRET = "zephyrine"
BODY = {"model": "assistant", "messages": [{"role": "user", "content": SECRET}]}


async def quoting(variant, endpoint, body):
    """An engine whose error quotes what was asked, as pydantic's, json's and vLLM's may, with a cause that does too."""
    if body.get("stream"):
        yield 200, None
    try:
        float(body["messages"][0]["content"])
    except ValueError as error:
        raise TypeError(f"cannot answer {body}") from error
    yield 200, {}


class Remote:
    """vLLM in a replica, failing so."""

    def answer(self, endpoint, body, request_id):
        return quoting("old", endpoint, body)

    def close(self) -> None:
        """Nothing to end."""


async def in_replica(variant, endpoint, body):
    """What the gateway gets of a replica's error: Ray raises it again, with the replica's traceback in its message."""
    engine = Engine.__new__(Engine)
    engine.server, engine.stream_interval_s = Remote(), 0.01
    try:
        async for answer in engine.answer(endpoint, body, "id", None):
            yield answer
    except Exception as error:
        logging.getLogger("ray.serve").exception("Request failed.")  # as Serve's replicas do
        raise RayTaskError(
            "answer", formatted(error), pickle.loads(pickle.dumps(error))
        ).as_instanceof_cause() from None


def formatted(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("behaviour", [quoting, in_replica])
def test_an_error_that_quotes_a_prompt_is_logged_without_it(gateway, engines, caplog, behaviour):
    engines.behaviours["old"] = behaviour
    caplog.set_level(logging.DEBUG)
    serves = logging.getLogger("ray.serve")
    serves.addHandler(caplog.handler)
    with running(gateway) as client:
        for stream in (False, True):
            answer = client.post("/v1/chat/completions", json={**BODY, "stream": stream})
            assert SECRET not in answer.text
    serves.removeHandler(caplog.handler)
    assert ("Request failed." in caplog.text) is (behaviour is in_replica)
    assert "test_under_way.py" in caplog.text, "the place is named"
    assert "quoting" in caplog.text
    assert "TypeError" in caplog.text
    assert "after ValueError at" in caplog.text
    assert SECRET not in caplog.text


def test_loggers_of_a_replica_describe_errors_that_they_would_print(caplog):
    before = logging.getLogRecordFactory()
    redact_error_messages()
    try:
        float(SECRET)
    except ValueError:
        logging.getLogger("vllm.serving").exception("Error in %s.", "a stream")
        logging.getLogger("vllm.serving").info("fine", exc_info=False)
    finally:
        logging.setLogRecordFactory(before)
    assert "Error in a stream. ValueError at test_under_way.py:" in caplog.text
    assert SECRET not in caplog.text


async def test_what_fails_in_the_middle_of_a_response_goes_on_without_its_message(caplog):
    api = FastAPI()

    @api.get("/")
    async def broken() -> StreamingResponse:
        async def content():
            yield b"begun"
            raise KeyError(SECRET)

        return StreamingResponse(content())

    transport = httpx.ASGITransport(Transport(api, HttpConfig(), send_ids=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        with pytest.raises(UnexpectedError, match="GET /: an unexpected error: KeyError at ") as raised:
            await client.get("/")
    assert SECRET not in formatted(raised.value) + caplog.text


def test_errors_of_ray_say_what_happened():
    assert "The actor died" in describe_error(ActorDiedError())
    assert describe_error(ValueError(SECRET)) == "ValueError"
    error = RuntimeError(SECRET)
    error.__cause__ = KeyError(SECRET)
    assert describe_error(error) == "RuntimeError, after KeyError"
