"""Dialogues through the model's own chat template: text, token ids, and which tokens are the assistant's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from rlhf.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS_PER_CALL = 1024  # one call holds the encodings of all its texts


def require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer without a chat template."""
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path} has no chat template: add chat_template.jinja to the model folder, "
            f"or use the model's variant that has one (its name ends in -Instruct)"
        )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the special tokens, also of those without a name such as `eos_token` (ChatML's `<|im_start|>`)."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """The dialogue as the model reads it; `add_generation_prompt` opens the assistant's next turn."""
    require_template(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} refuses a dialogue of the roles {roles or '(none)'} "
            f"({error}): change the messages, or chat_template.jinja"
        ) from error


def tokenize_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of rendered texts; the template has written the special tokens, so none are added."""
    token_ids: list[tuple[int, ...]] = []
    for start in range(0, len(texts), _TEXTS_PER_CALL):
        encoded = tokenizer(
            texts[start : start + _TEXTS_PER_CALL],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        token_ids += map(tuple, encoded["input_ids"])
    return token_ids


def loss_mask(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, last_turn_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [T] int32 of the dialogue and, [T] bool, which of them the assistant writes.

    A turn runs from the generation prompt's end through the special token that closes it. A last turn that the
    template leaves open (GLM-4) is closed with the end-of-sequence token, else the model would never learn to stop.
    A token that straddles a turn's start is the turn's: it is the first that holds the assistant's text.
    """
    text = render(tokenizer, messages, add_generation_prompt=False)
    token_ids, starts, ends = _tokenize_with_offsets(tokenizer, text)
    special = special_ids(tokenizer)
    is_special: np.ndarray = np.array([token_id in special for token_id in token_ids.tolist()], dtype=bool)
    is_blank = np.array([not text[start:end].strip() for start, end in zip(starts, ends, strict=True)], dtype=bool)
    mask: np.ndarray = np.zeros(len(token_ids), dtype=bool)
    closed = True
    for start, stop in _turns(tokenizer, messages, text, last_turn_only):
        # By ends: a byte-level tokenizer with trim_offsets gives leading blanks no width, at the place where they end.
        inside = np.flatnonzero((ends > start) & (starts < stop))
        written = inside[~is_special[inside] & ~is_blank[inside]]
        tail = inside[inside > written[-1]] if written.size else inside
        closing = tail[is_special[tail]]
        closed = closing.size > 0
        mask[inside[inside <= closing[0]] if closed else inside] = True
    if not closed and messages[-1]["role"] == "assistant":
        token_ids, mask = np.append(token_ids, _eos_id(tokenizer)).astype(np.int32), np.append(mask, True)
    return token_ids, mask


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which the chat template ends the assistant's turn; base models may have another `eos_token`."""
    dialogue = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "1"}]
    token_ids, mask = loss_mask(tokenizer, dialogue, last_turn_only=True)
    return int(token_ids[mask][-1])


def _tokenize_with_offsets(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # [T] int32; [T] first character; [T] character after the last
    if not tokenizer.is_fast:
        raise InputError(
            f"{tokenizer.name_or_path} has no fast tokenizer, which maps tokens to text: add tokenizer.json"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    return np.array(encoded["input_ids"], dtype=np.int32), starts, ends


def _turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str, last_turn_only: bool
) -> Iterator[tuple[int, int]]:
    """Where in `text` the assistant's turns start and stop, found as the renderings of the messages before them."""
    indices = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for index in indices[-1:] if last_turn_only else indices:
        if index == 0:
            raise InputError("the dialogue starts with the assistant's turn: put a user message before it")
        before = render(tokenizer, messages[:index], add_generation_prompt=True)
        through = render(tokenizer, messages[: index + 1], add_generation_prompt=False)
        if not through.startswith(before):
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} renders message {index + 1}, an assistant's, otherwise "
                f"than its generation prompt begins it: let both begin alike in chat_template.jinja"
            )
        if not text.startswith(through):
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} renders message {index + 1}, an assistant's, otherwise "
                f"once later messages follow (Qwen3 drops earlier thinking): set last_turn_only=true and end the "
                f"dialogue with its last assistant message, or split it into one row per assistant message"
            )
        yield len(before), len(through)


def _eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} leaves the assistant's turn open and the tokenizer has no "
            f"end-of-sequence token to close it: set eos_token in tokenizer_config.json"
        )
    return tokenizer.eos_token_id
