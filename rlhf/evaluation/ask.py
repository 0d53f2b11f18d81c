"""Requests of a suite to a model, and a file of the answers that a killed evaluation continues from."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import xxhash

from rlhf.evaluation.forms import Form
from rlhf.evaluation.items import Answer, ChoiceLogprob
from rlhf.evaluation.suite import Suite, continuations
from rlhf.judges.ledger import whole_lines
from rlhf.train.together import together
from rlhf.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a model."""

    item: str
    sample: int
    messages: tuple[Message, ...]
    chat: bool
    """Write the messages in the model's chat template; False: their contents as plain text."""
    continuations: tuple[str, ...] = ()
    """Texts whose likelihoods are measured; empty: the model writes an answer."""
    temperature: float = 0.0
    max_tokens: int = 1
    seed: int = 0


class AnswerModel(Protocol):
    """A model that answers: engines of this project, or an endpoint."""

    concurrency: int
    """Number of requests that are sent at once."""

    async def answer(self, request: Request) -> Answer:
        """Return the answer. Raises RunError or InputError if there is none: no failure counts as a wrong answer."""


class AnswerFile:
    """Answers of one model to one suite: a line each, written as they come. The first line tells whose they are."""

    def __init__(self, folder: Path, name: str, key: Mapping[str, Any]) -> None:
        """`key`: everything the answers depend on."""
        text = json.dumps(key, ensure_ascii=False, sort_keys=True)
        self.path = folder / f"{name}-{xxhash.xxh3_128_hexdigest(text.encode())[:16]}.jsonl"
        self.answers: dict[tuple[str, int], Answer] = {}
        if self.path.is_file():
            for line in whole_lines(self.path)[1:]:
                self._keep(read_answer(json.loads(line)))
        if not self.path.is_file() or not self.path.stat().st_size:
            folder.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text + "\n", encoding="utf-8")

    def add(self, answers: Sequence[Answer]) -> None:
        with self.path.open("a", encoding="utf-8") as lines:
            for answer in answers:
                lines.write(json.dumps(dataclasses.asdict(answer), ensure_ascii=True) + "\n")
                self._keep(answer)

    def _keep(self, answer: Answer) -> None:
        self.answers[answer.item, answer.sample] = answer


def read_answer(row: Mapping[str, Any]) -> Answer:
    return Answer(**{**row, "choices": tuple(ChoiceLogprob(**each) for each in row["choices"])})


def requests_of(suite: Suite, seed: int) -> Iterator[Request]:
    """Yield the requests of a suite in the order of its items."""
    config = suite.config
    for item in suite.items:
        for sample in range(config.samples):
            yield Request(
                item=item.id,
                sample=sample,
                messages=item.messages,
                chat=config.chat,
                continuations=continuations(config, item) if config.form is Form.likelihood else (),
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                seed=xxhash.xxh3_64_intdigest(f"{seed}/{item.id}/{sample}".encode()) >> 1,
            )


async def ask(
    suite: Suite, model: AnswerModel | None, file: AnswerFile, *, seed: int, advance: Callable[[int], None]
) -> list[Answer]:
    """Return the answers to all items, in their order; those in the file are not asked for again. `model`: None if the
    file has all. `advance` is called with the number of further answers."""
    requests = list(requests_of(suite, seed))
    missing = [each for each in requests if (each.item, each.sample) not in file.answers]
    advance(len(requests) - len(missing))
    if model is not None:
        await ask_for(missing, suite, model, file, advance)
    return [file.answers[each.item, each.sample] for each in requests]


async def ask_for(
    requests: Sequence[Request], suite: Suite, model: AnswerModel, file: AnswerFile, advance: Callable[[int], None]
) -> None:
    """Add the answers to the file as they come."""
    slots = asyncio.Semaphore(model.concurrency)

    async def one(request: Request) -> None:
        async with slots:
            answer = await model.answer(request)
        file.add([dataclasses.replace(answer, text=cut(answer.text, suite.config.stop))])
        advance(1)

    await together(*(one(request) for request in requests))


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text up to the first of the stop texts."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
