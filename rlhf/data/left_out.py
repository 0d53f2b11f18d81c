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
    """Refuses what the chat template would leave out without a word: tools and their answers, system messages, keys of
    messages that hold something, and text beside a tool call.

    A tool's answer may name its call (`name`, `tool_call_id`); templates that go by the order leave that out.
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
            "null, or take a model whose template reads them"
        )


def _without_each(message: Message) -> Iterator[tuple[str, list[Message]]]:
    """The keys that a template may leave out, and messages that are rendered alike only where it does."""
    content = message["content"]
    if content.strip() and (message["role"] in ("system", "developer", "tool") or message.get("tool_calls")):
        # A template may have a text of its own for a system message that is empty, and this may be the same one.
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
        return False  # the template cannot do without
