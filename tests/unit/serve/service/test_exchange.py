"""How an exchange ends, and that its end is recorded once, by its only owner."""

import asyncio

import pytest
from starlette.requests import Request

from rlhf.protocols.openai.chat import ChatCompletionRequest
from serve.gateway.errors import CLIENT_GONE, ApiError
from serve.gateway.exchange import Exchange, Recording
from serve.gateway.gateway import Gateway
from serve.gateway.routing import Route
from serve.gateway.transport import until_disconnect
from serve.store.records import Endpoint
from tests.unit.serve.service.test_gateway import ask, kept


def opened(gateway: Gateway) -> Exchange:
    request = ChatCompletionRequest.model_validate(
        {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}
    )
    return gateway.open_exchange("chatcmpl-1", "ann", Endpoint.chat, request, Route(variant="old"), "req-1")


async def test_an_answer_that_is_whole_is_a_success(gateway):
    exchange = opened(gateway)
    async with Recording(exchange, gateway.recorder):
        exchange.take({"choices": [{"index": 0, "text": "yes", "finish_reason": "stop"}]})
        exchange.succeed()
    (request,) = kept(gateway)
    assert (request.status, request.error, request.responses[0].text) == (200, None, "yes")


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ApiError(429, "the model is busy"), 429, "the model is busy"),
        (TimeoutError(), 504, "the answer takes too long: ask for less"),
        (ZeroDivisionError("odd"), 500, "ZeroDivisionError: odd"),
    ],
)
async def test_an_error_is_recorded_and_becomes_the_users(gateway, error, status, sentence):
    with pytest.raises(ApiError) as refused:
        async with Recording(opened(gateway), gateway.recorder):
            raise error
    assert refused.value.status == status
    assert "odd" not in refused.value.message
    assert [(request.status, request.error) for request in kept(gateway)] == [(status, sentence)]


async def test_an_exchange_that_is_left_unanswered_lost_its_client(gateway):
    async with Recording(opened(gateway), gateway.recorder):
        pass
    assert [(request.status, request.error) for request in kept(gateway)] == [(499, CLIENT_GONE)]


async def test_a_cancelled_exchange_lost_its_client(gateway):
    with pytest.raises(asyncio.CancelledError):
        async with Recording(opened(gateway), gateway.recorder):
            raise asyncio.CancelledError
    assert [(request.status, request.error) for request in kept(gateway)] == [(499, CLIENT_GONE)]


async def test_a_stream_takes_the_end_over_and_records_it_once(gateway):
    response = await ask(gateway, stream=True)
    assert (kept(gateway), gateway.ongoing) == ([], 1)
    async for _ in response.body_iterator:
        pass
    assert ([request.status for request in kept(gateway)], gateway.ongoing) == ([200], 0)
    await response.ending.aclose()
    assert ([request.status for request in kept(gateway)], gateway.ongoing) == ([200], 0)


async def test_a_stream_that_is_there_as_its_request_is_cancelled_is_recorded_and_leaves_no_place_taken(
    gateway, engines
):
    async def receive() -> dict:
        await asyncio.Event().wait()
        raise AssertionError

    ready = 0
    for steps in range(2, 9):
        answering = until_disconnect(Request({"type": "http"}, receive), ask(gateway, stream=True))
        task = asyncio.create_task(answering)
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            await task.result().abandon()
            ready += 1
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert gateway.ongoing == 0, steps
    assert 0 < ready < 7
    assert engines.closed == len(engines.asked)
    assert [request.status for request in kept(gateway)] == [499] * 7
