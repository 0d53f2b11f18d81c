"""The only door: checks a request, decides who answers, and keeps what was answered."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from rlhf.types import InputError, RunError
from serve.config import ServeConfig
from serve.gateway import routing
from serve.gateway.auth import Caller
from serve.gateway.errors import Refusal
from serve.gateway.exchange import Answered, Call, Stream, begin, refused
from serve.gateway.recorder import Recorder
from serve.gateway.routing import Choice, Directions
from serve.gateway.schemas.common import GenerationRequest
from serve.gateway.schemas.requests import check_limits
from serve.statistics.assignment import Split
from serve.store.database import Erasure, reason
from serve.store.records import Endpoint, Exposure
from serve.store.store import Store

LOG = logging.getLogger(__name__)
REFRESH_S = 0.5
"""Within it every gateway follows what the store says: weights, keys, models."""
NOBODY = "nobody"
"""The user of requests that name none."""
ERASURES, ERASURE_S = 10, 0.05
"""Tries to have deleted text gone before a deletion is answered, and seconds after each: most readers are short."""
SHADOWS = 64
"""Shadow requests under way in one gateway; further ones are left out."""


class Gateway:
    """What one replica knows and does. It knows no HTTP server: `routes.py` does."""

    def __init__(
        self, config: ServeConfig, store: Store, call: Call, report: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        """`report` gets the numbers of records that wait and that are lost, before each look at the store."""
        self.config, self.store, self.call, self.report = config, store, call, report
        self.recorder = Recorder(store, config.store.patience_s)
        self.directions: Directions = routing.read(store, config)
        self.salt = store.salt()
        self.unread: str | None = None
        """Why the store could not be read the last time; None where it could."""
        self.erasing = True
        """Whether deleted text may still be in the store's files: a gateway may have ended before it was gone."""
        self.ongoing = 0
        self.exposed: dict[tuple[str, str], bool] = {}
        """By experiment and user: whether the user takes part."""
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
            await self.recorder.flush()

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self.report(len(self.recorder.waiting), self.recorder.lost)
            try:
                if self.erasing:
                    self.erasing = await asyncio.to_thread(self.store.erase) is Erasure.pending
                found = await asyncio.to_thread(routing.read, self.store, self.config)
            except (SQLAlchemyError, InputError, RunError) as error:
                self.unread = reason(error)
                LOG.error("the store cannot be read, what it last said stays: %s", self.unread)
                continue
            self.unread = None
            if (found.split, found.last_deletion) != (self.directions.split, self.directions.last_deletion):
                self.exposed.clear()
            self.directions = found

    async def erase(self) -> Erasure:
        """Have deleted text gone from the store's files, in the background where somebody still reads it."""
        self.erasing = True
        for _ in range(ERASURES):
            erasure = await asyncio.to_thread(self.store.erase)
            self.erasing = erasure is Erasure.pending
            if not self.erasing:
                return erasure
            await asyncio.sleep(ERASURE_S)
        LOG.warning("deleted text stays in the store's files until nobody reads what was there before")
        return Erasure.pending

    def problems(self) -> list[str]:
        """What keeps this gateway from doing all it should; empty where nothing does."""
        num_waiting, problem = len(self.recorder.waiting), self.recorder.problem
        reading = [f"the store cannot be read: {self.unread}"] if self.unread else []
        return reading + ([f"{num_waiting} records wait for the store: {problem}"] if problem else [])

    async def answer(self, endpoint: Endpoint, asked: GenerationRequest, caller: Caller, request_id: str) -> Response:
        """Raises Refusal."""
        limits = self.config.limits
        check_limits(asked, limits)
        id = f"{'chatcmpl' if endpoint is Endpoint.chat else 'cmpl'}-{uuid.uuid4().hex}"
        user = caller.user(asked.user)
        choice = self.directions.choose(asked.model, user if asked.user else None, id, caller)
        self.check_room()
        self.ongoing += 1
        answered = self.underway(id, user or NOBODY, endpoint, asked, choice, request_id)
        try:
            if choice.split is not None and not await self.expose(answered, choice.split, caller):
                answered.leave(self.directions.seats[self.directions.production])
            elif choice.shadow is not None:
                self.cast_shadow(choice.shadow, answered)
            async with asyncio.timeout(limits.timeout_s):
                return await self.reply(answered)
        except BaseException as error:
            refusal = answered.fail(error)
            await self.keep(answered)
            if not isinstance(error, Exception):
                raise
            raise refusal from None

    def check_room(self) -> None:
        """Raises Refusal where as many requests are under way as may be."""
        limits = self.config.limits
        if self.ongoing >= limits.ongoing_requests:
            message = f"{self.ongoing} requests are under way: try again in {limits.retry_after_s} s"
            raise Refusal(429, message, retry_after_s=limits.retry_after_s)

    def underway(
        self, id: str, user: str, endpoint: Endpoint, asked: GenerationRequest, choice: Choice, request_id: str
    ) -> Answered:
        return Answered(
            id=id,
            user=user,
            endpoint=endpoint,
            asked=asked,
            seat=self.directions.seats[choice.variant],
            experiment=choice.experiment,
            salt=self.salt,
            request_id=request_id,
        )

    async def reply(self, answered: Answered) -> Response:
        (status, first), rest = await begin(answered, self.body_for(answered), self.config.limits, self.call)
        if first is None:
            return Stream(answered, rest, self.config.limits, partial(self.keep, answered))
        if status != 200:
            raise refused(status, first)
        answered.take(first)
        answer = JSONResponse({**first, "id": answered.id, "model": answered.asked.model})
        await self.keep(answered)
        return answer

    def body_for(self, answered: Answered) -> dict[str, Any]:
        return {**answered.asked.for_engine(self.config.limits), "model": answered.seat.variant}

    async def keep(self, answered: Answered) -> None:
        """However a request ends it is recorded, errors of its variant included, and under way no more; once."""
        if not answered.kept:
            answered.kept = True
            try:
                await self.recorder.record(answered.record())
            finally:
                self.ongoing -= 1

    async def expose(self, answered: Answered, split: Split, caller: Caller) -> bool:
        """Keep that the experiment shows the user an arm, and with which probability, before it does.

        Returns whether the user takes part: an owner's users may be limited.
        """
        place = (split.experiment, answered.user)
        if place in self.exposed:
            return self.exposed[place]
        exposure = Exposure(
            experiment=split.experiment,
            user=answered.user,
            variant=answered.seat.variant,
            at=answered.at,
            weights=split.weights,
            salt=split.salt,
            owner=caller.owner,
        )
        takes_part = await self.recorder.expose(exposure, most=caller.users)
        if takes_part is None:
            # A limit that cannot be looked up in time lets nobody in, this time.
            return caller.users is None
        self.exposed[place] = takes_part
        return takes_part

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
            salt=self.salt,
            request_id=answered.request_id,
            shadow_of=answered.id,
        )
        task = asyncio.create_task(self.answer_in_shadow(copy))
        self.shadows.add(task)
        task.add_done_callback(self.shadows.discard)

    async def answer_in_shadow(self, copy: Answered) -> None:
        try:
            async with asyncio.timeout(self.config.limits.timeout_s):
                (status, body), _ = await begin(copy, self.body_for(copy), self.config.limits, self.call)
            if status != 200:
                raise refused(status, body)
            copy.take(body)
        except Exception as error:  # noqa: BLE001  `fail` logs what is unexpected
            copy.fail(error)
        await self.recorder.record(copy.record())
