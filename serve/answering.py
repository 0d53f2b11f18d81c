"""An answer: from the engine to the user, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fastapi.responses import StreamingResponse
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import Receive, Scope, Send

from serve.asking import Asked
from serve.directions import Seat
from serve.doors import Refusal
from serve.records import Endpoint, Request, Response
from serve.settings import LimitsConfig

LOG = logging.getLogger(__name__)
BROKEN = (RayError, DeploymentUnavailableError, RayServeException)
"""What a call of an engine raises that died, or is not there."""
BACKOFF_S = 0.2
DATA, DONE = "data: ", "[DONE]"

Call = Callable[[Seat, Endpoint, Mapping[str, Any], str], AsyncGenerator[tuple[int, Any]]]
"""(seat of a variant, endpoint, body, request id) -> what `Engine.answer` yields."""


@lru_cache(maxsize=64)
def engine_handle(app: str) -> DeploymentHandle:
    """To a variant's engines. Serve's controller is asked for it, which blocks the event loop, so once."""
    return serve.get_app_handle(app).options(stream=True)


async def call_engine(seat: Seat, endpoint: Endpoint, body: Mapping[str, Any], id: str) -> AsyncGenerator[Any]:
    """What one of the variant's engines answers. Closing the iterator ends the generation there."""
    answers = engine_handle(seat.app).answer.remote(str(endpoint), body, id, seat.adapter)
    try:
        async for answer in answers:
            yield answer
    finally:
        answers.cancel()


@dataclass(slots=True)
class Answered:
    """A request under way, and what becomes of it."""

    id: str
    user: str
    endpoint: Endpoint
    asked: Asked
    seat: Seat
    experiment: str | None
    shadow_of: str | None = None
    at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    status: int = 200
    error: str | None = None
    first_token_s: float | None = None
    latency_s: float | None = None
    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str | None] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)

    def take(self, body: Mapping[str, Any]) -> None:
        """Note what a whole answer or a piece of one says."""
        if body.get("usage"):
            self.usage = body["usage"]
        for choice in body.get("choices", ()):
            said = choice.get("message") or choice.get("delta") or choice
            text = said.get("content") or said.get("text") or ""
            self.texts[choice["index"]] = self.texts.get(choice["index"], "") + text
            self.reasons[choice["index"]] = choice.get("finish_reason") or self.reasons.get(choice["index"])
            if text and self.first_token_s is None:
                self.first_token_s = self.elapsed_s

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    def fail(self, status: int, error: str) -> None:
        self.status, self.error = status, error

    def record(self) -> Request:
        tokens = self.usage.get("completion_tokens")
        # The usage is of all choices together.
        counts = {0: tokens} if len(self.texts) == 1 else {}
        return Request(
            id=self.id,
            user=self.user,
            at=self.at,
            endpoint=self.endpoint,
            variant=self.seat.variant,
            version=self.seat.version,
            experiment=self.experiment,
            shadow_of=self.shadow_of,
            conversation=self.asked.conversation(self.user),
            turn=self.asked.turn,
            prompt_hash=self.asked.prompt_hash,
            messages=self.asked.dialogue(),
            sampling=self.asked.sampling,
            status=self.status,
            error=self.error,
            prompt_tokens=self.usage.get("prompt_tokens"),
            latency_s=self.elapsed_s if self.latency_s is None else self.latency_s,
            first_token_s=self.first_token_s if self.asked.stream else None,
            responses=[
                Response(index=i, text=self.texts[i], finish_reason=self.reasons[i], num_tokens=counts.get(i))
                for i in sorted(self.texts)
            ],
        )


async def begin(
    answered: Answered, body: Mapping[str, Any], limits: LimitsConfig, call: Call
) -> tuple[Any, AsyncGenerator[Any]]:
    """The first thing an engine answers, and the rest; of a stream it begins with the first event. Raises Refusal.

    Where the engine dies before that another one is tried: nobody has seen anything yet.
    """
    for attempt in range(1, limits.attempts + 1):
        answers = call(answered.seat, answered.endpoint, body, answered.id)
        try:
            status, first = await anext(answers)
            rest = answers if first is not None else chained(await anext(answers), answers)
            return (status, first), rest
        except BackPressureError:
            raise Refusal(429, "the model is busy: try again", retry_after_s=limits.retry_after_s) from None
        except BROKEN as error:
            LOG.warning(
                "%s: try %d of %d at %s: %s", answered.id, attempt, limits.attempts, answered.seat.variant, error
            )
        await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1))
    raise Refusal(503, "the model does not answer at the moment: try again", retry_after_s=limits.retry_after_s)


async def chained(first: Any, rest: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    async with aclosing(rest):
        yield first
        async for item in rest:
            yield item


class Stream(StreamingResponse):
    """Server-sent events; `keep` is awaited at their end, however it comes, if it was not before."""

    def __init__(self, events: AsyncGenerator[str], keep: Callable[[], Awaitable[None]]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self.events, self.keep = events, keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.events.aclose()
            await self.keep()


async def events(
    answered: Answered, rest: AsyncGenerator[Any], name: str, keep: Callable[[], Awaitable[None]]
) -> AsyncGenerator[str]:
    """A stream as the user sees it; an engine that dies under way gives an error event, then the end.

    `keep` is awaited before the end, so that feedback finds the answer.
    """
    try:
        async with aclosing(rest):
            async for _, event in rest:
                data = event.removeprefix(DATA).strip()
                if data == DONE:
                    break
                piece = json.loads(data)
                answered.take(piece)
                if "error" in piece:
                    answered.fail(int(piece["error"]["code"]), piece["error"]["message"])
                if shown(piece, answered, name):
                    yield f"{DATA}{json.dumps(piece)}\n\n"
    except BROKEN as error:
        LOG.warning("%s: the engine died in the middle of an answer: %s", answered.id, error)
        refusal = Refusal(503, "the model's engine died in the middle of this answer: ask again")
        answered.fail(refusal.status, refusal.message)
        yield f"{DATA}{json.dumps(refusal.body)}\n\n"
    except (asyncio.CancelledError, GeneratorExit):
        answered.fail(499, "the client went away")
        raise
    await keep()
    yield f"{DATA}{DONE}\n\n"


def shown(piece: dict[str, Any], answered: Answered, name: str) -> bool:
    """Give a piece of an answer the names its user knows; whether it is for the user at all."""
    if "error" in piece:
        return True
    piece["id"], piece["model"] = answered.id, name
    if answered.asked.stream_options and answered.asked.stream_options.include_usage:
        return True
    return not piece.pop("usage", None) or bool(piece["choices"])
