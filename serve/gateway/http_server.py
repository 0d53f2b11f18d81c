"""A gateway's own HTTP server, where no proxy of Ray Serve stands before it."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rlhf.types import InputError
from serve.config import HttpConfig

BACKLOG = 2048
"""Connections that the kernel holds for a gateway that has not taken them yet."""
KEEP_ALIVE_S = 90
"""Seconds that a connection may idle between two requests: longer than clients and load balancers keep theirs."""
HEAD_BYTES = 1 << 16
"""Longest request line and headers together that are waited for; the parser itself keeps all that comes."""
TIMEOUT_RESPONSE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
TOO_LARGE_RESPONSE = TIMEOUT_RESPONSE.replace(b"408 Request Timeout", b"431 Request Header Fields Too Large")


def bind(http: HttpConfig, *, shared: bool) -> socket.socket:
    """A listening socket; a `shared` one beside those of other gateways, between which the kernel divides connections.

    Raises InputError if the address is none of this machine's or the port is taken.
    """
    family, place = family_of(http), (http.host, http.port)
    try:
        return socket.create_server(place, family=family, backlog=BACKLOG, reuse_port=shared)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another program listens there; give another http.port" if taken else f"{error}"
        raise InputError(f"http.host={http.host}, http.port={http.port}: {reason}") from None


def family_of(http: HttpConfig) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in http.host else socket.AF_INET


@contextmanager
def reserve_port(http: HttpConfig) -> Iterator[None]:
    """A block during which the port is left to gateways: without it two services that start at the same time would find
    it free, and share it as gateways do. Raises as `bind`."""
    bind(http, shared=False).close()
    with socket.socket(family_of(http)) as holder:
        # A port is also free whose last connections have only just ended.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((http.host, http.port))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield


class HttpProtocol(HttpToolsProtocol):
    """A connection. One whose next request's headers stay incomplete, or grow too large, is closed, so that half-sent
    ones hold nothing."""

    def __init__(self, *args: Any, headers_s: float, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.headers_s = headers_s
        self.deadline: asyncio.TimerHandle | None = None
        self.head_bytes = 0
        """Bytes of headers that are not complete, without the piece in which they began."""
        self.piece = b""
        """The bytes received last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.expect_headers()

    def data_received(self, data: bytes) -> None:
        before, self.piece = self.deadline, data
        super().data_received(data)
        if before is None or self.deadline is not before:
            self.head_bytes = 0
            return
        self.head_bytes += len(data)
        if self.head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(TOO_LARGE_RESPONSE)
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return True

    def handle_websocket_upgrade(self) -> None:
        """Go on as if no upgrade had been asked for. Java's client asks for one to HTTP/2 with its first request,
        whose body the parser leaves where it is."""
        method, upgrade = self.scope["method"], sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        if method == "CONNECT":
            return self.send_400_response("This is no proxy.")
        headers = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"%s %s HTTP/1.1\r\n%s\r\n" % (method.encode(), self.url, b"".join(headers))
        self.parser = httptools.HttpRequestParser(self)
        super().data_received(head + self.piece[upgrade.args[0] :])

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
            self.transport.write(TIMEOUT_RESPONSE)
            self.transport.close()


class HttpServer(uvicorn.Server):
    """A server in a replica's event loop, which leaves signals to Ray."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def run_http_server(app: ASGIApp, http: HttpConfig, *, headers_s: float, drain_s: float) -> AsyncIterator[None]:
    """A block during which a server answers for `app`; its end takes no further connections and waits for the
    requests under way, for `drain_s` seconds at most.

    `headers_s`: seconds within which a request's headers have to be there.
    """
    config = uvicorn.Config(
        app,
        http=partial(HttpProtocol, headers_s=headers_s),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    server = HttpServer(config)
    with bind(http, shared=True) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task
