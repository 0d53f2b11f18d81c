"""Rows to imitate: whole sequences with the assistant's tokens marked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from rlhf.data.chat import loss_mask, require_template, special_ids
from rlhf.data.fields import located, require_positive, take_messages, take_prompt, take_text
from rlhf.data.files import read_rows
from rlhf.types import InputError, Message, TrainingRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True, slots=True)
class SupervisedDataConfig:
    path: str = MISSING
    """A .jsonl or .parquet file, or a folder that datasets can load."""
    split: str = "train"
    """Which split of a folder is read; a file has none."""
    prompt_key: str = "prompt"
    """The field that holds the prompt: text (one user message) or a list of {role, content} messages; has no loss.
    Dots go into nested fields, here and below: `extra_info.question`."""
    response_key: str = "response"
    """The field that holds the assistant's response to the prompt, as text."""
    messages_key: str | None = None
    """The field that holds a whole dialogue, in place of the two above. None: rows are prompts and responses."""
    last_turn_only: bool = False
    """Whether only the last assistant turn of a dialogue has loss; false: all its assistant turns have."""
    max_tokens: int | None = None
    """Tokens a row may have, chat template included; a longer one is an error. None: the model's context."""
    limit: int | None = None
    """How many rows are read, from the first. None: all."""

    def __post_init__(self) -> None:
        require_positive(limit=self.limit, max_tokens=self.max_tokens)


def load_supervised(
    config: SupervisedDataConfig, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int
) -> list[TrainingRow]:
    """All rows, in the order of the file, none cut."""
    require_template(tokenizer)
    special = special_ids(tokenizer)
    rows = []
    for where, row in islice(read_rows(config.path, config.split), config.limit):
        with located(where):
            # A prompt is given, not learned, whoever speaks in it.
            last_turn_only = config.last_turn_only or config.messages_key is None
            token_ids, mask = loss_mask(tokenizer, _dialogue(config, row), last_turn_only=last_turn_only)
            if special.issuperset(token_ids[mask].tolist()):
                key = config.messages_key or config.response_key
                raise InputError(f"the field '{key}' has no token to learn, all is masked: correct or remove the row")
            _check_length(len(token_ids), config.max_tokens, context_tokens)
            rows.append(TrainingRow(token_ids=token_ids, loss_mask=mask, source=where))
    return rows


def _dialogue(config: SupervisedDataConfig, row: Mapping[str, Any]) -> list[Message]:
    if config.messages_key is None:
        prompt = take_prompt(row, config.prompt_key, remedy="set prompt_key to the field that holds the prompt")
        remedy = "set response_key to the field that holds the response"
        return [*prompt, {"role": "assistant", "content": take_text(row, config.response_key, remedy=remedy)}]
    key = config.messages_key
    messages = take_messages(row, key, remedy="set messages_key to the field that holds the dialogue")
    if all(message["role"] != "assistant" for message in messages):
        raise InputError(f"the field '{key}' has no assistant message to learn: add one, or remove the row")
    for number, message in enumerate(messages, start=1):
        if message["role"] == "assistant" and not message["content"].strip():
            raise InputError(f"message {number} of '{key}', an assistant's, is empty: fill it in, or remove the row")
    return messages


def _check_length(num_tokens: int, max_tokens: int | None, context_tokens: int) -> None:
    if max_tokens is not None and num_tokens > max_tokens:
        raise InputError(
            f"the row has {num_tokens} tokens, more than max_tokens={max_tokens}: raise it or shorten the row"
        )
    if num_tokens > context_tokens:
        raise InputError(
            f"the row has {num_tokens} tokens, more than the model's context of {context_tokens}: shorten the row"
        )
