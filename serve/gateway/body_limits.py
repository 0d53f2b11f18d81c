"""Limits on request bodies: size, time, and the number of slow ones at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from fastapi import Request

from serve.config import LimitsConfig
from serve.gateway.auth import Caller
from serve.gateway.errors import ApiError
from serve.gateway.transport import is_json

SLOW_S = 1.0
"""Seconds after which an incomplete body counts as slow."""


@dataclass(slots=True)
class PendingBody:
    """A body that is being read."""

    senders: Counter[str]
    """Owner of the key and client address, once each."""
    deadline: asyncio.Timeout
    slow: bool = False
    problem: str | None = None
    """Reason why it is read no further; None while it is read."""


class BodyReader:
    """The bodies that one gateway reads.

    Each holds a place in the replica, of which there are few: senders who begin many and end none would shut out all
    others. So only some of a key's, and of an address's, may take longer than `SLOW_S`.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.slow: Counter[str] = Counter()
        """Slow bodies by sender."""

    async def read(self, request: Request, caller: Caller) -> bytes:
        """Return the body. Raises ApiError 408, 413 and 415."""
        reading = PendingBody(senders(request, caller), asyncio.timeout(self.limits.body_s))
        timer = asyncio.get_running_loop().call_later(SLOW_S, self.slow_down, reading)
        try:
            async with reading.deadline:
                return await read_all(request, self.limits.body_bytes)
        except TimeoutError:
            late = f"the body is not complete after {self.limits.body_s:g} s: send it faster"
            raise ApiError(408, reading.problem or late) from None
        finally:
            timer.cancel()
            if reading.slow:
                self.slow -= reading.senders

    def slow_down(self, reading: PendingBody) -> None:
        """Count a body as slow, or end it where its senders have as many as they may."""
        if any(self.slow[sender] >= self.limits.unread_bodies for sender in reading.senders):
            reading.problem = (
                f"the body is not complete after {SLOW_S:g} s, and neither are {self.limits.unread_bodies} others of "
                "this key or address: end those first"
            )
            reading.deadline.reschedule(asyncio.get_running_loop().time())
        else:
            reading.slow = True
            self.slow += reading.senders


def senders(request: Request, caller: Caller) -> Counter[str]:
    address = request.client.host if request.client else "unknown"
    return Counter([f"address {address}", *([f"key {caller.owner}"] if caller.owner else [])])


async def read_all(request: Request, limit: int) -> bytes:
    """Return the whole body. Raises ApiError 413 if it is too long, before all of it has been read, and 415 where
    its Content-Type is not JSON.

    A web page can send any other kind to this machine without asking first (CORS).
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if body and not is_json(request.headers.get("content-type")):
            raise ApiError(415, "Content-Type: the body has to be JSON; send `Content-Type: application/json`")
        if len(body) > limit:
            raise ApiError(413, f"the body has more than {limit} bytes: send less")
    return bytes(body)
