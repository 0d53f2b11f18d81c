"""The fields of a row, checked: what is missing or of the wrong type is said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rlhf.data.files import kind_of
from rlhf.types import InputError, Message

ROLES = ("system", "developer", "user", "assistant", "tool")


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts the row's place in front of an `InputError` raised inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


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
        raise InputError(f"the field '{key}' is empty: fill it in, or remove the row")
    return value


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
        raise InputError(f"the field '{key}' is empty, all its messages are blank: fill it in, or remove the row")
    return messages


def take_messages(row: Mapping[str, Any], key: str, *, remedy: str) -> list[Message]:
    """The field `key`, a list of `{"role", "content"}`, at least one."""
    value = take(row, key, remedy=remedy)
    if not isinstance(value, list):
        raise InputError(f"the field '{key}' is {kind_of(value)}, not a list of messages: {remedy}")
    if not value:
        raise InputError(f"the field '{key}' is empty, it has no messages: fill it in, or remove the row")
    return [_message(item, f"message {number} of '{key}'") for number, item in enumerate(value, start=1)]


def _message(item: object, name: str) -> Message:
    if not isinstance(item, dict):
        raise InputError(f'{name} is {kind_of(item)}, not an object: write {{"role": ..., "content": ...}}')
    for key in ("role", "content"):
        if not isinstance(item.get(key), str):
            found = kind_of(item[key]) if key in item else "missing"
            raise InputError(f'{name} has a {key} that is {found}: write {{"role": ..., "content": ...}}, both text')
    if item["role"] not in ROLES:
        raise InputError(f"{name} has the role '{item['role']}': use one of {', '.join(ROLES)}")
    extra = [key for key, value in item.items() if key not in ("role", "content") and value is not None]
    if extra:
        raise InputError(f"{name} has the key '{extra[0]}', which would be lost: move it into the content or remove it")
    return {"role": item["role"], "content": item["content"]}
