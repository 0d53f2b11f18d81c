"""Dialogues through the model's own chat template: text, token ids, and which tokens are the assistant's."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import numpy as np

from rlhf.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS_PER_CALL = 1024  # one call holds the encodings of all its texts
_LINKS = ("name", "tool_call_id")


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


def fix_date(tokenizer: PreTrainedTokenizerBase, date: str | None) -> None:
    """Let the chat template write this day, as 2026-11-29, where it asks for the present; None leaves the clock.

    The tokenizer's files, and so served models, stay as they are. Raises InputError where it is no date.
    """
    try:
        tokenizer.template_date = date and datetime.datetime.fromisoformat(date)
    except ValueError:
        raise InputError(f"template_date={date}: give a day as in 2026-11-29, or null for that of the start") from None


def clock_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What replaces transformers' `strftime_now` in templates, where a date was fixed."""
    date = tokenizer.__dict__.get("template_date")
    return {"strftime_now": date.strftime} if date else {}


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    tools: list[Any] | None = None,
) -> str:
    """The dialogue as the model reads it; `add_generation_prompt` opens the assistant's next turn. `tools` are schemas
    of the functions that it may call."""
    require_template(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=tools,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **clock_of(tokenizer),
        )
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} refuses a dialogue of the roles {roles or '(none)'} "
            f"({error}): change the messages, or chat_template.jinja"
        ) from error


def refuse_losses(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: list[Any] | None = None
) -> None:
    """Refuses what the chat template would leave out without a word: tools, or keys of messages.

    A tool's answer may name its call (`name`, `tool_call_id`); templates that go by the order leave that out.
    """
    whole = None
    for number, message in enumerate(messages, start=1):
        for key in message.keys() - (
            {"role", "content", *_LINKS} if message["role"] == "tool" else {"role", "content"}
        ):
            whole = whole or render(tokenizer, messages, add_generation_prompt=False, tools=tools)
            others = {name: value for name, value in message.items() if name != key}
            if _renders_as(tokenizer, [*messages[: number - 1], others, *messages[number:]], tools, whole):
                raise InputError(
                    f"message {number} has the key '{key}', which the chat template of {tokenizer.name_or_path} leaves "
                    f"out: move it into the content, or remove it"
                )
    if tools and _renders_as(
        tokenizer, messages, None, render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    ):
        raise InputError(
            f"the row has tools, which the chat template of {tokenizer.name_or_path} leaves out: set tools_key to "
            "null, or take a model whose template reads them"
        )


def _renders_as(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: list[Any] | None, text: str
) -> bool:
    try:
        return render(tokenizer, messages, add_generation_prompt=False, tools=tools) == text
    except InputError:
        return False  # the template cannot do without


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
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    last_turn_only: bool,
    tools: list[Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [T] int32 of the dialogue and, [T] bool, which of them the assistant writes.

    A turn runs from the generation prompt's end through the special token that closes it. A last turn that the
    template leaves open (GLM-4) is closed with the end-of-sequence token, else the model would never learn to stop.
    A token that straddles a turn's start is the turn's: it is the first that holds the assistant's text.
    """
    text = render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    tokens = Tokens.of(tokenizer, text)
    mask: np.ndarray = np.zeros(len(tokens.ids), dtype=bool)
    closed = True
    for start, stop in _turns(tokenizer, messages, text, last_turn_only, tools):
        inside = tokens.inside(start, stop)
        closing = tokens.closing(inside)
        closed = closing is not None
        mask[inside[inside <= closing] if closed else inside] = True
    if not closed and messages[-1]["role"] == "assistant":
        return np.append(tokens.ids, _eos_id(tokenizer)).astype(np.int32), np.append(mask, True)
    return tokens.ids, mask


def through_last_turn(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: list[Any] | None = None
) -> tuple[Tokens, str]:
    """The dialogue's tokens through the one that ends its last turn, the assistant's: where a rollout ends too. And
    the text they are of."""
    text = render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    tokens = Tokens.of(tokenizer, text)
    closing = tokens.closing(np.arange(len(tokens.ids)))
    if closing is not None:
        return Tokens(*(column[: closing + 1] for column in tokens)), text
    end = (_eos_id(tokenizer), len(text), len(text), True, True)
    closed = (np.append(column, value).astype(column.dtype) for column, value in zip(tokens, end, strict=True))
    return Tokens(*closed), text


class Tokens(NamedTuple):
    """A text's tokens and where they are in it."""

    ids: np.ndarray  # [T] int32
    starts: np.ndarray  # [T] int64, the first character of each
    ends: np.ndarray  # [T] int64, the character after its last
    is_special: np.ndarray  # [T] bool
    is_blank: np.ndarray  # [T] bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
        if not tokenizer.is_fast:
            raise InputError(
                f"{tokenizer.name_or_path} has no fast tokenizer, which maps tokens to text: add tokenizer.json"
            )
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = encoded["input_ids"]
        starts, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        special = special_ids(tokenizer)
        is_special: np.ndarray = np.array([token_id in special for token_id in ids], dtype=bool)
        is_blank = np.array([not text[start:end].strip() for start, end in zip(starts, ends, strict=True)], dtype=bool)
        return cls(np.array(ids, dtype=np.int32), starts, ends, is_special, is_blank)

    def inside(self, start: int, stop: int) -> np.ndarray:  # [N] int64
        """Indices of the tokens that hold some of the characters from `start` to before `stop`."""
        # By ends: a byte-level tokenizer with trim_offsets gives leading blanks no width, at the place where they end.
        return np.flatnonzero((self.ends > start) & (self.starts < stop))

    def closing(self, inside: np.ndarray) -> int | None:
        """The index of the special token that closes a turn: the first after what is written of those `inside`."""
        written = inside[~self.is_special[inside] & ~self.is_blank[inside]]
        tail = inside[inside > written[-1]] if written.size else inside
        closing = tail[self.is_special[tail]]
        return int(closing[0]) if closing.size else None


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which the chat template ends the assistant's turn; base models may have another `eos_token`."""
    dialogue = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "1"}]
    token_ids, mask = loss_mask(tokenizer, dialogue, last_turn_only=True)
    return int(token_ids[mask][-1])


def _turns(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    text: str,
    last_turn_only: bool,
    tools: list[Any] | None,
) -> Iterator[tuple[int, int]]:
    """Where in `text` the assistant's turns start and stop, found as the renderings of the messages before them."""
    indices = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for index in indices[-1:] if last_turn_only else indices:
        if index == 0:
            raise InputError("the dialogue starts with the assistant's turn: put a user message before it")
        before = render(tokenizer, messages[:index], add_generation_prompt=True, tools=tools)
        through = render(tokenizer, messages[: index + 1], add_generation_prompt=False, tools=tools)
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
