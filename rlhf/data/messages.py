"""Messages of rows, in OpenAI's and ShareGPT's formats, and tool schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.fields import empty, has, take, take_text
from rlhf.data.files import kind_of
from rlhf.types import InputError, Message

ROLES = ("system", "developer", "user", "assistant", "tool")
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "system": "system", "function_call": "assistant", "observation": "tool", "tool": "tool",
}  # fmt: skip
"""ShareGPT's names of the roles."""
WEIGHT = "weight"
"""The key, of value 0, of an assistant's message that is not learnt; no other message has it."""
_WEIGHTS = (WEIGHT, "train", "loss")
"""Names of a turn's weight: OpenAI and ShareGPT, axolotl, ms-swift."""


def take_prompt(row: Mapping[str, Any], key: str, *, remedy: str) -> list[Message]:
    """Return the field `key`: text (one user message), or messages that do not end with the assistant's."""
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


def take_reply(row: Mapping[str, Any], key: str, *, remedy: str) -> list[Message]:
    """Return the field `key`, the reply to a prompt: text, one message, or a list of messages."""
    value = take(row, key, remedy=remedy)
    if isinstance(value, list):
        return take_messages(row, key, remedy=remedy)
    if isinstance(value, dict):
        return as_messages([value], key)
    return [{"role": "assistant", "content": take_text(row, key, remedy=remedy)}]


def take_messages(row: Mapping[str, Any], key: str, *, remedy: str) -> list[Message]:
    """Return the field `key`, a list of at least one `{"role", "content"}`, or of ShareGPT's `{"from", "value"}`. Other
    keys of a message are kept: the chat template reads them, or the row is refused."""
    value = take(row, key, remedy=remedy)
    if not isinstance(value, list):
        raise InputError(f"the field '{key}' is {kind_of(value)}, not a list of messages: {remedy}")
    if not value:
        raise empty(f"the field '{key}'", ", it has no messages")
    return as_messages(value, key)


def as_messages(items: Sequence[object], key: str) -> list[Message]:
    """Return the items of the field `key` as messages; the first item determines the format."""
    if not _is_turn(items[0]):
        return [as_message(item, f"message {number} of '{key}'") for number, item in enumerate(items, start=1)]
    messages: list[Message] = []
    for number, item in enumerate(items, start=1):
        message = _as_turn(item, f"turn {number} of '{key}'")
        before = messages[-1] if messages else {}
        is_call = isinstance(item, dict) and item["from"] == "function_call"
        if is_call and before.get("role") == "assistant" and not before.get("tool_calls"):
            messages[-1] = _joined(before, message, f"turns {number - 1} and {number} of '{key}'")
        else:
            messages.append(message)
    return messages


def as_message(item: object, name: str) -> Message:
    """Return `item` as a message; `name` is its name in errors."""
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
    return _weighed(message, name)


def take_tools(row: Mapping[str, Any], key: str) -> list[Any] | None:
    """Return the field `key`, a list of function schemas, also as JSON text (a Parquet column cannot hold objects of
    different schemas). None if the row has no tools."""
    if not has(row, key):
        return None
    tools = take(row, key, remedy="set tools_key to the field that holds the tools")
    if isinstance(tools, str) and not tools.strip():
        return None
    tools = _parsed(tools, f"the field '{key}'", remedy="correct it, or set tools_key to null")
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(
            f"the field '{key}' is {kind_of(tools)}, not a list of function schemas: write one, or null, "
            "or set tools_key to null"
        )
    return tools or None


def _is_turn(item: object) -> bool:
    return isinstance(item, dict) and "role" not in item and ("from" in item or "value" in item)


def _as_turn(item: object, name: str) -> Message:
    if not isinstance(item, dict):
        raise InputError(f'{name} is {kind_of(item)}, not an object: write {{"from": ..., "value": ...}}')
    for key in ("from", "value"):
        if not isinstance(item.get(key), str):
            found = kind_of(item[key]) if key in item else "missing"
            raise InputError(f'{name} has a "{key}" that is {found}: write {{"from": ..., "value": ...}}, both text')
    if item["from"] not in SPEAKERS:
        raise InputError(f"{name} is from '{item['from']}': use one of {', '.join(SPEAKERS)}")
    others = {key: value for key, value in item.items() if key not in ("from", "value")}
    if item["from"] == "function_call":
        calls = _calls(item["value"], name)
        return as_message({**others, "role": "assistant", "content": "", "tool_calls": calls}, name)
    return as_message({**others, "role": SPEAKERS[item["from"]], "content": item["value"]}, name)


def _joined(said: Message, called: Message, names: str) -> Message:
    """Join ShareGPT's text and the tool call that follows it into one turn."""
    others = [
        {key: value for key, value in each.items() if key not in ("content", "tool_calls")} for each in (said, called)
    ]
    if others[0] != others[1]:
        raise InputError(
            f"{names} are one turn of the assistant and have different keys or weights: give both the same"
        )
    return {**said, "tool_calls": called["tool_calls"]}


def _weighed(message: dict[str, Any], name: str) -> Message:
    """Return the message without its weight keys, and with `weight` 0 if it is an assistant's that is not learnt."""
    given = {key: message.pop(key) for key in _WEIGHTS if key in message}
    for key, weight in given.items():
        if weight not in (0, 1):
            raise InputError(f"{name} has a {key} that is {weight!r:.40}: give 1 to learn the turn, or 0 to mask it")
    if len(set(given.values())) > 1:
        raise InputError(f"{name} has {' and '.join(given)}, which differ: keep one of them")
    is_learnt = all(given.values())
    if given and is_learnt and message["role"] != "assistant":
        raise InputError(
            f"{name}, a {message['role']}'s, has a {next(iter(given))} of 1, and only turns of the assistant are "
            "learnt: give 0, or remove it"
        )
    return message if is_learnt or message["role"] != "assistant" else {**message, WEIGHT: 0}


def _part(part: object, name: str) -> str:
    """Return the text of one part of OpenAI's content lists."""
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    found = f"of type '{part['type']}'" if isinstance(part, dict) and "type" in part else f"that is {kind_of(part)}"
    raise InputError(f'{name} has a part {found}: only {{"type": "text", "text": ...}} is read; remove it or the row')


def _tool_call(call: object, name: str) -> dict[str, Any]:
    """Return a call as chat templates expect it: with arguments as an object, which OpenAI writes as JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(
            f'{name} has a tool call without a function: write {{"function": {{"name": ..., "arguments": {{}}}}}}'
        )
    arguments = _parsed(function.get("arguments", {}), f"the arguments of {name}'s tool call")
    return {**call, "function": {**function, "arguments": arguments}}  # type: ignore[dict-item]


def _calls(text: str, name: str) -> list[dict[str, Any]]:
    """Parse ShareGPT's tool call, or list of calls, from JSON text."""
    called = _parsed(text, name, remedy='write {"name": ..., "arguments": ...}')
    functions = called if isinstance(called, list) else [called]
    return [{"type": "function", "function": function} for function in functions]


def _parsed(value: object, what: str, *, remedy: str = "correct it, or remove the row") -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is text that is not JSON ({error}): {remedy}") from None
