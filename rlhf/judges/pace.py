"""Times at which requests may be sent, and waits between attempts."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(slots=True, kw_only=True)
class Pace:
    """Sends requests at equal distances, and none while the server wants a pause."""

    requests_per_minute: float | None
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    next_turn: float = field(default=float("-inf"), init=False)
    turns: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    """Held by the first in the queue, so that turns come one by one in the order of their calls."""

    async def turn(self) -> None:
        """Wait until the next request may be sent."""
        async with self.turns:
            while (wait := self.next_turn - self.now()) > 0:
                await self.sleep(wait)
            interval = 60.0 / self.requests_per_minute if self.requests_per_minute else 0.0
            self.next_turn = self.now() + interval

    def pause(self, seconds: float) -> None:
        """Let no request be sent for some seconds."""
        self.next_turn = max(self.next_turn, self.now() + seconds)


def backoff(first_s: float, attempt: int, longest_s: float) -> float:
    """Return the seconds after the `attempt`-th failure, from 1: exponential, less a random part of up to half, so that
    requests that failed together do not return together."""
    return min(first_s * 2.0 ** (attempt - 1), longest_s) * random.uniform(0.5, 1.0)


def stated_wait(headers: Mapping[str, str], today: datetime | None = None) -> float | None:
    """Return the seconds of `Retry-After`, a number or a date (RFC 9110, 10.2.3); None without a readable one."""
    stated = headers.get("Retry-After", "").strip()
    try:
        return max(float(stated), 0.0) if stated[:1].isdigit() else seconds_until(stated, today or datetime.now(UTC))
    except ValueError:
        return None


def seconds_until(date: str, today: datetime) -> float:
    then = parsedate_to_datetime(date)
    return max((then.replace(tzinfo=then.tzinfo or UTC) - today).total_seconds(), 0.0)
