"""Asynchronous client of an OpenAI-compatible chat endpoint: paced, retried, accounted for."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from rlhf.causes import first_words, root_cause
from rlhf.judges.config import JudgeConfig, ResponseFormat
from rlhf.judges.ledger import Bill, Ledger
from rlhf.judges.pace import Pace, backoff, stated_wait
from rlhf.types import Failure, InputError, Message

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

    failure: Failure
    again: bool
    """True if another attempt may succeed."""
    stated_wait_s: float | None = None
    """Seconds for which the server refuses requests, if it states them."""


class JudgeClient:
    """The only sender of a run's requests to its judge, so that its limits hold for the run as a whole.

    Bound to the event loop in which it is created.
    """

    def __init__(
        self,
        config: JudgeConfig,
        key: SecretStr | None,
        *,
        ledger_file: Path | None = None,
        pace: Pace | None = None,
        name: str = "reward.judge",
    ) -> None:
        """`name` is the judge's key in the configuration, for messages."""
        self.config, self.name = config, name
        self.url = f"{str(config.url).rstrip('/')}/chat/completions"
        try:
            httpx.Request("POST", self.url)
        except (httpx.InvalidURL, ValueError) as error:
            raise InputError(
                f"{name}.url={config.url!a}: it is no address ({error}); give one such as http://host:8000/v1"
            ) from error
        self.ledger = Ledger(
            max_cost=config.max_cost, max_requests=config.max_requests, key=name, file=ledger_file
        )  # fmt: skip
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

    async def ask(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str | Failure:
        """Return the judge's reply to the messages; `schema` is the JSON schema that it should have.

        Returns a Failure if no reply came. Raises RunError once the budget is used up.
        """
        body = self.body(messages, schema)
        async with self.slots:
            attempt = 1
            while isinstance(outcome := await self.attempt(body), Trouble):
                if not outcome.again or attempt == self.config.max_attempts or not await self.wait(outcome, attempt):
                    self.counts["failures"] += 1
                    return outcome.failure
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

    async def attempt(self, body: Mapping[str, Any]) -> str | Trouble:
        async with self.ledger.request(self.largest_cost(body)) as bill:
            await self.pace.turn()
            self.counts["requests"] += 1
            start = time.perf_counter()
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    response, content = await self.post(body)
            except TimeoutError:
                # The server may have generated, and charged, all the same: the largest cost stays.
                limit = f"{self.name}.timeout_s={self.config.timeout_s:g}"
                return self.trouble(
                    "reward_timeout", f"gave no reply within {limit}; raise it, or lower {self.name}.concurrency"
                )
            except httpx.HTTPError as error:
                # Unless it never was connected, the server may have charged for a reply that broke off.
                bill.cost = 0.0 if isinstance(error, httpx.ConnectError) else bill.cost
                problem = f"cannot be reached ({root_cause(error)}): start the server, or correct {self.name}.url"
                return self.trouble("reward_error", problem)
            finally:
                self.seconds += time.perf_counter() - start
            return self.read(response, content, bill)

    async def post(self, body: Mapping[str, Any]) -> tuple[httpx.Response, bytes]:
        """Send a request; return the response and its content, cut behind `LARGEST_REPLY` bytes."""
        # ASCII, since a policy may write what UTF-8 does not hold.
        async with self.http.stream("POST", self.url, content=json.dumps(body).encode("ascii")) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST_REPLY:
                    break
            return response, bytes(content)

    def read(self, response: httpx.Response, content: bytes, bill: Bill) -> str | Trouble:
        """Return the reply in a response, and put its cost on the bill."""
        status, text = response.status_code, content.decode(errors="replace")
        if status != httpx.codes.OK:
            bill.cost = 0.0
            again = status in TEMPORARY or status >= httpx.codes.INTERNAL_SERVER_ERROR
            problem = f"answered status {status} ({first_words(text)}): {self.remedy(status)}"
            return self.trouble("reward_error", problem, again=again, stated_wait_s=stated_wait(response.headers))
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        match answer:
            case {"usage": {"prompt_tokens": int() as read, "completion_tokens": int() as written}} if (
                0 <= min(read, written) <= max(read, written) < MOST_TOKENS
            ):
                bill.cost = self.price(read, written)
                self.counts["prompt_tokens"] += read
                self.counts["completion_tokens"] += written
        match answer:
            case {"choices": [{"finish_reason": "length"}]}:
                limit = f"{self.name}.max_tokens={self.config.max_tokens}"
                return self.trouble("reward_invalid", f"ended at {limit} within its reply: raise it", again=False)
            case {"choices": [{"message": {"content": str() as reply}}]} if reply.strip():
                return reply
        problem = f"answered {first_words(text)}: it must be a chat completion with a text"
        return self.trouble("reward_invalid", problem, again=False)

    def remedy(self, status: int) -> str:
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return f"give a valid key in the environment variable that {self.name}.api_key_env names"
        if status == httpx.codes.NOT_FOUND:
            return f"correct {self.name}.url or {self.name}.model"
        return "it asks for fewer requests" if status == httpx.codes.TOO_MANY_REQUESTS else "look at its log"

    def trouble(self, kind: str, problem: str, *, again: bool = True, stated_wait_s: float | None = None) -> Trouble:
        return Trouble(Failure(kind=kind, message=f"judge {self.url} {problem}"), again, stated_wait_s)

    def body(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        config = self.config
        form: dict[str, Any] = {"type": str(config.response_format)}
        if config.response_format is ResponseFormat.json_schema:
            form["json_schema"] = {"name": "verdict", "strict": True, "schema": schema}
        temperature = {} if config.temperature is None else {"temperature": config.temperature}
        return {
            "model": config.model,
            "messages": list(messages),
            "max_completion_tokens": config.max_tokens,
            "response_format": form,
            **temperature,
        }

    def largest_cost(self, body: Mapping[str, Any]) -> float:
        """Return a bound on the cost of a request: a token of a text has at least one byte."""
        messages = [str(message["content"]) for message in body["messages"]]
        num_bytes = sum(len(text.encode(errors="replace")) for text in [*messages, json.dumps(body["response_format"])])
        return self.price(num_bytes + TEMPLATE_TOKENS * len(messages), self.config.max_tokens)

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        config = self.config
        return (prompt_tokens * config.prompt_price + completion_tokens * config.completion_price) / MILLION

    def take_figures(self) -> dict[str, float]:
        """Return the metrics since the last call, and the cost of the run so far."""
        counts, self.counts = self.counts, Counter()
        seconds, self.seconds = self.seconds, 0.0
        since, self.cost_taken = self.ledger.cost - self.cost_taken, self.ledger.cost
        names = ("requests", "retries", "failures", "prompt_tokens", "completion_tokens")
        return {
            **{f"judge/{name}": float(counts[name]) for name in names},
            "judge/seconds": seconds / max(counts["requests"], 1),
            "judge/cost": since,
            "judge/total_cost": self.ledger.cost,
        }

    async def close(self) -> None:
        await self.http.aclose()
