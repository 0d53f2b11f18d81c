"""The only door: checks a request, decides who answers, and keeps what was answered."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from serve import directions
from serve.answering import Answered, Call, Stream, begin, events
from serve.asking import Asked, check_limits
from serve.directions import Choice, Directions
from serve.doors import Caller, Refusal
from serve.recorder import Recorder
from serve.records import Endpoint, Exposure
from serve.settings import ServeConfig
from serve.store import Store

LOG = logging.getLogger(__name__)
REFRESH_S = 0.5
"""Within it every gateway follows what the store says: weights, keys, models."""
NOBODY = "nobody"
"""The user of requests that name none."""
SHADOWS = 64
"""Shadow requests under way in one gateway; further ones are left out."""


class Gateway:
    """What one replica knows and does. It knows no HTTP server: `routes.py` does."""

    def __init__(self, config: ServeConfig, store: Store, call: Call) -> None:
        self.config, self.store, self.call = config, store, call
        self.recorder = Recorder(store)
        self.directions: Directions = directions.read(store, config)
        self.ongoing = 0
        self.exposed: set[tuple[str, str]] = set()
        self.shadows: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """A block during which the directions are those of the store."""
        task = asyncio.create_task(self.follow())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                found = await asyncio.to_thread(directions.read, self.store, self.config)
            except SQLAlchemyError as error:
                LOG.error("the store cannot be read, what it last said stays: %s", error)
                continue
            if found.split != self.directions.split:
                self.exposed.clear()
            self.directions = found

    async def answer(self, endpoint: Endpoint, asked: Asked, caller: Caller) -> Response:
        """Raises Refusal."""
        limits = self.config.limits
        check_limits(asked, limits)
        id = f"{'chatcmpl' if endpoint is Endpoint.chat else 'cmpl'}-{uuid.uuid4().hex}"
        user = caller.user(asked.user)
        choice = self.directions.choose(asked.model, user, id)
        if self.ongoing >= limits.ongoing_requests:
            message = f"{self.ongoing} requests are under way: try again in {limits.retry_after_s} s"
            raise Refusal(429, message, retry_after_s=limits.retry_after_s)
        self.ongoing += 1
        answered = self.underway(id, user or NOBODY, endpoint, asked, choice)
        try:
            await self.expose(answered)
            if choice.shadow is not None:
                self.cast_shadow(choice.shadow, answered)
            async with asyncio.timeout(limits.timeout_s):
                return await self.reply(answered)
        except BaseException as error:
            self.ongoing -= 1
            await asyncio.shield(self.note_failure(answered, error))
            if isinstance(error, TimeoutError):
                raise Refusal(504, f"the answer took more than {limits.timeout_s:g} s: ask for less") from None
            raise

    def underway(self, id: str, user: str, endpoint: Endpoint, asked: Asked, choice: Choice) -> Answered:
        return Answered(
            id=id,
            user=user,
            endpoint=endpoint,
            asked=asked,
            seat=self.directions.seats[choice.variant],
            experiment=choice.experiment,
        )

    async def reply(self, answered: Answered) -> Response:
        """Takes one off `ongoing` when the answer is complete."""
        body = self.body_for(answered)
        (status, first), rest = await begin(answered, body, self.config.limits, self.call)
        if first is None:
            return self.stream(answered, rest)
        if status != 200:
            error = first["error"]
            raise Refusal(status, error["message"], param=error["param"])
        answered.take(first)
        await self.recorder.record(answered.record())
        self.ongoing -= 1
        return JSONResponse({**first, "id": answered.id, "model": answered.asked.model})

    def stream(self, answered: Answered, rest: AsyncGenerator[Any]) -> Stream:
        kept = False

        async def keep() -> None:
            nonlocal kept
            if not kept:
                kept = True
                self.ongoing -= 1
                await asyncio.shield(self.recorder.record(answered.record()))

        return Stream(events(answered, rest, answered.asked.model, keep), keep)

    def body_for(self, answered: Answered) -> dict[str, Any]:
        return {**answered.asked.for_engine(self.config.limits), "model": answered.seat.variant}

    async def note_failure(self, answered: Answered, error: BaseException) -> None:
        """A request that got no answer is kept too: its variant's errors are counted."""
        if isinstance(error, Refusal):
            answered.fail(error.status, error.message)
        elif isinstance(error, asyncio.CancelledError):
            answered.fail(499, "the client went away")
        else:
            answered.fail(504 if isinstance(error, TimeoutError) else 500, f"{type(error).__name__}: {error}")
        await self.recorder.record(answered.record())

    async def expose(self, answered: Answered) -> None:
        """Keep that the experiment shows the user an arm, before it does."""
        experiment, user = answered.experiment, answered.user
        if experiment is None or (experiment, user) in self.exposed:
            return
        exposure = Exposure(experiment=experiment, user=user, variant=answered.seat.variant, at=answered.at)
        try:
            await asyncio.to_thread(self.store.expose, exposure)
        except SQLAlchemyError as error:
            LOG.error("an exposure was not kept: %s", error)
        else:
            self.exposed.add((experiment, user))

    def cast_shadow(self, variant: str, answered: Answered) -> None:
        if len(self.shadows) >= SHADOWS:
            return
        copy = Answered(
            id=f"shadow-{answered.id}",
            user=answered.user,
            endpoint=answered.endpoint,
            asked=answered.asked.model_copy(update={"stream": False, "stream_options": None}),
            seat=self.directions.seats[variant],
            experiment=answered.experiment,
            shadow_of=answered.id,
        )
        task = asyncio.create_task(self.answer_in_shadow(copy))
        self.shadows.add(task)
        task.add_done_callback(self.shadows.discard)

    async def answer_in_shadow(self, copy: Answered) -> None:
        try:
            async with asyncio.timeout(self.config.limits.timeout_s):
                (status, body), _ = await begin(copy, self.body_for(copy), self.config.limits, self.call)
            if status == 200:
                copy.take(body)
            else:
                copy.fail(status, body["error"]["message"])
            await self.recorder.record(copy.record())
        except (Refusal, TimeoutError) as error:
            await self.note_failure(copy, error)
