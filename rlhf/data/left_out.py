"""What a chat template would leave out of a dialogue without a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rlhf.data.chat import render
from rlhf.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_READ = {"role", "content"}
_LINKS = {"name", "tool_call_id"}


def refuse_losses(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Any] | None = None
) -> None:
    """Refuses what the chat template would leave out without a word: tools, system messages, keys of messages, and text
    beside a tool call.

    A tool's answer may name its call (`name`, `tool_call_id`); templates that go by the order leave that out.
    """
    whole = None
    for number, message in enumerate(messages, start=1):
        for key, others in _without_each(message):
            whole = whole or render(tokenizer, messages, add_generation_prompt=False, tools=tools)
            if _renders_as(tokenizer, [*messages[: number - 1], others, *messages[number:]], tools, whole):
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
            "null, or take a model whose template reads them"
        )


def _without_each(message: Message) -> Iterator[tuple[str, Message]]:
    """The keys that a template may leave out, and the message without each."""
    if message["content"].strip() and (message["role"] in ("system", "developer") or message.get("tool_calls")):
        yield "content", {**message, "content": ""}
    for key in message.keys() - (_READ | _LINKS if message["role"] == "tool" else _READ):
        yield key, {name: value for name, value in message.items() if name != key}


def _renders_as(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Any] | None, text: str
) -> bool:
    try:
        return render(tokenizer, messages, add_generation_prompt=False, tools=tools) == text
    except InputError:
        return False  # the template cannot do without
