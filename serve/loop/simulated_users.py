"""Simulated users over HTTP: they send questions, vote on the answers, and correct some of them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from rlhf.types import InputError, RunError

TIMEOUT_S = 60.0
RETRY_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt and its right answer."""

    prompt: str
    answer: str


@dataclass(slots=True, kw_only=True)
class SimulatedUsers:
    """Users in sequence, several at a time. A user's actions depend only on the seed and the user's number."""

    url: str
    model: str
    questions: Sequence[Question]
    max_tokens: int
    per_user: int = 4
    """Number of questions per user."""
    at_once: int = 8
    """Number of concurrent users."""
    thumbs: float = 1.0
    """Share of answers that the user votes on."""
    edits: float = 0.5
    """Share of wrong answers that the user corrects."""
    mistakes: float = 0.05
    """Share of thumbs that are the opposite of the user's judgement."""
    seed: int = 0
    came: int = 0
    """Number of users so far."""
    statuses: dict[int, int] = field(default_factory=dict)
    """Number of answers by HTTP status."""
    right: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Number of right and of wrong answers."""

    async def run(self, num_users: int, until: asyncio.Event | None = None) -> None:
        """Run `num_users` users, or fewer if the event is set before."""
        turns = asyncio.Semaphore(self.at_once)
        async with httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S) as client, asyncio.TaskGroup() as group:
            for _ in range(num_users):
                await turns.acquire()
                if until is not None and until.is_set():
                    return
                user, self.came = self.came, self.came + 1
                task = group.create_task(self.run_user(client, user))
                task.add_done_callback(lambda _: turns.release())

    async def run_user(self, client: httpx.AsyncClient, number: int) -> None:
        generator, user = random.Random(f"{self.seed} {number}"), f"user-{number}"
        await client.put("/v1/consent", json={"user": user, "given": True})
        for question in generator.sample(self.questions, min(self.per_user, len(self.questions))):
            body = {
                "model": self.model,
                "user": user,
                "messages": [{"role": "user", "content": question.prompt}],
                "max_tokens": self.max_tokens,
                "temperature": 1.0,
                "seed": generator.getrandbits(32),
            }
            answer = await client.post("/v1/chat/completions", json=body)
            self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
            if answer.status_code == 200:
                await self.give_feedback(client, answer.json(), question, user, generator)

    async def give_feedback(
        self, client: httpx.AsyncClient, answer: dict[str, Any], question: Question, user: str, generator: random.Random
    ) -> None:
        right = answer["choices"][0]["message"]["content"].strip() == question.answer
        self.right[right] += 1
        if generator.random() >= self.thumbs:
            return
        feedback: dict[str, Any] = {"request_id": answer["id"], "user": user}
        meant = right != (generator.random() < self.mistakes)
        events = [{**feedback, "kind": "thumb", "value": 1 if meant else -1}]
        if not meant and not right and generator.random() < self.edits:
            events.append({**feedback, "kind": "edit", "text": question.answer})
        for event in events:
            await self.send_feedback(client, event)

    async def send_feedback(self, client: httpx.AsyncClient, event: dict[str, Any]) -> None:
        """Send feedback, and retry while a busy store has not recorded the answer yet. Raises RunError if it is
        refused."""
        end = time.monotonic() + TIMEOUT_S
        while (kept := await client.post("/v1/feedback", json=event)).status_code in (404, 503):
            if time.monotonic() > end:
                break
            await asyncio.sleep(RETRY_S)
        if kept.status_code != 201:
            raise RunError(f"feedback was refused with {kept.status_code}: {kept.text}")


def read_questions(path: str) -> list[Question]:
    """Read rows with `prompt` and `answer`."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    try:
        return [Question(prompt=row["prompt"], answer=row["answer"]) for row in map(json.loads, lines)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: every line needs `prompt` and `answer` ({type(error).__name__}: {error})") from None
