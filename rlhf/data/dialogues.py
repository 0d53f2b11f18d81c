"""The dialogue in a row, in the forms in which public data sets have it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.fields import BadRow, Defect, as_message, empty, take
from rlhf.data.files import kind_of
from rlhf.types import InputError, Message

SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "system": "system", "function_call": "assistant", "observation": "tool", "tool": "tool",
}  # fmt: skip
"""ShareGPT's names of the roles."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns, and the tools the assistant may call."""

    messages: Sequence[Message]
    tools: list[Any] | None = None

    @property
    def prompt_id(self) -> str:
        """A digest of all before the last turn."""
        return digest(json.dumps([*map(dict, self.messages[:-1]), self.tools], sort_keys=True, default=str))


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def check_turns(messages: Sequence[Message], key: str) -> None:
    """Refuses a dialogue that the assistant opens, in which one speaks twice in a row, or answers nothing.

    `key` is the field that holds it. Tools may answer several calls in a row.
    """
    roles = [message["role"] for message in messages]
    first = next((role for role in roles if role not in ("system", "developer")), None)
    if first not in (None, "user"):
        raise BadRow(f"the dialogue starts with the {first}'s turn: put a user message before it", Defect.turns)
    for number in range(1, len(messages)):
        if roles[number] == roles[number - 1] != "tool":
            raise BadRow(
                f"messages {number} and {number + 1} of '{key}' are two {roles[number]} turns in a row: join them, or "
                "remove the row",
                Defect.turns,
            )
    for number, message in enumerate(messages, start=1):
        if message["role"] == "assistant" and not message["content"].strip() and not message.get("tool_calls"):
            raise empty(f"message {number} of '{key}', an assistant's,")


def take_sharegpt(row: Mapping[str, Any], key: str, *, remedy: str) -> list[Message]:
    """The field `key`, a list of `{"from", "value"}`, after the row's `system`, if it has one."""
    value = take(row, key, remedy=remedy)
    if not isinstance(value, list):
        raise InputError(f"the field '{key}' is {kind_of(value)}, not a list of turns: {remedy}")
    if not value:
        raise empty(f"the field '{key}'", ", it has no turns")
    return [*_system(row), *(_turn(item, f"turn {number} of '{key}'") for number, item in enumerate(value, start=1))]


def take_alpaca(row: Mapping[str, Any]) -> list[Message]:
    """`instruction`, `input` on a line below it where there is one, and `output`, after `system` and `history`, the
    pairs of earlier turns."""
    instruction, given = _text(row, "instruction"), _text(row, "input", optional=True)
    messages = _system(row)
    for number, pair in enumerate(row.get("history") or [], start=1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise InputError(f"turn {number} of 'history' is not a pair of texts: write [instruction, output]")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question = f"{instruction}\n{given}" if given else instruction
    return [
        *messages,
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(row, "output")},
    ]


def _turn(item: object, name: str) -> Message:
    if not isinstance(item, dict):
        raise InputError(f'{name} is {kind_of(item)}, not an object: write {{"from": ..., "value": ...}}')
    for key in ("from", "value"):
        if not isinstance(item.get(key), str):
            found = kind_of(item[key]) if key in item else "missing"
            raise InputError(f'{name} has a "{key}" that is {found}: write {{"from": ..., "value": ...}}, both text')
    if item["from"] not in SPEAKERS:
        raise InputError(f"{name} is from '{item['from']}': use one of {', '.join(SPEAKERS)}")
    message = {"role": SPEAKERS[item["from"]], "content": item["value"]}
    if item["from"] != "function_call":
        return message
    return as_message({"role": "assistant", "tool_calls": _calls(item["value"], name)}, name)


def _calls(text: str, name: str) -> list[dict[str, Any]]:
    try:
        called = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{name} is no JSON ({error}): write {{"name": ..., "arguments": ...}}') from None
    functions = called if isinstance(called, list) else [called]
    return [{"type": "function", "function": function} for function in functions]


def _system(row: Mapping[str, Any]) -> list[Message]:
    text = _text(row, "system", optional=True)
    return [{"role": "system", "content": text}] if text else []


def _text(row: Mapping[str, Any], key: str, *, optional: bool = False) -> str:
    value = row.get(key)
    if optional and value is None:
        return ""
    text = take(row, key, remedy="set format to the one that the rows have")
    if not isinstance(text, str):
        raise InputError(f"the field '{key}' is {kind_of(text)}, not text: correct it, or remove the row")
    if not text.strip() and not optional:
        raise empty(f"the field '{key}'")
    return text if text.strip() else ""
