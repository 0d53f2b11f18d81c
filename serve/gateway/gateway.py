"""The gateway: checks a request, routes it to a variant, and records the exchange.

A completion request, from the client to the store:

    HTTP server -> Transport                   host, request id
      -> routes.chat | routes.completion       RequireRole -> Caller; BodyReader -> bytes; read -> GenerationRequest
      -> Gateway.answer(endpoint, request, caller, request_id)
          |-> check_limits, check_scoring      ApiError 400
          |-> RoutingTable.route               user, model -> Route: variant, experiment, split or shadow
          |-> check_room                       ApiError 429
          |-> expose                           the user's first request in a split: Exposure -> Recorder -> Store
          |-> start_shadow                     a copy for the candidate, in the background, recorded likewise
          '-> reply.reply                      JSONResponse, or Stream, which sends the pieces
                -> begin -> call_engine -> a replica: Engine.answer -> vLLM
      exchange.Recording, which a stream takes over: its exit records the end, errors included
        Exchange.record -> Recorder -> Store
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from rlhf.protocols.openai.generation import GenerationRequest
from rlhf.types import InputError, RunError
from serve.config import ServeConfig
from serve.gateway import routing
from serve.gateway.auth import Caller
from serve.gateway.errors import ApiError
from serve.gateway.exchange import Exchange, Recording
from serve.gateway.recorder import Recorder
from serve.gateway.reply import Call, begin, reply
from serve.gateway.routing import Route, RoutingTable
from serve.gateway.schemas.requests import check_limits, check_scoring
from serve.statistics.assignment import Split
from serve.store.database import Erasure, reason
from serve.store.records import Endpoint, Exposure
from serve.store.store import Store

LOG = logging.getLogger(__name__)
REFRESH_S = 0.5
"""Seconds within which every gateway follows what the store says: weights, keys, models."""
NOBODY = "nobody"
"""The user of requests that name none."""
ERASURES, ERASURE_S = 10, 0.05
"""Tries to have deleted text gone before a deletion is answered, and seconds after each: most readers are short."""
SHADOWS = 64
"""Shadow requests under way in one gateway; further ones are left out."""


class Gateway:
    """The logic of one gateway replica, without HTTP, which is in `routes.py`."""

    def __init__(
        self, config: ServeConfig, store: Store, call: Call, report: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        """`report` gets the numbers of records that wait and that are lost, before each look at the store."""
        self.config, self.store, self.call, self.report = config, store, call, report
        self.recorder = Recorder(store.requests, store.exposures, config.store.patience_s)
        self.routing_table: RoutingTable = routing.read(store, config)
        self.salt = store.settings.salt()
        self.store_problem: str | None = None
        """Reason why the store could not be read the last time; None if it could."""
        self.erasing = True
        """True while deleted text may still be in the store's files: a gateway may have ended before it was gone."""
        self.ongoing = 0
        self.exposed: dict[tuple[str, str], bool] = {}
        """Participation by experiment and user."""
        self.shadows: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def background_refresh(self) -> AsyncIterator[None]:
        """A block during which the routing table follows the store."""
        task = asyncio.create_task(self.refresh_forever())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self.recorder.flush()

    async def refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self.report(len(self.recorder.waiting), self.recorder.lost)
            try:
                if self.erasing:
                    self.erasing = await asyncio.to_thread(self.store.database.erase) is Erasure.pending
                found = await asyncio.to_thread(routing.read, self.store, self.config)
            except (SQLAlchemyError, InputError, RunError) as error:
                self.store_problem = reason(error)
                LOG.error("the store cannot be read, what it last said stays: %s", self.store_problem)
                continue
            self.store_problem = None
            if (found.split, found.last_deletion) != (self.routing_table.split, self.routing_table.last_deletion):
                self.exposed.clear()
            self.routing_table = found

    async def erase(self) -> Erasure:
        """Have deleted text gone from the store's files, in the background where somebody still reads it."""
        self.erasing = True
        for _ in range(ERASURES):
            erasure = await asyncio.to_thread(self.store.database.erase)
            self.erasing = erasure is Erasure.pending
            if not self.erasing:
                return erasure
            await asyncio.sleep(ERASURE_S)
        LOG.warning("deleted text stays in the store's files until no reader has an older snapshot open")
        return Erasure.pending

    def problems(self) -> list[str]:
        """Return the problems of this gateway; empty if it has none."""
        num_waiting, problem = len(self.recorder.waiting), self.recorder.problem
        reading = [f"the store cannot be read: {self.store_problem}"] if self.store_problem else []
        return reading + ([f"{num_waiting} records wait for the store: {problem}"] if problem else [])

    async def answer(self, endpoint: Endpoint, request: GenerationRequest, caller: Caller, request_id: str) -> Response:
        """Return the response to a request. Raises ApiError."""
        limits = self.config.limits
        check_limits(request, limits)
        check_scoring(request, self.config.engine.max_adapters)
        id = f"{'chatcmpl' if endpoint is Endpoint.chat else 'cmpl'}-{uuid.uuid4().hex}"
        user = caller.user(request.user)
        route = self.routing_table.route(request.model, user if request.user else None, id, caller)
        self.check_room()
        self.ongoing += 1
        async with AsyncExitStack() as ending:
            ending.callback(self.free_place)
            exchange = self.open_exchange(id, user or NOBODY, endpoint, request, route, request_id)
            await ending.enter_async_context(Recording(exchange, self.recorder))
            if route.split is not None and not await self.expose(exchange, route.split, caller):
                exchange.redirect(self.routing_table.deployments[self.routing_table.production])
            elif route.shadow is not None:
                self.start_shadow(route.shadow, exchange)
            return await reply(exchange, limits, self.call, ending)

    def free_place(self) -> None:
        self.ongoing -= 1

    def check_room(self) -> None:
        """Raise ApiError if no further request may be under way."""
        limits = self.config.limits
        if self.ongoing >= limits.ongoing_requests:
            message = f"{self.ongoing} requests are under way: try again in {limits.retry_after_s} s"
            raise ApiError(429, message, retry_after_s=limits.retry_after_s)

    def open_exchange(
        self, id: str, user: str, endpoint: Endpoint, request: GenerationRequest, route: Route, request_id: str
    ) -> Exchange:
        return Exchange(
            id=id,
            user=user,
            endpoint=endpoint,
            request=request,
            deployment=self.routing_table.deployments[route.variant],
            experiment=route.experiment,
            salt=self.salt,
            request_id=request_id,
        )

    async def expose(self, exchange: Exchange, split: Split, caller: Caller) -> bool:
        """Record that the experiment shows the user an arm, and with which probability, before it does.

        Returns whether the user takes part: an owner's users may be limited.
        """
        place = (split.experiment, exchange.user)
        if place in self.exposed:
            return self.exposed[place]
        exposure = Exposure(
            experiment=split.experiment,
            user=exchange.user,
            variant=exchange.deployment.variant,
            at=exchange.at,
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

    def start_shadow(self, variant: str, exchange: Exchange) -> None:
        if len(self.shadows) >= SHADOWS:
            return
        copy = Exchange(
            id=f"shadow-{exchange.id}",
            user=exchange.user,
            endpoint=exchange.endpoint,
            request=exchange.request.model_copy(update={"stream": False, "stream_options": None}),
            deployment=self.routing_table.deployments[variant],
            experiment=exchange.experiment,
            salt=self.salt,
            request_id=exchange.request_id,
            shadow_of=exchange.id,
        )
        task = asyncio.create_task(self.answer_in_shadow(copy))
        self.shadows.add(task)
        task.add_done_callback(self.shadows.discard)

    async def answer_in_shadow(self, copy: Exchange) -> None:
        # Its error is in the record.
        with suppress(ApiError):
            async with Recording(copy, self.recorder):
                body, _ = await begin(copy, self.config.limits, self.call)
                assert body is not None, "a copy does not stream"
                copy.take(body)
                copy.succeed()
