"""Asynchronous client of an OpenAI-compatible endpoint: paced, retried, accounted for."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr

from rlhf.causes import first_words, root_cause
from rlhf.judges.config import EndpointConfig
from rlhf.judges.ledger import Bill, Ledger
from rlhf.judges.pace import Pace, backoff, stated_wait
from rlhf.types import Failure, InputError

T = TypeVar("T")
TEMPORARY = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which another attempt may succeed."""
TEMPLATE_TOKENS = 32
"""Most tokens that a chat template adds to a message."""
MILLION = 1e6
LARGEST_REPLY = 1 << 24
"""Bytes of a response that are read: many times the longest reply, so that a faulty server cannot fill the memory."""
MOST_TOKENS = 1 << 40
"""Number of tokens from which a statement of them is not believed."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A failed attempt."""

    kind: str
    """`timeout`, `error` or `invalid`."""
    problem: str
    """The rest of a sentence that begins with the endpoint."""
    again: bool = True
    """True if another attempt may succeed."""
    stated_wait_s: float | None = None
    """Seconds for which the server refuses requests, if it states them."""


class EndpointClient:
    """The only sender of a run's requests to an endpoint, so that its limits hold for the run as a whole.

    Bound to the event loop in which it is created.
    """

    failure_kinds = "endpoint"
    """Beginning of the kinds of its failures."""

    def __init__(
        self,
        config: EndpointConfig,
        key: SecretStr | None,
        *,
        ledger_file: Path | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.config, self.name = config, config.KEY
        self.url = str(config.url).rstrip("/")
        try:
            httpx.Request("POST", self.url)
        except (httpx.InvalidURL, ValueError) as error:
            raise InputError(
                f"{self.name}.url={config.url!a}: it is no address ({error}); give one such as http://host:8000/v1"
            ) from error
        self.ledger = Ledger(
            max_cost=config.max_cost,
            max_requests=config.max_requests,
            key=self.name,
            subject=config.NAME,
            file=ledger_file,
        )
        self.pace = pace or Pace(requests_per_minute=config.requests_per_minute)
        self.slots = asyncio.Semaphore(config.concurrency)
        self.counts: Counter[str] = Counter()
        self.seconds, self.cost_taken = 0.0, self.ledger.cost
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        # `timeout_s` bounds the whole request; httpx bounds the wait for each part of an answer.
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        self.http = httpx.AsyncClient(headers=headers, timeout=None, limits=limits)

    async def send(
        self, path: str, body: Mapping[str, Any], largest_cost: float, read: Callable[[Any, str], T | Trouble]
    ) -> T | Failure:
        """Return what `read` makes of a response, its JSON (None if it is none) and its text, after as many attempts as
        it takes.

        `largest_cost` bounds the cost of an attempt. Returns a Failure if no attempt succeeded. Raises RunError once
        the budget is used up.
        """
        async with self.slots:
            attempt = 1
            while isinstance(outcome := await self.attempt(path, body, largest_cost, read), Trouble):
                if not outcome.again or attempt == self.config.max_attempts or not await self.wait(outcome, attempt):
                    self.counts["failures"] += 1
                    return self.failure(path, outcome.kind, outcome.problem)
                self.counts["retries"] += 1
                attempt += 1
            return outcome

    async def wait(self, trouble: Trouble, attempt: int) -> bool:
        """Wait before another attempt; False if the server states too long a wait."""
        longest = self.config.max_wait_s
        if trouble.stated_wait_s is None:
            await self.pace.sleep(backoff(self.config.backoff_s, attempt, longest))
        elif trouble.stated_wait_s <= longest:
            self.pace.pause(trouble.stated_wait_s)
        return trouble.stated_wait_s is None or trouble.stated_wait_s <= longest

    async def attempt(
        self, path: str, body: Mapping[str, Any], largest_cost: float, read: Callable[[Any, str], T | Trouble]
    ) -> T | Trouble:
        async with self.ledger.request(largest_cost) as bill:
            await self.pace.turn()
            self.counts["requests"] += 1
            start = time.perf_counter()
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    response, content = await self.post(path, body)
            except TimeoutError:
                # The server may have generated, and charged, all the same: the largest cost stays.
                limit = f"{self.name}.timeout_s={self.config.timeout_s:g}"
                return Trouble("timeout", f"gave no reply within {limit}; raise it, or lower {self.name}.concurrency")
            except httpx.HTTPError as error:
                # Unless it never was connected, the server may have charged for a reply that broke off.
                bill.cost = 0.0 if isinstance(error, httpx.ConnectError) else bill.cost
                problem = f"cannot be reached ({root_cause(error)}): start the server, or correct {self.name}.url"
                return Trouble("error", problem)
            finally:
                self.seconds += time.perf_counter() - start
            return self.read(response, content, bill, read)

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[httpx.Response, bytes]:
        """Send a request; return the response and its content, cut behind `LARGEST_REPLY` bytes."""
        # ASCII, since a policy may write what UTF-8 does not hold.
        content = json.dumps(body).encode("ascii")
        async with self.http.stream("POST", f"{self.url}{path}", content=content) as response:
            received = bytearray()
            async for part in response.aiter_bytes():
                received += part
                if len(received) > LARGEST_REPLY:
                    break
            return response, bytes(received)

    def read(
        self, response: httpx.Response, content: bytes, bill: Bill, read: Callable[[Any, str], T | Trouble]
    ) -> T | Trouble:
        """Read a response, and put its cost on the bill."""
        status, text = response.status_code, content.decode(errors="replace")
        if status != httpx.codes.OK:
            bill.cost = 0.0
            again = status in TEMPORARY or status >= httpx.codes.INTERNAL_SERVER_ERROR
            problem = f"answered status {status} ({first_words(text)}): {self.remedy(status)}"
            return Trouble("error", problem, again, stated_wait(response.headers))
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        match answer:
            case {"usage": {"prompt_tokens": int() as num_read, "completion_tokens": int() as num_written}} if (
                0 <= min(num_read, num_written) <= max(num_read, num_written) < MOST_TOKENS
            ):
                bill.cost = self.price(num_read, num_written)
                self.counts["prompt_tokens"] += num_read
                self.counts["completion_tokens"] += num_written
        return read(answer, text)

    def remedy(self, status: int) -> str:
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return f"give a valid key in the environment variable that {self.name}.api_key_env names"
        if status == httpx.codes.NOT_FOUND:
            return f"correct {self.name}.url or {self.name}.model"
        return "it asks for fewer requests" if status == httpx.codes.TOO_MANY_REQUESTS else "look at its log"

    def failure(self, path: str, kind: str, problem: str) -> Failure:
        return Failure(kind=f"{self.failure_kinds}_{kind}", message=f"{self.config.NAME} {self.url}{path} {problem}")

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        config = self.config
        return (prompt_tokens * config.prompt_price + completion_tokens * config.completion_price) / MILLION

    def take_figures(self) -> dict[str, float]:
        """Return the metrics since the last call, and the cost of the run so far."""
        counts, self.counts = self.counts, Counter()
        seconds, self.seconds = self.seconds, 0.0
        since, self.cost_taken = self.ledger.cost - self.cost_taken, self.ledger.cost
        names = ("requests", "retries", "failures", "prompt_tokens", "completion_tokens")
        prefix = self.config.NAME
        return {
            **{f"{prefix}/{name}": float(counts[name]) for name in names},
            f"{prefix}/seconds": seconds / max(counts["requests"], 1),
            f"{prefix}/cost": since,
            f"{prefix}/total_cost": self.ledger.cost,
        }

    async def close(self) -> None:
        await self.http.aclose()
