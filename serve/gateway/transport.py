"""Middleware of every HTTP request: request id, host check, unexpected errors."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.config import HttpConfig
from serve.gateway.auth import is_loopback
from serve.gateway.errors import ApiError
from serve.gateway.log_redaction import UnexpectedError, describe_error
from serve.gateway.reply import Stream
from serve.text import excerpt

LOG = logging.getLogger(__name__)
REQUEST_ID = "x-request-id"
SHORT = re.compile(r"[!-~]{1,128}")
"""Request ids that are taken over from clients: printable ASCII, no spaces."""


class Transport:
    """Middleware that gives every request an id, refuses foreign hosts, and answers unexpected errors.

    Without keys every process that reaches loopback is a user, and a web page reaches it from the browser on the same
    machine once its own name resolves to 127.0.0.1. Its requests still bear that name. Elsewhere users need keys, which
    no page has.
    """

    def __init__(self, app: ASGIApp, http: HttpConfig, *, send_ids: bool) -> None:
        self.app, self.http, self.send_ids = app, http, send_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        given, host = headers.get(REQUEST_ID, ""), headers.get("host")
        id = given if SHORT.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = id
        began = False

        async def send_named(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                if self.send_ids:
                    MutableHeaders(scope=message)[REQUEST_ID] = id
            await send(message)

        # A browser always sends a host; health checks of HTTP/1.0 do not.
        if host is not None and is_loopback(self.http.host) and not is_own(host, self.http.names):
            return await respond(wrong_host_error(host), id)(scope, receive, send_named)
        try:
            await self.app(scope, receive, send_named)
        except Exception as error:  # noqa: BLE001  said in the log
            found = f"request {id}: {scope['method']} {scope['path']}: an unexpected error: {describe_error(error)}"
            LOG.error("%s", found)
            if began:
                # The connection ends with it; Serve logs what is raised with its message.
                raise UnexpectedError(found) from None
            await respond(ApiError(500, "an error of this service: its log says more"), id)(scope, receive, send_named)


async def until_disconnect(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """Return what `answer` returns; cancel it if the client disconnects first. The request's body has been read.

    Raises ClientDisconnect.
    """
    answering, disconnecting = asyncio.create_task(answer), asyncio.create_task(wait_for_disconnect(request))
    try:
        try:
            await asyncio.wait([answering, disconnecting], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ClientDisconnect
        finally:
            for task in (answering, disconnecting):
                task.cancel()
            await asyncio.wait([answering, disconnecting])
        return answering.result()
    except asyncio.CancelledError:
        # Cancelled after the answer was made: nobody will send it.
        if answering.done() and not answering.cancelled() and answering.exception() is None:
            response = answering.result()
            if isinstance(response, Stream):
                await response.abandon()
        raise


async def wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def request_id_of(request: Request) -> str:
    return cast(str, request.state.request_id)


def respond(api_error: ApiError, request_id: str) -> JSONResponse:
    headers = {"retry-after": str(api_error.retry_after_s)} if api_error.retry_after_s else {}
    if api_error.status in (408, 413):
        # The rest of the body may never come.
        headers["connection"] = "close"
    if api_error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(api_error.body_for(request_id), api_error.status, headers)


def is_own(host: str, names: Sequence[str]) -> bool:
    """Return whether a Host header, with or without a port, names loopback or one of `names`."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name in {known.lower() for known in names}


def wrong_host_error(host: str) -> ApiError:
    message = f"Host: on loopback this service is not {excerpt(host)!r}; ask localhost, or add the name to http.names"
    return ApiError(421, message)


def is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
