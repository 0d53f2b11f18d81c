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
from rlhf.types import Failure, Message

TEMPORARY = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which another attempt may succeed."""
TEMPLATE_TOKENS = 32
"""Most tokens that a chat template adds to a message."""
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Trouble:
    """A failed attempt."""

    failure: Failure
    again: bool
    """Another attempt may succeed."""
    stated_wait_s: float | None = None
    """Seconds that the server wants no request."""


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
        self.ledger = Ledger(
            max_cost=config.max_cost, max_requests=config.max_requests, key=name, file=ledger_file
        )  # fmt: skip
        self.pace = pace or Pace(requests_per_minute=config.requests_per_minute)
        self.slots = asyncio.Semaphore(config.concurrency)
        self.counts: Counter[str] = Counter()
        self.seconds, self.cost_taken = 0.0, self.ledger.cost
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        # `timeout_s` bounds the whole request; httpx bounds the wait for each part of an answer.
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        self.http = httpx.AsyncClient(headers=headers, timeout=None, limits=limits)

    async def ask(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str | Failure:
        """Return the judge's reply to the messages; `schema` is the JSON schema that it should have.

        A reply that never came is a Failure. Raises RunError once the budget is used up.
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
                    response = await self.http.post(self.url, json=body)
            except TimeoutError:
                # The server may have generated, and charged, all the same: the largest cost stays.
                limit = f"{self.name}.timeout_s={self.config.timeout_s:g}"
                return self.trouble("reward_timeout", f"gave no reply within {limit}; raise it, or ask less at once")
            except httpx.HTTPError as error:
                bill.cost = 0.0
                problem = f"cannot be reached ({root_cause(error)}): start the server, or correct {self.name}.url"
                return self.trouble("reward_error", problem)
            finally:
                self.seconds += time.perf_counter() - start
            return self.read(response, bill)

    def read(self, response: httpx.Response, bill: Bill) -> str | Trouble:
        """Return the reply in a response, and put its cost on the bill."""
        status = response.status_code
        if status != httpx.codes.OK:
            bill.cost = 0.0
            again = status in TEMPORARY or status >= httpx.codes.INTERNAL_SERVER_ERROR
            remedy = "it asks for fewer requests" if status == httpx.codes.TOO_MANY_REQUESTS else "look at its log"
            problem = f"answered status {status} ({first_words(response.text)}): {remedy}"
            return self.trouble("reward_error", problem, again=again, stated_wait_s=stated_wait(response.headers))
        try:
            answer = response.json()
        except ValueError:
            answer = None
        match answer:
            case {"usage": {"prompt_tokens": int() as read, "completion_tokens": int() as written}}:
                bill.cost = self.price(read, written)
                self.counts["prompt_tokens"] += read
                self.counts["completion_tokens"] += written
        match answer:
            case {"choices": [{"finish_reason": "length"}]}:
                limit = f"{self.name}.max_tokens={self.config.max_tokens}"
                return self.trouble("reward_invalid", f"ended at {limit} within its reply: raise it", again=False)
            case {"choices": [{"message": {"content": str() as text}}]} if text.strip():
                return text
        problem = f"answered {first_words(response.text)}: it must be a chat completion with a text"
        return self.trouble("reward_invalid", problem, again=False)

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
