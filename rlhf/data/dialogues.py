"""Dialogues of rows, in the formats of public data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.fields import BadRow, Defect, empty, has, take
from rlhf.data.files import kind_of
from rlhf.data.messages import WEIGHT, take_tools
from rlhf.types import InputError, Message

TEMPLATED = "templated"
"""The field that is false where prompt and answer are one text, without a chat template (a completion)."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns, and the tools the assistant may call."""

    messages: Sequence[Message]
    tools: Sequence[Any] | None = None
    masked: frozenset[int] = frozenset()
    """Indices of the assistant's messages that are never learnt."""
    templated: bool = True
    """True if the chat template renders the dialogue. False: a text and its continuation, held as a user's and an
    assistant's turn."""

    @property
    def prompt_id(self) -> str:
        """Digest of everything before the last turn, and of `templated`."""
        form = [] if self.templated else [TEMPLATED]
        return digest(json.dumps([*map(dict, self.messages[:-1]), self.tools, *form], sort_keys=True, default=str))


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def dialogue_of(
    row: Mapping[str, Any],
    messages: Sequence[Message],
    *,
    system_key: str | None,
    tools_key: str | None,
    templated_key: str | None = None,
) -> Dialogue:
    """Return the dialogue of a row: its system message before `messages`, its tools, and the weights of the turns."""
    templated = templated_key is None or not has(row, templated_key) or _templated(row, templated_key)
    messages = [*_system(row, messages, system_key), *messages]
    masked = frozenset(index for index, message in enumerate(messages) if WEIGHT in message)
    plain = [{key: value for key, value in message.items() if key != WEIGHT} for message in messages]
    tools = take_tools(row, tools_key) if tools_key else None
    if not templated and ([message["role"] for message in messages] != ["user", "assistant"] or tools or masked):
        raise InputError(
            f"the field '{templated_key}' is false, and the row is more than a prompt and an answer, both text: leave "
            f"out system message, turns, weights and tools, or set {TEMPLATED}_key to null"
        )
    return Dialogue(plain, tools, masked, templated)


def _templated(row: Mapping[str, Any], key: str) -> bool:
    value = take(row, key, remedy="")
    if not isinstance(value, bool):
        raise InputError(
            f"the field '{key}' is {kind_of(value)}, not true or false: correct it, or set {TEMPLATED}_key to null"
        )
    return value


def unlearnt(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with weight 0, so that none of them is learnt."""
    return [{**message, WEIGHT: 0} if message["role"] == "assistant" else message for message in messages]


def check_turns(messages: Sequence[Message], key: str) -> None:
    """Raise BadRow if the assistant opens the dialogue, a role has two turns in a row, or an answer is empty.

    `key` is the field that holds the dialogue. Tools may answer several calls in a row.
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


def take_alpaca(row: Mapping[str, Any]) -> list[Message]:
    """Return the messages of an Alpaca row: the pairs of `history`, then `instruction` with `input`, if any, on the
    next line, and `output`."""
    instruction, given = _text(row, "instruction"), _text(row, "input", optional=True)
    messages: list[Message] = []
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


def _system(row: Mapping[str, Any], messages: Sequence[Message], key: str | None) -> list[Message]:
    """Return the row's system message; empty if it has none, or the messages already begin with it."""
    if key is None or not has(row, key):
        return []
    text = take(row, key, remedy="set system_key to the field that holds the system message, or to null")
    if not isinstance(text, str):
        raise InputError(f"the field '{key}' is {kind_of(text)}, not text: correct it, or set system_key to null")
    if not text.strip():
        return []
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": text}]
    if first["content"].strip() != text.strip():
        raise InputError(
            f"the field '{key}' and the {first['role']} message of the dialogue differ: keep one of them, or set "
            "system_key to null"
        )
    return []


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
