"""What every HTTP request passes before it reaches a route."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.doors import Refusal, is_loopback
from serve.settings import DoorsConfig


class Transport:
    """Refuses requests that name another host.

    Without keys whoever reaches loopback is a user, and a web page reaches it from the browser on the same machine once
    its own name resolves to 127.0.0.1. Its requests still bear that name. Elsewhere users need keys, which no page has.
    """

    def __init__(self, app: ASGIApp, doors: DoorsConfig) -> None:
        self.app, self.doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        host = Headers(scope=scope).get("host")
        # A browser always sends one; health checks of HTTP/1.0 do not.
        if host is not None and is_loopback(self.doors.host) and not is_own(host, self.doors.names):
            return await JSONResponse(misdirected(host).body, 421)(scope, receive, send)
        await self.app(scope, receive, send)


def is_own(host: str, names: Sequence[str]) -> bool:
    """Whether a Host header, with or without a port, is of loopback or one of these names."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name in {known.lower() for known in names}


def misdirected(host: str) -> Refusal:
    return Refusal(
        421,
        f"Host: this service listens on loopback and is not {host[:100]!r}; ask localhost, or add the name to doors.names",
    )


def is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
