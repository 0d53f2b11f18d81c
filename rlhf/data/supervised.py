"""Rows to imitate: whole dialogues with the assistant's tokens marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rlhf.data.base import DialogueDataConfig, SFTDataConfig
from rlhf.data.dialogues import take_alpaca, unlearnt
from rlhf.data.encoding import PolicyEncoder
from rlhf.data.fields import BadRow, Defect, has
from rlhf.data.messages import take_messages, take_prompt, take_reply
from rlhf.data.quarantine import Quarantine
from rlhf.types import InputError, Message, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RowFormat(StrEnum):
    """Format in which a row holds its dialogue."""

    prompt_response = "prompt_response"
    """A prompt and the response to it, each as text or messages."""
    messages = "messages"
    """OpenAI's list of {role, content}, tool calls and tools' answers among them."""
    sharegpt = "sharegpt"
    """`conversations`, a list of {from, value}."""
    alpaca = "alpaca"
    """`instruction`, `input`, which may be missing or empty, and `output`."""


@dataclass(kw_only=True, slots=True)
class SupervisedDataConfig(DialogueDataConfig, SFTDataConfig):
    """Dialogues whose assistant turns are learnt."""

    format: RowFormat | None = None
    """`prompt_response`, `messages`, `sharegpt` or `alpaca`. None: inferred from the first row's fields, which must fit
    exactly one format."""
    prompt_key: str = "prompt"
    """The field that holds the prompt: text (one user message) or a list of {role, content} messages; not learnt.
    Dots go into nested fields, here and below: `extra_info.question`."""
    response_key: str | None = None
    """The field that holds the assistant's response to the prompt, as text or messages. None: `response` or, as in
    TRL, `completion`."""
    messages_key: str = "messages"
    """The field that holds a whole dialogue with `format=messages`."""
    conversations_key: str = "conversations"
    """The field that holds a whole dialogue with `format=sharegpt`."""
    last_turn_only: bool = False
    """True trains on the last assistant turn of a dialogue only, false on all assistant turns. A prompt is never
    learnt, whatever its roles, nor a turn with `weight` 0 (`train` or `loss` false)."""
    labels: list[str] | None = None
    """The possible responses (classes); every row's last answer must be one of them. None: any text."""

    def __post_init__(self) -> None:
        super(SupervisedDataConfig, self).__post_init__()
        if self.labels is not None and len(set(self.labels)) < 2:
            raise InputError(f"labels={self.labels}: give at least two different classes, or null for any response")

    def load(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int, quarantine: Quarantine) -> list[Unit]:
        encode = PolicyEncoder(tokenizer, self, context_tokens=context_tokens)

        form = self.format

        def make(where: str, row: Mapping[str, Any]) -> Iterator[Unit]:
            nonlocal form
            form = form or self.format_of(row)
            key = self.key_of(row, form)
            dialogue = self.dialogue(row, self.messages(row, form))
            if all(message["role"] != "assistant" for message in dialogue.messages):
                raise BadRow(
                    f"the field '{key}' has no assistant message to learn: add one, or remove the row",
                    Defect.unlearnable,
                )
            self.check_label(dialogue.messages[-1]["content"], key)
            yield (encode(where, dialogue, key=key, last_turn_only=self.last_turn_only),)

        return self.collect(quarantine, make)

    def format_of(self, row: Mapping[str, Any]) -> RowFormat:
        fields = {
            RowFormat.prompt_response: (self.prompt_key, self.response_field(row)),
            RowFormat.messages: (self.messages_key,),
            RowFormat.sharegpt: (self.conversations_key,),
            RowFormat.alpaca: ("instruction", "output"),
        }
        fitting = [form for form, keys in fields.items() if all(has(row, key) for key in keys)]
        if len(fitting) == 1:
            return fitting[0]
        found = f"those of {' and '.join(fitting)}" if fitting else "of no known format"
        known = "; ".join(f"{form}: {', '.join(keys)}" for form, keys in fields.items())
        raise InputError(
            f"the row's fields {', '.join(row) or '(none)'} are {found}: set format, and the "
            f"keys that name its fields ({known})"
        )

    def response_field(self, row: Mapping[str, Any]) -> str:
        is_trl = has(row, "completion") and not has(row, "response")
        return self.response_key or ("completion" if is_trl else "response")

    def key_of(self, row: Mapping[str, Any], form: RowFormat) -> str:
        """Return the field that holds the learnt text, in a row of format `form`."""
        keys = {
            RowFormat.prompt_response: self.response_field(row),
            RowFormat.messages: self.messages_key,
            RowFormat.sharegpt: self.conversations_key,
            RowFormat.alpaca: "output",
        }
        return keys[form]

    def messages(self, row: Mapping[str, Any], form: RowFormat) -> list[Message]:
        match form:
            case RowFormat.messages:
                remedy = "set messages_key to the field that holds the dialogue"
                return take_messages(row, self.messages_key, remedy=remedy)
            case RowFormat.sharegpt:
                remedy = "set conversations_key to the field that holds the dialogue"
                return take_messages(row, self.conversations_key, remedy=remedy)
            case RowFormat.alpaca:
                return take_alpaca(row)
            case RowFormat.prompt_response:
                prompt = take_prompt(row, self.prompt_key, remedy="set prompt_key to the field that holds the prompt")
                remedy = "set response_key to the field that holds the response"
                return [*unlearnt(prompt), *take_reply(row, self.response_field(row), remedy=remedy)]

    def check_label(self, answer: str, key: str) -> None:
        if self.labels is not None and answer not in self.labels:
            raise InputError(
                f"the field '{key}' ends with '{answer}', which is not one of labels={self.labels}: correct the row, "
                "or add the class"
            )
