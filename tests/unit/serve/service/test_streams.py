"""Streams as their users see them, and what is kept of them however they end."""

import asyncio
import json

import pytest
from ray.exceptions import ActorDiedError
from starlette.testclient import TestClient

from serve.gateway.gateway import Gateway
from tests.unit.serve.service.engines import USAGE, answers, failing, silent
from tests.unit.serve.service.test_auth import CHAT
from tests.unit.serve.service.test_gateway import ask, kept, until

SCOPES = {"2.3": "listens for the client's going", "2.4": "hears of it by an error"}


def streamed(client: TestClient, path: str = "/v1/chat/completions", **fields: object) -> list:
    """The events, JSON decoded."""
    body = {**(CHAT if "chat" in path else {"model": "assistant", "prompt": "hi"}), "stream": True, **fields}
    answer = client.post(path, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    datas = [event.removeprefix("data: ") for event in answer.text.split("\n\n")[:-1]]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


async def watch(response, version: str, leave_after: int | None = None) -> list[str]:
    """What a client gets who leaves after so many events; None: who stays."""
    got: list[str] = []
    gone = asyncio.Event()

    async def send(message: dict) -> None:
        if len(got) == leave_after:
            gone.set()
            if version == "2.4":
                raise OSError("the client is not there")
            await asyncio.Event().wait()
        if message.get("body"):
            got.append(message["body"].decode())

    async def receive() -> dict:
        await gone.wait()
        return {"type": "http.disconnect"}

    if leave_after == 0:
        gone.set()
    await response({"type": "http", "asgi": {"spec_version": version}}, receive, send)
    return got


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_pieces_bear_the_names_their_user_knows(client, gateway, path):
    *pieces, end = streamed(client, path, n=2)
    (request,) = kept(gateway)
    assert end == "[DONE]"
    assert {(piece["id"], piece["model"]) for piece in pieces} == {(request.id, "assistant")}
    texts = ["", ""]
    for piece in pieces:
        (said,) = piece["choices"]
        texts[said["index"]] += said["delta"]["content"] if "chat" in path else said["text"]
    assert texts == ["old says it"] * 2 == [response.text for response in request.responses]
    assert [response.finish_reason for response in request.responses] == ["stop"] * 2
    assert 0 < request.first_token_s <= request.latency_s
    assert request.prompt_tokens == USAGE["prompt_tokens"]


@pytest.mark.parametrize("asked", [None, {"include_usage": False}, {"include_usage": True}])
def test_the_usage_is_for_who_asked_for_it_and_for_the_store(client, gateway, engines, asked):
    *pieces, _ = streamed(client, **({"stream_options": asked} if asked else {}))
    wanted = bool(asked and asked["include_usage"])
    assert [piece.get("usage") for piece in pieces if not piece["choices"]] == [USAGE] * wanted
    assert all(("usage" in piece) == wanted for piece in pieces)
    assert engines.asked[0][1]["stream_options"] == {"include_usage": True}
    (request,) = kept(gateway)
    assert request.responses[0].num_tokens == USAGE["completion_tokens"]


async def test_feedback_finds_an_answer_before_its_stream_has_ended(gateway):
    response = await ask(gateway, stream=True)
    events = aiter(response.body_iterator)
    async for event in events:
        if event == "data: [DONE]\n\n":
            assert [request.status for request in kept(gateway)] == [200]
            return
    pytest.fail("the stream has no end")


def test_an_engine_that_dies_under_way_gives_an_error_and_the_end(client, gateway, engines):
    engines.behaviours["old"] = failing(ActorDiedError(), after=3)
    *pieces, error, end = streamed(client)
    assert [piece["choices"][0]["delta"]["content"] for piece in pieces] == ["old ", "says "]
    assert (error["error"]["code"], error["error"]["type"]) == (503, "server_error")
    assert "ask again" in error["error"]["message"]
    assert end == "[DONE]"
    assert len(engines.asked) == 1, "its user has seen a part: no other engine may begin again"
    (request,) = kept(gateway)
    assert (request.status, request.responses[0].text, request.responses[0].finish_reason) == (503, "old says ", None)
    assert gateway.ongoing == 0


def test_an_error_of_the_engine_under_way_is_told(client, gateway, engines):
    async def odd(variant, endpoint, body):
        yield 200, None
        yield 200, f"data: {json.dumps({'error': {'message': 'out of blocks', 'code': 500}})}\n\n"
        yield 200, "data: [DONE]\n\n"

    engines.behaviours["old"] = odd
    error, end = streamed(client)
    assert (error["error"]["code"], end) == (500, "[DONE]")
    assert error["error"]["message"].startswith("out of blocks (request req-")
    assert [(request.status, request.error) for request in kept(gateway)] == [(500, "out of blocks")]


def test_what_nobody_expects_under_way_is_a_sentence(client, gateway, engines, caplog):
    engines.behaviours["old"] = failing(ZeroDivisionError("a secret"), after=2)
    *_, error, end = streamed(client)
    (request,) = kept(gateway)
    assert (error["error"]["code"], end) == (500, "[DONE]")
    assert request.id in error["error"]["message"]
    assert "secret" not in error["error"]["message"]
    assert (request.status, request.error) == (500, "ZeroDivisionError: a secret")
    assert f"{request.id} (request req-" in caplog.text


async def test_a_stream_ends_in_time(make_config, store, engines):
    engines.behaviours["old"] = silent
    gateway = Gateway(make_config(timeout_s=0.05), store, engines)
    got = await watch(await ask(gateway, stream=True), "2.3")
    assert json.loads(got[0].removeprefix("data: "))["error"]["code"] == 504
    assert got[1:] == ["data: [DONE]\n\n"]
    assert [request.status for request in kept(gateway)] == [504]
    assert (gateway.ongoing, engines.closed) == (0, 1)


@pytest.mark.parametrize("version", SCOPES)
@pytest.mark.parametrize("leave_after", [0, 1, 2])
async def test_a_client_that_goes_ends_the_generation(gateway, engines, version, leave_after):
    response = await ask(gateway, stream=True)
    assert gateway.ongoing == 1
    assert len(await watch(response, version, leave_after)) == leave_after
    assert [(request.status, request.error) for request in kept(gateway)] == [(499, "the client went away")]
    assert (gateway.ongoing, engines.closed) == (0, 1)


async def test_a_client_that_goes_while_the_engine_is_silent(gateway, engines):
    async def slow(variant, endpoint, body):
        async for answer in answers(variant, endpoint, body):
            yield answer
            if answer[1] is not None:
                await asyncio.Event().wait()

    engines.behaviours["old"] = slow
    watching = asyncio.create_task(watch(await ask(gateway, stream=True), "2.3"))
    await until(lambda: engines.asked)
    await asyncio.sleep(0.01)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    await until(lambda: kept(gateway))
    (request,) = kept(gateway)
    assert (request.status, request.responses[0].text) == (499, "old ")
    assert (gateway.ongoing, engines.closed) == (0, 1)


async def test_whole_streams_are_kept_as_answered(gateway, engines):
    for version in SCOPES:
        got = await watch(await ask(gateway, stream=True), version)
        assert got[-1] == "data: [DONE]\n\n"
    assert [request.status for request in kept(gateway)] == [200, 200]
    assert (gateway.ongoing, engines.closed) == (0, 2)


@pytest.mark.parametrize("version", SCOPES)
async def test_a_client_that_takes_nothing_counts_as_gone(gateway, engines, config, version):
    config.limits.body_s = 0.1
    reply = await ask(gateway, stream=True)

    async def send(message: dict) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> dict:
        await asyncio.Event().wait()
        return {}

    async with asyncio.timeout(60):
        await reply({"type": "http", "asgi": {"spec_version": version}}, receive, send)
    (request,) = kept(gateway)
    assert (request.status, request.error) == (499, "the client went away")
    assert (gateway.ongoing, engines.closed) == (0, 1)
