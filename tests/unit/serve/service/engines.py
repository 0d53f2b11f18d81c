"""Engines that answer as vLLM does, without a model: what a gateway calls instead of Serve."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.gateway.routing import Deployment
from serve.store.records import Endpoint

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
Behaviour = Callable[[str, Endpoint, Mapping[str, Any]], AsyncIterator[tuple[int, Any]]]


@dataclass
class Engines:
    """Each variant says its name, and its own names for ids and models, unless it is to behave otherwise."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Variant and body of every call."""
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    """By variant."""
    closed: int = 0
    """Calls that have ended, by whatever way."""

    async def __call__(
        self, deployment: Deployment, endpoint: Endpoint, body: Mapping[str, Any], id: str
    ) -> AsyncIterator[Any]:
        self.asked.append((deployment.variant, dict(body)))
        try:
            async for answer in self.behaviours.get(deployment.variant, answers)(deployment.variant, endpoint, body):
                yield answer
        finally:
            self.closed += 1


async def answers(variant: str, endpoint: Endpoint, body: Mapping[str, Any]) -> AsyncIterator[tuple[int, Any]]:
    if body.get("stream"):
        yield 200, None
        for event in events(envelope(variant, endpoint, body), endpoint, num_choices(body)):
            yield 200, event
    else:
        choices = [choice(endpoint, i, f"{variant} says {i}", "stop", "message") for i in range(num_choices(body))]
        yield 200, {**envelope(variant, endpoint, body), "choices": choices, "usage": USAGE}


def envelope(variant: str, endpoint: Endpoint, body: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM writes around choices."""
    kinds = ("chat.completion", "chat.completion.chunk") if endpoint is Endpoint.chat else ("text_completion",) * 2
    return {"id": "internal", "object": kinds[bool(body.get("stream"))], "created": 1000, "model": variant}


def num_choices(body: Mapping[str, Any]) -> int:
    prompts = body.get("prompt")
    several = isinstance(prompts, list) and not isinstance(prompts[0], int)
    return body["n"] * (len(prompts) if several else 1)


def events(around: Mapping[str, Any], endpoint: Endpoint, n: int) -> list[str]:
    """Words one at a time, choices in turn, then the usage."""
    words = [*((word, None) for word in (f"{around['model']} ", "says ")), ("it", "stop")]
    pieces = [
        {"choices": [choice(endpoint, i, word, reason, "delta")], "usage": None} for word, reason in words
        for i in range(n)
    ] + [{"choices": [], "usage": USAGE}]  # fmt: skip
    return [
        *(f"data: {json.dumps({**around, **piece})}\n\n" for piece in pieces),
        "data: [DONE]\n\n",
    ]


def choice(endpoint: Endpoint, index: int, text: str, reason: str | None, part: str) -> dict[str, Any]:
    message = {"role": "assistant", "refusal": None, "annotations": None, "audio": None, "function_call": None}
    fields = {**(message if part == "message" else {}), "content": text}
    said = {part: fields} if endpoint is Endpoint.chat else {"text": text}
    return {"index": index, "finish_reason": reason, **said}


async def silent(variant: str, endpoint: Endpoint, body: Mapping[str, Any]) -> AsyncIterator[tuple[int, Any]]:
    """Never says anything; a stream begins."""
    if body.get("stream"):
        yield 200, None
    await asyncio.Event().wait()


def failing(error: Exception, *, times: int = 1000, after: int = 0) -> Behaviour:
    """The first `times` calls raise after `after` answers."""
    left = times

    async def behave(variant: str, endpoint: Endpoint, body: Mapping[str, Any]) -> AsyncIterator[tuple[int, Any]]:
        nonlocal left
        left -= 1
        number = 0
        async for answer in answers(variant, endpoint, body):
            if left >= 0 and number == after:
                raise error
            yield answer
            number += 1

    return behave


async def calling(variant: str, endpoint: Endpoint, body: Mapping[str, Any]) -> AsyncIterator[tuple[int, Any]]:
    """Calls two tools, as vLLM does: whole, or in pieces of which only the first of a call names it."""
    calls = [
        {"id": f"c{number}", "type": "function", "function": {"name": "add", "arguments": f'{{"a": {number}}}'}}
        for number in range(2)
    ]
    if not body.get("stream"):
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        choices = [{"index": 0, "finish_reason": "tool_calls", "message": message}]
        yield 200, {**envelope(variant, endpoint, body), "choices": choices, "usage": USAGE}
        return
    yield 200, None
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for number, call in enumerate(calls):
        arguments = call["function"]["arguments"]
        begun = {**call, "index": number, "function": {"name": "add", "arguments": arguments[:3]}}
        deltas.append({"tool_calls": [begun]})
        deltas.append({"tool_calls": [{"index": number, "function": {"arguments": arguments[3:]}}]})
    for delta in deltas:
        reason = "tool_calls" if delta is deltas[-1] else None
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        yield 200, f"data: {json.dumps({**envelope(variant, endpoint, body), 'choices': choices})}\n\n"
    yield 200, "data: [DONE]\n\n"


async def without_tools(variant: str, endpoint: Endpoint, body: Mapping[str, Any]) -> AsyncIterator[tuple[int, Any]]:
    """Refuses tools, as vLLM does without a parser of their calls."""
    if "tools" in body and body.get("tool_choice") != "none":
        message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        yield 400, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
        return
    async for answer in answers(variant, endpoint, body):
        yield answer


async def overlong(variant: str, endpoint: Endpoint, body: Mapping[str, Any]) -> AsyncIterator[tuple[int, Any]]:
    """Refuses, as vLLM does a prompt longer than its context."""
    yield 400, {"error": {"message": "the prompt is too long", "type": "BadRequestError", "param": None, "code": 400}}
