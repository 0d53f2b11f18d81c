"""The tokens of messages that follow a turn of the assistant's, to be appended to what the model wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf.data.chat import commonprefix, render, tokenize_texts, turn_end_id
from rlhf.data.left_out import refuse_unknown
from rlhf.data.turns import Tokens
from rlhf.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def dialogue_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Any] | None = None
) -> tuple[int, ...]:
    """Token ids of a dialogue up to where the assistant's next turn begins. Raises InputError."""
    text = render(tokenizer, messages, add_generation_prompt=True, tools=tools)
    (token_ids,) = tokenize_texts(tokenizer, [text])
    refuse_unknown(tokenizer, token_ids, messages)
    return token_ids


def next_turn_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    closed: bool,
    tools: Sequence[Any] | None = None,
) -> tuple[int, ...]:
    """Token ids of `messages` after a turn of the assistant's, up to where its next turn begins. Raises InputError.

    `closed`: the turn has the token that ends it; otherwise that comes first. They are the same whatever the turn says,
    so they are read off a rendering in which it says one character.
    """
    one, other = (
        render(
            tokenizer,
            [{"role": "user", "content": "1"}, {"role": "assistant", "content": content}, *messages],
            add_generation_prompt=True,
            tools=tools,
        )
        for content in ("1", "2")
    )
    end = len(commonprefix(one, other)) + 1
    tokens = Tokens.after_prompts(tokenizer, one, [end])
    closing = closing_index(tokenizer, tokens, end)
    if closing is None:
        following = (turn_end_id(tokenizer), *tokens.ids[tokens.inside(end, len(one))].tolist())
    else:
        following = tuple(tokens.ids[closing:].tolist())
    refuse_unknown(tokenizer, following, messages)
    return following[1:] if closed else following


def closing_index(tokenizer: PreTrainedTokenizerBase, tokens: Tokens, end: int) -> int | None:
    """The index of the token that closes the turn whose text stops at the character `end`; None if the template
    writes none, so that the model's own end of sequence does."""
    inside = tokens.inside(end - 1, end)
    following = np.arange(inside[-1] + 1, len(tokens.ids))
    written = following[~tokens.is_control[following] & ~tokens.is_blank[following]]
    before_text = following[: written[0] - following[0]] if written.size else following
    known = before_text[tokens.ids[before_text] == turn_end_id(tokenizer)]
    return int(known[0]) if known.size else tokens.next_opener(inside)
