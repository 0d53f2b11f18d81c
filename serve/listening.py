"""A gateway's own HTTP server, where no proxy of Ray Serve stands before it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rlhf.types import InputError
from serve.settings import DoorsConfig

BACKLOG = 2048
"""Connections that the kernel holds for a gateway that has not taken them yet."""
KEEP_ALIVE_S = 90
"""Seconds that a connection may idle between two requests: longer than clients and load balancers keep theirs."""
LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def bind(doors: DoorsConfig, *, shared: bool) -> socket.socket:
    """A listening socket; a `shared` one beside those of other gateways, between which the kernel divides connections.

    Raises InputError where the address is none of this machine's or the port is taken.
    """
    family = socket.AF_INET6 if ":" in doors.host else socket.AF_INET
    try:
        return socket.create_server((doors.host, doors.port), family=family, backlog=BACKLOG, reuse_port=shared)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another program listens there; give another doors.port" if taken else f"{error}"
        raise InputError(f"doors.host={doors.host}, doors.port={doors.port}: {reason}") from None


class Protocol(HttpToolsProtocol):
    """A connection. One whose next request's headers stay incomplete is closed, so that half-sent ones hold nothing."""

    def __init__(self, *args: Any, headers_s: float, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.headers_s = headers_s
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.expect_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.expect_headers()

    def on_headers_complete(self) -> None:
        self.expect_nothing()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.expect_nothing()
        super().connection_lost(exc)

    def expect_headers(self) -> None:
        if self.deadline is None:
            self.deadline = self.loop.call_later(self.headers_s, self.end)

    def expect_nothing(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def end(self) -> None:
        self.deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            # A pipelined request waits behind one that is still being answered.
            self.expect_headers()
        elif not self.transport.is_closing():
            self.transport.write(LATE)
            self.transport.close()


class Server(uvicorn.Server):
    """In a replica's event loop; signals are Ray's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(app: ASGIApp, doors: DoorsConfig, *, headers_s: float, drain_s: float) -> AsyncIterator[None]:
    """A block during which `app` is answered for at the door; its end takes no further connections and waits for the
    requests under way, for `drain_s` seconds at most.

    `headers_s`: seconds within which a request's headers have to be there.
    """
    config = uvicorn.Config(
        app,
        http=partial(Protocol, headers_s=headers_s),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    server = Server(config)
    with bind(doors, shared=True) as door:
        task = asyncio.create_task(server.serve(sockets=[door]))
        try:
            yield
        finally:
            server.should_exit = True
            await task
