"""Every route, each with the role it needs."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rlhf.protocols.openai.chat import ChatCompletionRequest
from rlhf.protocols.openai.completion import CompletionRequest
from rlhf.protocols.openai.responses import ChatCompletion, ChatCompletionChunk, Completion, ModelCard, ModelList
from rlhf.protocols.text import check_plain
from rlhf.types import InputError, RunError
from serve.gateway.auth import Caller, authenticate, authorize, is_loopback
from serve.gateway.body_limits import BodyReader
from serve.gateway.errors import CLIENT_GONE, ApiError
from serve.gateway.gateway import NOBODY, Gateway
from serve.gateway.openapi import ENGINE_ERRORS, PATH, document, operation
from serve.gateway.schemas.requests import REQUEST_SCHEMAS, ConsentBody, FeedbackBody, ReasonBody, StartBody, read
from serve.gateway.schemas.responses import (
    ConsentResponse,
    DeletionResponse,
    FeedbackResponse,
    Health,
    Readiness,
    ReleaseStatus,
)
from serve.gateway.transport import Transport, request_id_of, respond, until_disconnect
from serve.store.database import reason
from serve.store.records import Endpoint, Feedback, Role
from serve.store.requests import UnknownRequest
from serve.text import excerpt

LOG = logging.getLogger(__name__)

CONTROLLER = (400, 409, 503)
"""Statuses with which the release controller refuses."""
Command = Callable[..., Awaitable[dict[str, Any]]]
"""A command of the release controller: (name, **arguments) -> the release afterwards."""
Listener = AbstractAsyncContextManager[object]


@dataclass(frozen=True, slots=True)
class RequireRole:
    """Dependency of a route: the caller, who has to have a role."""

    role: Role

    # A coroutine, though it waits for nothing: FastAPI runs functions in threads.
    async def __call__(self, request: Request) -> Caller:
        """Return the caller. Raises ApiError 401 and 403."""
        gateway: Gateway = request.app.state.gateway
        routing_table = gateway.routing_table
        keyless = is_loopback(gateway.config.http.host) and not routing_table.user_keys_required
        found = authenticate(request.headers.get("authorization"), routing_table.keys, keyless=keyless)
        authorize(self.role, found)
        request.state.caller = found
        return found


User = Annotated[Caller, Depends(RequireRole(Role.user))]
Operator = Annotated[Caller, Depends(RequireRole(Role.operator))]


async def read_body(request: Request) -> bytes:
    """Return the body of a request. Raises ApiError."""
    body_reader: BodyReader = request.app.state.body_reader
    return await body_reader.read(request, request.state.caller)


async def read_completion_body(request: Request) -> bytes:
    """Return the body as `read_body` does. Raises ApiError 429 before reading if too many requests are in progress."""
    gateway: Gateway = request.app.state.gateway
    gateway.check_room()
    return await read_body(request)


RequestBody = Annotated[bytes, Depends(read_body)]
CompletionBody = Annotated[bytes, Depends(read_completion_body)]


def build(
    gateway: Gateway, command: Command, *, send_ids: bool = True, listener: Callable[[FastAPI], Listener] = nullcontext
) -> FastAPI:
    """Return the service's routes.

    `send_ids`: whether responses bear an `x-request-id`; Serve's proxy adds one itself. `listener`: the HTTP
    server that runs as long as the routes, as `run_http_server`; behind a proxy of Serve there is none.
    """

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        # The listener closes first; the requests that it took are recorded afterwards.
        async with gateway.background_refresh(), listener(api):
            yield

    # Its own pages would be routes without a role, and load scripts from elsewhere.
    api = FastAPI(openapi_url=None, lifespan=lifespan)
    api.state.gateway, api.state.body_reader = gateway, BodyReader(gateway.config.limits)
    api.add_middleware(Transport, http=gateway.config.http, send_ids=send_ids)
    add_errors(api)
    add_completion_routes(api, gateway)
    add_feedback_routes(api, gateway)
    add_operator_routes(api, gateway, command)
    add_document(api)
    return api


def add_errors(api: FastAPI) -> None:
    @api.exception_handler(ApiError)
    async def refuse(request: Request, api_error: ApiError) -> Response:
        return respond(api_error, request_id_of(request))

    @api.exception_handler(InputError)
    async def input_error(request: Request, error: InputError) -> Response:
        return await refuse(request, ApiError(404 if isinstance(error, UnknownRequest) else 400, str(error)))

    @api.exception_handler(RunError)
    async def run_error(request: Request, error: RunError) -> Response:
        return await refuse(request, ApiError(409, str(error)))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        sentence = f"{request.method} {excerpt(request.url.path)}: {error.detail}; GET {PATH} lists the routes"
        answer = await refuse(request, ApiError(error.status_code, sentence))
        answer.headers.update(error.headers or {})
        return answer

    @api.exception_handler(SQLAlchemyError)
    async def store_error(request: Request, error: SQLAlchemyError) -> Response:
        place = f"request {request_id_of(request)}: {request.method} {request.url.path}"
        LOG.error("%s: the store does not answer: %s", place, reason(error))
        seconds = request.app.state.gateway.config.limits.retry_after_s
        return await refuse(request, ApiError(503, "the store does not answer: try again", retry_after_s=seconds))

    @api.exception_handler(ClientDisconnect)
    async def client_disconnected(request: Request, error: ClientDisconnect) -> Response:
        return await refuse(request, ApiError(499, CLIENT_GONE))


def model_card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rlhf"}


def add_completion_routes(api: FastAPI, gateway: Gateway) -> None:
    @api.get("/health", **operation(Health))
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/ready", **operation(Readiness))
    async def ready() -> Response:
        """Report problems to a load balancer: requests are answered even while the store is down."""
        problems = gateway.problems()
        body = {"problems": problems, "records_waiting": len(gateway.recorder.waiting), "lost": gateway.recorder.lost}
        body["deleted_text_pending"] = gateway.erasing
        return JSONResponse({"status": "degraded" if problems else "ok", **body}, 503 if problems else 200)

    @api.get("/v1/models", **operation(ModelList))
    async def models(caller: User) -> dict[str, Any]:
        return {"object": "list", "data": [model_card(name) for name in gateway.routing_table.models(caller)]}

    @api.get("/v1/models/{name:path}", **operation(ModelCard, errors=(404,)))
    async def model(caller: User, name: str) -> dict[str, Any]:
        gateway.routing_table.require(name, caller)
        return model_card(name)

    @api.post(
        "/v1/chat/completions",
        **operation(ChatCompletion, reads=ChatCompletionRequest, streams=ChatCompletionChunk, errors=ENGINE_ERRORS),
    )
    async def chat(caller: User, body: CompletionBody, request: Request) -> Response:
        generation = read(body, REQUEST_SCHEMAS[Endpoint.chat])
        return await until_disconnect(
            request, gateway.answer(Endpoint.chat, generation, caller, request_id_of(request))
        )

    @api.post(
        "/v1/completions",
        **operation(Completion, reads=CompletionRequest, streams=Completion, errors=ENGINE_ERRORS),
    )
    async def completion(caller: User, body: CompletionBody, request: Request) -> Response:
        generation = read(body, REQUEST_SCHEMAS[Endpoint.completion])
        return await until_disconnect(
            request, gateway.answer(Endpoint.completion, generation, caller, request_id_of(request))
        )


def add_feedback_routes(api: FastAPI, gateway: Gateway) -> None:
    @api.post("/v1/feedback", **operation(FeedbackResponse, reads=FeedbackBody, status=201, errors=(404, 503)))
    async def feedback(caller: User, body: RequestBody) -> dict[str, str]:
        said = read(body, FeedbackBody)
        user = caller.user(said.user) or NOBODY
        event = Feedback(id=f"fb-{uuid.uuid4().hex}", at=time.time(), **{**said.model_dump(), "user": user})
        await asyncio.to_thread(gateway.store.requests.add_feedback, event)
        return {"id": event.id}

    @api.put("/v1/consent", **operation(ConsentResponse, reads=ConsentBody, errors=(503,)))
    async def consent(caller: User, body: RequestBody) -> dict[str, Any]:
        given = read(body, ConsentBody)
        user = caller.user(given.user)
        if user is None:
            raise ApiError(400, "user: name whose consent it is", param="user")
        await asyncio.to_thread(gateway.store.people.set_consent, user, given.given, time.time())
        said = {"user": user, "given": given.given}
        if given.given:
            return said
        if exports := await asyncio.to_thread(gateway.store.exports.of, user):
            folders = ", ".join(export.folder for export in exports)
            LOG.warning("consent was withdrawn for rows of %s: remove them with `python launch/forget.py`", folders)
        return {**said, "text": await gateway.erase()}


def add_operator_routes(api: FastAPI, gateway: Gateway, command: Command) -> None:
    @api.delete("/users/{user:path}", **operation(DeletionResponse, errors=(400, 503)))
    async def delete_user(caller: Operator, user: str) -> dict[str, Any]:
        try:
            check_plain(user)
        except ValueError as error:
            raise ApiError(400, f"user: {error}", param="user") from None
        deleted = await asyncio.to_thread(gateway.store.people.delete, user, time.time())
        exports = await asyncio.to_thread(gateway.store.exports.of, user)
        return {**deleted, "exports": [export.folder for export in exports], "text": await gateway.erase()}

    @api.get("/release", **operation(ReleaseStatus, errors=CONTROLLER))
    async def status(caller: Operator) -> dict[str, Any]:
        return await command("status")

    @api.post("/release/start", **operation(ReleaseStatus, reads=StartBody, errors=CONTROLLER))
    async def start(caller: Operator, body: RequestBody) -> dict[str, Any]:
        return await command("start", by=caller.owner, **read(body, StartBody).model_dump())

    @api.post("/release/promote", **operation(ReleaseStatus, reads=ReasonBody, needs_body=False, errors=CONTROLLER))
    async def promote(caller: Operator, body: RequestBody) -> dict[str, Any]:
        return await command("promote", by=caller.owner, **read(body or b"{}", ReasonBody).model_dump())

    @api.post("/release/rollback", **operation(ReleaseStatus, reads=ReasonBody, needs_body=False, errors=CONTROLLER))
    async def rollback(caller: Operator, body: RequestBody) -> dict[str, Any]:
        return await command("roll_back", by=caller.owner, **read(body or b"{}", ReasonBody).model_dump())


def add_document(api: FastAPI) -> None:
    """Publish the OpenAPI document. It is the same for every service and names nothing of this one: it needs no key."""

    @api.get(PATH, include_in_schema=False)
    async def openapi() -> JSONResponse:
        api.openapi_schema = api.openapi_schema or document(api)
        return JSONResponse(api.openapi_schema)
