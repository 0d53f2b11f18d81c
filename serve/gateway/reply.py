"""An engine's answer on its way to the user: whole, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from functools import lru_cache
from typing import Any

from fastapi.responses import JSONResponse, StreamingResponse
from grpc import RpcError
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve.config import LimitsConfig
from serve.gateway.engine import DEPLOYMENT
from serve.gateway.errors import ApiError
from serve.gateway.exchange import Exchange
from serve.gateway.log_redaction import describe_error
from serve.gateway.routing import Deployment
from serve.store.records import Endpoint

LOG = logging.getLogger(__name__)
BROKEN = (RayError, DeploymentUnavailableError, RayServeException, RpcError)
"""Errors of a call to an engine that died or does not exist."""
BACKOFF_S = 0.2
DATA, END, DONE = "data: ", "\n\n", "[DONE]"

Answers = AsyncGenerator[tuple[int, Any], None]
Call = Callable[[Deployment, Endpoint, Mapping[str, Any], str], Answers]
"""(deployment, endpoint, body, request id) -> what `Engine.answer` yields."""


@lru_cache(maxsize=64)
def engine_handle(app: str) -> DeploymentHandle:
    """Return a handle to a variant's engines. Serve's controller is not asked whether they exist: that would block the
    event loop for as long as it is being restarted."""
    return ray_serve.get_deployment_handle(DEPLOYMENT, app, _check_exists=False).options(stream=True)


async def call_engine(deployment: Deployment, endpoint: Endpoint, body: Mapping[str, Any], id: str) -> Answers:
    """Yield the answers of one of the variant's engines. Closing the iterator ends the generation there."""
    answers = engine_handle(deployment.app).answer.remote(str(endpoint), body, id, deployment.adapter)
    try:
        async for answer in answers:
            yield answer
    finally:
        answers.cancel()


async def reply(exchange: Exchange, limits: LimitsConfig, call: Call, ending: AsyncExitStack) -> Response:
    """Return the response to an exchange. A stream takes `ending` over, which ends the exchange. Raises ApiError."""
    first, rest = await begin(exchange, limits, call)
    if first is None:
        return Stream(exchange, rest, limits, ending.pop_all())
    exchange.take(first)
    answer = JSONResponse({**first, "id": exchange.id, "model": exchange.request.model})
    exchange.succeed()
    return answer


async def begin(exchange: Exchange, limits: LimitsConfig, call: Call) -> tuple[dict[str, Any] | None, Answers]:
    """Return an engine's whole answer, None if it streams, and an iterator over the rest.

    Raises ApiError, or TimeoutError after `limits.timeout_s`. Where the engine dies before it answers another one is
    tried: nobody has seen anything yet.
    """
    body = {**exchange.request.for_engine(limits.max_tokens), "model": exchange.deployment.variant}
    async with asyncio.timeout(limits.timeout_s):
        for attempt in range(1, limits.attempts + 1):
            if attempt > 1:
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 2))
            answers = call(exchange.deployment, exchange.endpoint, body, exchange.id)
            try:
                status, first = await anext(answers)
            except BackPressureError:
                raise ApiError(429, "the model is busy: try again", retry_after_s=limits.retry_after_s) from None
            except BROKEN as error:
                place = f"try {attempt} of {limits.attempts} at {exchange.deployment.variant}"
                LOG.warning("%s: %s: %s", exchange.label, place, describe_error(error))
                continue
            if status != 200:
                raise engine_error(status, first)
            return first, answers
    raise ApiError(503, "the model does not answer at the moment: try again", retry_after_s=limits.retry_after_s)


def engine_error(status: int, body: Mapping[str, Any]) -> ApiError:
    """Turn an error body of an engine into an ApiError."""
    return ApiError(status, body["error"]["message"], param=body["error"].get("param"))


class Stream(StreamingResponse):
    """Server-sent events. Before the last one, or when the client goes away, which may read none, the exchange ends."""

    def __init__(self, exchange: Exchange, rest: Answers, limits: LimitsConfig, ending: AsyncExitStack) -> None:
        """`ending` is closed at the end of the exchange."""
        headers = {"cache-control": "no-cache"}
        super().__init__(self.events(), media_type="text/event-stream", headers=headers)
        self.exchange, self.rest, self.limits, self.ending = exchange, rest, limits, ending

    async def abandon(self) -> None:
        """End the exchange of a stream that nobody sends."""
        async with aclosing(self.rest):
            await self.ending.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self.limits.body_s):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        # `events` has closed `ending` already, unless the client went away before.
        async with aclosing(self.rest), self.ending:
            # What a server of ASGI 2.4 raises, too; of an older one the call returns.
            with suppress(ClientDisconnect):
                await super().__call__(scope, receive, send_in_time)

    async def events(self) -> AsyncIterator[str]:
        """Yield the stream as the user sees it; an engine that dies under way gives an error event, then the end.

        The exchange is recorded before the end, so that feedback finds the answer.
        """
        exchange = self.exchange
        unsent: list[str] = []
        """Events still to be sent: the pieces of one delivery are sent as one."""
        try:
            async for pieces in deliveries(self.rest, self.limits.timeout_s - exchange.elapsed_s):
                for piece in pieces:
                    if "error" in piece:
                        raise engine_error(int(piece["error"]["code"]), piece)
                    exchange.take(piece)
                    if prepare_chunk(piece, exchange):
                        unsent.append(event(piece))
                if unsent:
                    yield "".join(unsent)
                    unsent.clear()
            exchange.succeed()
        except BROKEN as error:
            LOG.warning("%s: the engine died in the middle of an answer: %s", exchange.label, describe_error(error))
            died = ApiError(503, "the model's engine died in the middle of this answer: ask again")
            unsent.append(event(exchange.fail(died).body_for(exchange.request_id)))
        except Exception as error:  # noqa: BLE001  `fail` logs what is unexpected
            unsent.append(event(exchange.fail(error).body_for(exchange.request_id)))
        if unsent:
            yield "".join(unsent)
        await self.ending.aclose()
        yield f"{DATA}{DONE}{END}"


def event(content: Mapping[str, Any]) -> str:
    return f"{DATA}{json.dumps(content)}{END}"


async def deliveries(rest: Answers, left_s: float) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the data of the engine's events, one list per delivery. Raises TimeoutError after `left_s` seconds."""
    deadline = asyncio.get_running_loop().time() + left_s
    while True:
        # Not around the `yield`: the time-out would strike the code that takes the piece.
        async with asyncio.timeout_at(deadline):
            _, text = await anext(rest)
        datas = [one.removeprefix(DATA) for one in text.split(END) if one]
        yield [json.loads(data) for data in datas if data != DONE]
        if datas[-1] == DONE:
            return


def prepare_chunk(piece: dict[str, Any], exchange: Exchange) -> bool:
    """Give a piece of an answer the names its user knows; whether it is for the user at all."""
    piece["id"], piece["model"] = exchange.id, exchange.request.model
    if exchange.request.stream_options and exchange.request.stream_options.include_usage:
        return True
    return not piece.pop("usage", None) or bool(piece["choices"])
