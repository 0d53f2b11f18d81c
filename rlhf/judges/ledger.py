"""Account of an endpoint's cost, with a budget that concurrent requests cannot exceed."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.types import RunError


def whole_lines(file: Path) -> list[bytes]:
    """Return the lines of a file, and cut off a last one that a killed process did not finish."""
    lines, _, torn = file.read_bytes().rpartition(b"\n")
    if torn:
        file.write_bytes(lines + b"\n" if lines else b"")
    return lines.splitlines()


@dataclass(slots=True)
class Bill:
    """Cost of one request: the largest possible one until the server has stated its tokens."""

    cost: float


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Requests and cost of a run so far, those in flight with their largest possible cost.

    Each change is a line of the file before a request is sent, and another once its cost is known: a killed run
    continues with what it has spent, and counts what was in flight at its largest cost.
    """

    max_cost: float | None
    max_requests: int | None
    key: str
    """Key of the endpoint in the configuration, for messages."""
    subject: str = "judge"
    """The endpoint in a sentence."""
    file: Path | None = None
    """File of the changes, as JSON lines. None: the account is kept in memory."""
    cost: float = field(default=0.0, init=False)
    requests: int = field(default=0, init=False)
    in_flight: int = field(default=0, init=False)
    settled: asyncio.Condition = field(default_factory=asyncio.Condition, init=False)

    def __post_init__(self) -> None:
        if self.file is None or not self.file.is_file():
            return
        rows = [json.loads(line) for line in whole_lines(self.file)]
        self.cost = math.fsum(row["cost"] for row in rows)
        self.requests = sum(row["requests"] for row in rows)

    @asynccontextmanager
    async def request(self, largest_cost: float) -> AsyncIterator[Bill]:
        """Account for one request. While the budget does not cover it, wait for requests in flight, which may cost less
        than reserved. Raises RunError if none is left and it still does not."""
        async with self.settled:
            while problem := self.excess(largest_cost):
                if not self.in_flight:
                    raise RunError(problem)
                await self.settled.wait()
            self.in_flight += 1
            self.enter(largest_cost, 1)
        bill = Bill(largest_cost)
        try:
            yield bill
        finally:
            self.in_flight -= 1
            self.enter(bill.cost - largest_cost, 0)
            async with self.settled:
                self.settled.notify_all()

    def excess(self, largest_cost: float) -> str | None:
        """Return why the budget does not allow another request, as a sentence; None if it does."""
        if self.max_requests is not None and self.requests >= self.max_requests:
            return (
                f"{self.key}.max_requests={self.max_requests}: the {self.subject}'s budget is used up after "
                f"{self.requests} requests; raise it, and resume the run"
            )
        if self.max_cost is not None and self.cost + largest_cost > self.max_cost:
            return (
                f"{self.key}.max_cost={self.max_cost:g}: the {self.subject} has cost {self.cost:.6g}, and the next "
                f"request may cost {largest_cost:.6g}; raise it, and resume the run"
            )
        return None

    def enter(self, cost: float, requests: int) -> None:
        self.cost += cost
        self.requests += requests
        if self.file is not None and (cost or requests):
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"requests": requests, "cost": cost}) + "\n")
