"""The fields of a row, checked: what is missing or of the wrong type is said in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from rlhf.data.files import kind_of
from rlhf.types import InputError, Message

ROLES = ("system", "developer", "user", "assistant", "tool")


class Defect(StrEnum):
    """What is wrong with a row, as rejected rows are counted."""

    malformed = "malformed"
    """No JSON object, a field missing or of the wrong type, a dialogue that the chat template refuses."""
    empty = "empty"
    """A prompt, an answer or a document without text."""
    turns = "turns"
    """A dialogue that does not begin with the user, or two turns of one role in a row."""
    unlearnable = "unlearnable"
    """No token to learn."""
    same = "same"
    """Two sides of a pair that do not differ."""
    prompts_differ = "prompts_differ"
    """Two sides of a pair that answer different prompts."""
    too_long = "too_long"
    """More tokens than the limit."""


class BadRow(InputError):
    """A row that cannot be used, for a reason that is counted by itself; any other InputError is `malformed`."""

    def __init__(self, sentence: str, defect: Defect) -> None:
        super().__init__(sentence)
        self.defect = defect


def require_positive(**settings: int | None) -> None:
    """Refuses a setting below 1; None passes."""
    for name, value in settings.items():
        if value is not None and value < 1:
            raise InputError(f"{name}={value} leaves nothing: set it to at least 1, or to null for no limit")


def take(row: Mapping[str, Any], key: str, *, remedy: str) -> Any:
    """The field `key`, or, where no field has that name, the nested one: `reward_model.ground_truth`.

    `remedy` names the config key to set when there is none.
    """
    if key in row:
        return row[key]
    holder, value = "the row", row
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise InputError(f"{holder} is {kind_of(value)}, not an object with a '{part}' in it: {remedy}")
        if part not in value:
            keys = ", ".join(f"'{name}'" for name in value) or "none at all"
            raise InputError(f"{holder} has no field '{part}', its fields are {keys}: {remedy}")
        holder, value = f"the field '{part}'", value[part]
    return value


def take_text(row: Mapping[str, Any], key: str, *, remedy: str) -> str:
    """The field `key`, text that is not blank."""
    value = take(row, key, remedy=remedy)
    if not isinstance(value, str):
        raise InputError(f"the field '{key}' is {kind_of(value)}, not text: {remedy}")
    if not value.strip():
        raise empty(f"the field '{key}'")
    return value


def empty(what: str, why: str = "") -> BadRow:
    return BadRow(f"{what} is empty{why}: fill it in, or remove the row", Defect.empty)


def has(row: Mapping[str, Any], key: str) -> bool:
    """Whether `take` would find the field, and it is not null, as columns of Parquet files are where a row has none."""
    value: Any = row
    for part in (key,) if key in row else key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value is not None


def take_prompt(row: Mapping[str, Any], key: str, *, remedy: str) -> list[Message]:
    """The field `key`, text (one user message) or messages that leave the next turn to the assistant."""
    value = take(row, key, remedy=remedy)
    if isinstance(value, str):
        return [{"role": "user", "content": take_text(row, key, remedy=remedy)}]
    if not isinstance(value, list):
        raise InputError(f"the field '{key}' is {kind_of(value)}, not text or a list of messages: {remedy}")
    messages = take_messages(row, key, remedy=remedy)
    if messages[-1]["role"] == "assistant":
        raise InputError(
            f"the field '{key}' ends with an assistant message, which is not a prompt: remove that message"
        )
    if not any(message["content"].strip() for message in messages if message["role"] != "system"):
        raise empty(f"the field '{key}'", ", all its messages are blank")
    return messages


def take_messages(row: Mapping[str, Any], key: str, *, remedy: str) -> list[Message]:
    """The field `key`, a list of `{"role", "content"}`, at least one. Other keys of a message are kept: the chat
    template reads them."""
    value = take(row, key, remedy=remedy)
    if not isinstance(value, list):
        raise InputError(f"the field '{key}' is {kind_of(value)}, not a list of messages: {remedy}")
    if not value:
        raise empty(f"the field '{key}'", ", it has no messages")
    return [as_message(item, f"message {number} of '{key}'") for number, item in enumerate(value, start=1)]


def take_tools(row: Mapping[str, Any], key: str) -> list[Any] | None:
    """The field `key`, a list of function schemas, also as JSON text (a Parquet column cannot hold unlike objects).
    None where the row has none."""
    if not has(row, key):
        return None
    tools = _parsed(take(row, key, remedy="set tools_key to the field that holds the tools"), f"the field '{key}'")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(f"the field '{key}' is {kind_of(tools)}, not a list of function schemas: write one, or null")
    return tools or None


def as_message(item: object, name: str) -> Message:
    """`item` as a message, called `name` where it is none."""
    if not isinstance(item, dict):
        raise InputError(f'{name} is {kind_of(item)}, not an object: write {{"role": ..., "content": ...}}')
    message = {key: value for key, value in item.items() if value is not None}
    calls = message.pop("tool_calls", [])
    if not isinstance(calls, list):
        raise InputError(f"{name} has tool_calls that are {kind_of(calls)}: write a list of calls")
    if calls:
        message["tool_calls"] = [_tool_call(call, name) for call in calls]
        message.setdefault("content", "")
    if isinstance(message.get("content"), list):
        message["content"] = "".join(_part(part, name) for part in message["content"])
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            found = kind_of(item[key]) if key in item else "missing"
            raise InputError(f'{name} has a {key} that is {found}: write {{"role": ..., "content": ...}}, both text')
    if message["role"] not in ROLES:
        raise InputError(f"{name} has the role '{message['role']}': use one of {', '.join(ROLES)}")
    return message


def _part(part: object, name: str) -> str:
    """OpenAI's content in parts."""
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    found = f"of type '{part['type']}'" if isinstance(part, dict) and "type" in part else f"that is {kind_of(part)}"
    raise InputError(f'{name} has a part {found}: only {{"type": "text", "text": ...}} is read; remove it or the row')


def _tool_call(call: object, name: str) -> dict[str, Any]:
    """A call as chat templates expect it: with its arguments as an object, where OpenAI writes them as JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(
            f'{name} has a tool call without a function: write {{"function": {{"name": ..., "arguments": {{}}}}}}'
        )
    arguments = _parsed(function.get("arguments", {}), f"the arguments of {name}'s tool call")
    return {**call, "function": {**function, "arguments": arguments}}  # type: ignore[dict-item]


def _parsed(value: object, what: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is text that is not JSON ({error}): correct it, or remove the row") from None
