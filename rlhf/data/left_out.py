"""Checks for parts of a dialogue that a chat template or a tokenizer would drop silently."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rlhf.data.chat import render
from rlhf.data.turns import unknown_id
from rlhf.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_READ = {"role", "content"}
_LINKS = {"name", "tool_call_id"}


def refuse_losses(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Any] | None = None
) -> None:
    """Raise InputError for parts that the chat template would drop silently: tools and their answers, system messages,
    keys of messages with a value, and text beside a tool call.

    A tool's answer may name its call (`name`, `tool_call_id`); templates that match answers by order may drop these.
    """
    whole = None
    for number, message in enumerate(messages, start=1):
        for key, others in _without_each(message):
            whole = whole or render(tokenizer, messages, add_generation_prompt=False, tools=tools)
            around = messages[: number - 1], messages[number:]
            if all(_renders_as(tokenizer, [*around[0], other, *around[1]], tools, whole) for other in others):
                what = "text beside tool calls" if message.get("tool_calls") else f"a {message['role']}'s content"
                what = what if key == "content" else f"the key '{key}'"
                raise InputError(
                    f"message {number} has {what}, which the chat template of {tokenizer.name_or_path} leaves out: "
                    f"move it into {'another message' if key == 'content' else 'the content'}, or remove it"
                )
    if tools and _renders_as(
        tokenizer, messages, None, render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    ):
        raise InputError(
            f"the row has tools, which the chat template of {tokenizer.name_or_path} leaves out: set tools_key to "
            "null, or use a model whose template reads them"
        )


def refuse_unknown(tokenizer: PreTrainedTokenizerBase, token_ids: Collection[int], messages: Sequence[Message]) -> None:
    """Raise InputError for messages with a character that the tokenizer has no token for: the model could not
    distinguish such characters."""
    unknown = unknown_id(tokenizer)
    if unknown is None or unknown not in token_ids:
        return
    characters = dict.fromkeys(character for message in messages for character in message["content"])
    lacking = [
        each for each in characters if unknown in tokenizer(each, add_special_tokens=False, verbose=False)["input_ids"]
    ]
    shown = ", ".join(map(repr, lacking[:5])) or "one that the chat template writes"
    raise InputError(
        f"the tokenizer of {tokenizer.name_or_path} has no token for a character ({shown}): use a model that knows it, "
        "or remove the row"
    )


def _without_each(message: Message) -> Iterator[tuple[str, list[Message]]]:
    """Yield each key that a template may drop, with messages that render like the original only if it does."""
    content = message["content"]
    if content.strip() and (message["role"] in ("system", "developer", "tool") or message.get("tool_calls")):
        # A template may have a default text for an empty system message, and the message may equal it.
        yield "content", [{**message, "content": ""}, {**message, "content": f"{content}."}]
    for key in message.keys() - (_READ | _LINKS if message["role"] == "tool" else _READ):
        if message[key] not in ("", [], {}):
            yield key, [{name: value for name, value in message.items() if name != key}]


def _renders_as(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Any] | None, text: str
) -> bool:
    try:
        return render(tokenizer, messages, add_generation_prompt=False, tools=tools) == text
    except InputError:
        return False  # the template requires the key
