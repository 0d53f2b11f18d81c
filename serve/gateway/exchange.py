"""One exchange: a request, the engine's answer on its way to the user, and the record of both."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fastapi.responses import StreamingResponse
from grpc import RpcError
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from rlhf.protocols.openai.generation import GenerationRequest
from serve.config import LimitsConfig
from serve.gateway.engine import DEPLOYMENT
from serve.gateway.errors import ApiError
from serve.gateway.log_redaction import describe_error
from serve.gateway.routing import Deployment
from serve.store.consent import salted_hash
from serve.store.records import Endpoint, Request, Response

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


@dataclass(slots=True)
class Exchange:
    """A request in progress, its answer so far, and its outcome."""

    id: str
    user: str
    endpoint: Endpoint
    request: GenerationRequest
    deployment: Deployment
    experiment: str | None
    salt: str
    """The store's, for hashes of texts."""
    request_id: str
    """The HTTP request's, which the log and the response name."""
    shadow_of: str | None = None
    at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    status: int = 200
    error: str | None = None
    first_token_s: float | None = None
    texts: dict[int, str] = field(default_factory=dict)
    calls: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)
    """Tool calls of each choice, by their place."""
    reasons: dict[int, str | None] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)
    recorded: bool = False
    """True once its end has been recorded."""

    def redirect(self, deployment: Deployment) -> None:
        """Answer from another deployment, outside of any experiment."""
        self.deployment, self.experiment = deployment, None

    def take(self, body: Mapping[str, Any]) -> None:
        """Add a whole answer or one chunk of a stream."""
        if body.get("usage"):
            self.usage = body["usage"]
        for choice in body.get("choices", ()):
            said = choice.get("message") or choice.get("delta") or choice
            text = said.get("content") or said.get("text") or ""
            self.texts[choice["index"]] = self.texts.get(choice["index"], "") + text
            self.reasons[choice["index"]] = choice.get("finish_reason") or self.reasons.get(choice["index"])
            if said.get("tool_calls"):
                join_calls(self.calls.setdefault(choice["index"], {}), said["tool_calls"])
            is_said = text or said.get("reasoning") or said.get("tool_calls")
            if is_said and self.first_token_s is None:
                self.first_token_s = self.elapsed_s

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    @property
    def label(self) -> str:
        """Name of the exchange in the log."""
        return f"{self.id} (request {self.request_id})"

    def fail(self, error: BaseException) -> ApiError:
        """Record the error of this exchange; return the error that the user gets."""
        match error:
            case ApiError():
                api_error = error
            case TimeoutError():
                api_error = ApiError(504, "the answer takes too long: ask for less")
            case asyncio.CancelledError():
                api_error = ApiError(499, "the client went away")
            case _:
                LOG.error("%s: an unexpected error: %s", self.label, describe_error(error))
                self.status, self.error = 500, f"{type(error).__name__}: {error}"
                return ApiError(500, f"an error of this service: its log says more under {self.id}")
        self.status, self.error = api_error.status, api_error.message
        return api_error

    def record(self) -> Request:
        tokens = self.usage.get("completion_tokens")
        # The usage is of all choices together.
        counts = {0: tokens} if len(self.texts) == 1 else {}
        return Request(
            id=self.id,
            user=self.user,
            at=self.at,
            endpoint=self.endpoint,
            variant=self.deployment.variant,
            version=self.deployment.version,
            experiment=self.experiment,
            shadow_of=self.shadow_of,
            conversation=salted_hash(self.salt, self.request.conversation(self.user)),
            turn=self.request.turn,
            prompt_hash=salted_hash(self.salt, self.request.prompt_hash),
            messages=self.request.dialogue,
            sampling=self.request.sampling,
            status=self.status,
            error=self.error,
            prompt_tokens=self.usage.get("prompt_tokens"),
            latency_s=self.elapsed_s,
            first_token_s=self.first_token_s if self.request.stream else None,
            responses=[
                Response(
                    index=i,
                    text=self.texts[i],
                    finish_reason=self.reasons[i],
                    num_tokens=counts.get(i),
                    tool_calls=[call for _, call in sorted(self.calls[i].items())] if i in self.calls else None,
                )
                for i in sorted(self.texts)
            ],
        )


def join_calls(calls: dict[int, dict[str, Any]], pieces: Sequence[Mapping[str, Any]]) -> None:
    """Add whole tool calls, or pieces of a stream's, to those of the same choice."""
    for number, piece in enumerate(pieces):
        empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call, function = calls.setdefault(piece.get("index", number), empty), piece.get("function") or {}
        call["id"] = piece.get("id") or call["id"]
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        call["function"]["arguments"] += function.get("arguments") or ""


async def begin(exchange: Exchange, body: Mapping[str, Any], limits: LimitsConfig, call: Call) -> tuple[Any, Answers]:
    """Return the first answer of an engine and an iterator over the rest. Raises ApiError.

    Where the engine dies before that another one is tried: nobody has seen anything yet.
    """
    for attempt in range(1, limits.attempts + 1):
        if attempt > 1:
            await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 2))
        answers = call(exchange.deployment, exchange.endpoint, body, exchange.id)
        try:
            return await anext(answers), answers
        except BackPressureError:
            raise ApiError(429, "the model is busy: try again", retry_after_s=limits.retry_after_s) from None
        except BROKEN as error:
            place = f"try {attempt} of {limits.attempts} at {exchange.deployment.variant}"
            LOG.warning("%s: %s: %s", exchange.label, place, describe_error(error))
    raise ApiError(503, "the model does not answer at the moment: try again", retry_after_s=limits.retry_after_s)


def engine_error(status: int, body: Mapping[str, Any]) -> ApiError:
    """Turn an error body of an engine into an ApiError."""
    return ApiError(status, body["error"]["message"], param=body["error"].get("param"))


class Stream(StreamingResponse):
    """Server-sent events. `finish` is awaited at their end, however it comes: the client may disconnect before the
    first, or read none of them."""

    def __init__(
        self, exchange: Exchange, rest: Answers, limits: LimitsConfig, finish: Callable[[], Awaitable[None]]
    ) -> None:
        content = events(exchange, rest, limits, finish)
        super().__init__(content, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self.exchange, self.rest, self.finish, self.patience_s = exchange, rest, finish, limits.body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self.patience_s):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        try:
            # What a server of ASGI 2.4 raises, too; of an older one the call returns.
            with suppress(ClientDisconnect):
                await super().__call__(scope, receive, send_in_time)
        finally:
            if not self.exchange.recorded:
                self.exchange.fail(asyncio.CancelledError())
            await self.finish()
            await self.rest.aclose()


async def events(
    exchange: Exchange, rest: Answers, limits: LimitsConfig, finish: Callable[[], Awaitable[None]]
) -> AsyncIterator[str]:
    """A stream as the user sees it; an engine that dies under way gives an error event, then the end.

    `finish` is awaited before the end, so that feedback finds the answer.
    """
    said: list[str] = []
    """Events still to be sent: the pieces of one delivery are sent as one."""
    try:
        async for pieces in deliveries(rest, limits.timeout_s - exchange.elapsed_s):
            for piece in pieces:
                if "error" in piece:
                    raise engine_error(int(piece["error"]["code"]), piece)
                exchange.take(piece)
                if prepare_chunk(piece, exchange):
                    said.append(event(piece))
            if said:
                yield "".join(said)
                said.clear()
    except BROKEN as error:
        LOG.warning("%s: the engine died in the middle of an answer: %s", exchange.label, describe_error(error))
        died = ApiError(503, "the model's engine died in the middle of this answer: ask again")
        said.append(event(exchange.fail(died).body_for(exchange.request_id)))
    except Exception as error:  # noqa: BLE001  `fail` logs what is unexpected
        said.append(event(exchange.fail(error).body_for(exchange.request_id)))
    if said:
        yield "".join(said)
    await finish()
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
