"""Every route, each with the role it needs."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rlhf.types import InputError, RunError
from serve.gateway.auth import Caller, is_loopback, let_in, need
from serve.gateway.body_limits import Bodies
from serve.gateway.errors import Refusal
from serve.gateway.gateway import NOBODY, Gateway
from serve.gateway.openapi import OF_ENGINES, PATH, document, documented
from serve.gateway.schemas.chat import ChatCompletionRequest
from serve.gateway.schemas.completion import CompletionRequest
from serve.gateway.schemas.requests import ASKED, Consent, Reason, Said, Start, read
from serve.gateway.schemas.responses import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    ConsentKept,
    FeedbackKept,
    Health,
    ModelCard,
    ModelList,
    Readiness,
    ReleaseStatus,
    UserDeleted,
)
from serve.gateway.transport import Transport, id_of, respond, unless_gone
from serve.store.database import reason
from serve.store.records import Endpoint, Feedback, Role
from serve.store.store import UnknownRequest
from serve.text import check_plain, shown

LOG = logging.getLogger(__name__)

CONTROLLER = (400, 409, 503)
"""Statuses with which the release controller refuses."""
Command = Callable[..., Awaitable[dict[str, Any]]]
"""What the release controller does: (name, **arguments) -> the release as it then is."""
Door = AbstractAsyncContextManager[object]


def role_needed(role: Role) -> Callable[[Request], Awaitable[Caller]]:
    # A coroutine, though it waits for nothing: FastAPI runs functions in threads.
    async def caller(request: Request) -> Caller:
        gateway: Gateway = request.app.state.gateway
        directions = gateway.directions
        keyless = is_loopback(gateway.config.doors.host) and not directions.user_keys_required
        found = let_in(request.headers.get("authorization"), directions.keys, keyless=keyless)
        need(role, found)
        request.state.caller = found
        return found

    caller.role = role  # type: ignore[attr-defined]  # a test asks every route for it
    return caller


User = Annotated[Caller, Depends(role_needed(Role.user))]
Operator = Annotated[Caller, Depends(role_needed(Role.operator))]


async def body_of(request: Request) -> bytes:
    """Raises Refusal."""
    bodies: Bodies = request.app.state.bodies
    return await bodies.read(request, request.state.caller)


async def question_of(request: Request) -> bytes:
    """As `body_of`; refused before it is read where there is no room for an answer."""
    gateway: Gateway = request.app.state.gateway
    gateway.check_room()
    return await body_of(request)


Body = Annotated[bytes, Depends(body_of)]
Question = Annotated[bytes, Depends(question_of)]


def build(
    gateway: Gateway, command: Command, *, send_ids: bool = True, door: Callable[[FastAPI], Door] = nullcontext
) -> FastAPI:
    """Return the service's routes.

    `send_ids`: whether responses bear an `x-request-id`; Serve's proxy adds one itself. `door`: what lets requests in,
    as `listening`; a proxy of Serve's needs none.
    """

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        # The door is closed first, and what came in by it is recorded then.
        async with gateway.following(), door(api):
            yield

    # Its own pages would be routes without a role, and load scripts from elsewhere.
    api = FastAPI(openapi_url=None, lifespan=lifespan)
    api.state.gateway, api.state.bodies = gateway, Bodies(gateway.config.limits)
    api.add_middleware(Transport, doors=gateway.config.doors, send_ids=send_ids)
    add_errors(api)
    add_asking(api, gateway)
    add_saying(api, gateway)
    add_operating(api, gateway, command)
    add_document(api)
    return api


def add_errors(api: FastAPI) -> None:
    @api.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> Response:
        return respond(refusal, id_of(request))

    @api.exception_handler(InputError)
    async def wrong(request: Request, error: InputError) -> Response:
        return await refuse(request, Refusal(404 if isinstance(error, UnknownRequest) else 400, str(error)))

    @api.exception_handler(RunError)
    async def cannot(request: Request, error: RunError) -> Response:
        return await refuse(request, Refusal(409, str(error)))

    @api.exception_handler(HTTPException)
    async def elsewhere(request: Request, error: HTTPException) -> Response:
        sentence = f"{request.method} {shown(request.url.path)}: {error.detail}; GET {PATH} lists the routes"
        answer = await refuse(request, Refusal(error.status_code, sentence))
        answer.headers.update(error.headers or {})
        return answer

    @api.exception_handler(SQLAlchemyError)
    async def unkept(request: Request, error: SQLAlchemyError) -> Response:
        place = f"request {id_of(request)}: {request.method} {request.url.path}"
        LOG.error("%s: the store does not answer: %s", place, reason(error))
        seconds = request.app.state.gateway.config.limits.retry_after_s
        return await refuse(request, Refusal(503, "the store does not answer: try again", retry_after_s=seconds))

    @api.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return await refuse(request, Refusal(499, "the client went away"))


def model_card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rlhf"}


def add_asking(api: FastAPI, gateway: Gateway) -> None:
    @api.get("/health", **documented(Health))
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/ready", **documented(Readiness))
    async def ready() -> Response:
        """Whether all works, for a load balancer: answers go on while the store does not."""
        problems = gateway.problems()
        body = {"problems": problems, "records_waiting": len(gateway.recorder.waiting), "lost": gateway.recorder.lost}
        body["deleted_text_pending"] = gateway.erasing
        return JSONResponse({"status": "degraded" if problems else "ok", **body}, 503 if problems else 200)

    @api.get("/v1/models", **documented(ModelList))
    async def models(caller: User) -> dict[str, Any]:
        return {"object": "list", "data": [model_card(name) for name in gateway.directions.models(caller)]}

    @api.get("/v1/models/{name:path}", **documented(ModelCard, refusals=(404,)))
    async def model(caller: User, name: str) -> dict[str, Any]:
        gateway.directions.require(name, caller)
        return model_card(name)

    @api.post(
        "/v1/chat/completions",
        **documented(ChatCompletion, reads=ChatCompletionRequest, streams=ChatCompletionChunk, refusals=OF_ENGINES),
    )
    async def chat(caller: User, body: Question, request: Request) -> Response:
        asked = read(body, ASKED[Endpoint.chat])
        return await unless_gone(request, gateway.answer(Endpoint.chat, asked, caller, id_of(request)))

    @api.post(
        "/v1/completions",
        **documented(Completion, reads=CompletionRequest, streams=Completion, refusals=OF_ENGINES),
    )
    async def completion(caller: User, body: Question, request: Request) -> Response:
        asked = read(body, ASKED[Endpoint.completion])
        return await unless_gone(request, gateway.answer(Endpoint.completion, asked, caller, id_of(request)))


def add_saying(api: FastAPI, gateway: Gateway) -> None:
    @api.post("/v1/feedback", **documented(FeedbackKept, reads=Said, status=201, refusals=(404, 503)))
    async def feedback(caller: User, body: Body) -> dict[str, str]:
        said = read(body, Said)
        user = caller.user(said.user) or NOBODY
        event = Feedback(id=f"fb-{uuid.uuid4().hex}", at=time.time(), **{**said.model_dump(), "user": user})
        await asyncio.to_thread(gateway.store.add_feedback, event)
        return {"id": event.id}

    @api.put("/v1/consent", **documented(ConsentKept, reads=Consent, refusals=(503,)))
    async def consent(caller: User, body: Body) -> dict[str, Any]:
        given = read(body, Consent)
        user = caller.user(given.user)
        if user is None:
            raise Refusal(400, "user: name whose consent it is", param="user")
        await asyncio.to_thread(gateway.store.set_consent, user, given.given, time.time())
        said = {"user": user, "given": given.given}
        if given.given:
            return said
        if exports := await asyncio.to_thread(gateway.store.exports_of, user):
            folders = ", ".join(export.folder for export in exports)
            LOG.warning("consent was withdrawn for rows of %s: remove them with `python launch/forget.py`", folders)
        return {**said, "text": await gateway.erase()}


def add_operating(api: FastAPI, gateway: Gateway, command: Command) -> None:
    @api.delete("/users/{user:path}", **documented(UserDeleted, refusals=(400, 503)))
    async def delete_user(caller: Operator, user: str) -> dict[str, Any]:
        try:
            check_plain(user)
        except ValueError as error:
            raise Refusal(400, f"user: {error}", param="user") from None
        deleted = await asyncio.to_thread(gateway.store.delete_user, user, time.time())
        exports = await asyncio.to_thread(gateway.store.exports_of, user)
        return {**deleted, "exports": [export.folder for export in exports], "text": await gateway.erase()}

    @api.get("/release", **documented(ReleaseStatus, refusals=CONTROLLER))
    async def status(caller: Operator) -> dict[str, Any]:
        return await command("status")

    @api.post("/release/start", **documented(ReleaseStatus, reads=Start, refusals=CONTROLLER))
    async def start(caller: Operator, body: Body) -> dict[str, Any]:
        return await command("start", by=caller.owner, **read(body, Start).model_dump())

    @api.post("/release/promote", **documented(ReleaseStatus, reads=Reason, needs_body=False, refusals=CONTROLLER))
    async def promote(caller: Operator, body: Body) -> dict[str, Any]:
        return await command("promote", by=caller.owner, **read(body or b"{}", Reason).model_dump())

    @api.post("/release/rollback", **documented(ReleaseStatus, reads=Reason, needs_body=False, refusals=CONTROLLER))
    async def rollback(caller: Operator, body: Body) -> dict[str, Any]:
        return await command("roll_back", by=caller.owner, **read(body or b"{}", Reason).model_dump())


def add_document(api: FastAPI) -> None:
    """Publish the OpenAPI document. It is the same for every service and names nothing of this one: it needs no key."""

    @api.get(PATH, include_in_schema=False)
    async def openapi() -> JSONResponse:
        api.openapi_schema = api.openapi_schema or document(api)
        return JSONResponse(api.openapi_schema)
