"""Dialogues through the model's own chat template: text, token ids, and which tokens are the assistant's."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from rlhf.data.template_clock import clock_of
from rlhf.data.turns import Tokens, control_ids
from rlhf.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS_PER_CALL = 1024  # one call holds the encodings of all its texts


def require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError if the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path} has no chat template: set chat_template to a jinja file, add "
            f"chat_template.jinja to the model folder, or use the model's variant that has one (-Instruct)"
        )


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    tools: Sequence[Any] | None = None,
) -> str:
    """Return the dialogue as the model reads it; `add_generation_prompt` opens the assistant's next turn. `tools` are
    the schemas of the functions that the assistant may call."""
    require_template(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=None if tools is None else list(tools),
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
    tools: Sequence[Any] | None = None,
    masked: Collection[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids [T] int32 of the dialogue and the loss mask [T] bool: True for the tokens of assistant turns
    whose message index is not in `masked`.

    A turn runs from its prompt's end through the special token that closes it, which may be the token that opens the
    next turn (GLM-4). A last turn that the template leaves open is closed, else the model would never learn to stop.
    The prompt before each turn is tokenised as in a rollout.
    """
    spoken = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    learnt = [index for index in (spoken[-1:] if last_turn_only else spoken) if index not in masked]
    text, turns = _turns(tokenizer, messages, learnt, tools)
    tokens = Tokens.after_prompts(tokenizer, text, [start for start, _ in turns])
    mask: np.ndarray = np.zeros(len(tokens.ids), dtype=bool)
    closed = True
    for start, stop in turns:
        inside = tokens.inside(start, stop)
        closing = tokens.closing(inside, {turn_end_id(tokenizer)})
        following = tokens.next_opener(inside) if closing is None else None
        closed = closing is not None or following is not None
        mask[inside if closing is None else inside[inside <= closing]] = True
        if following is not None:
            mask[following] = True
    if not closed and learnt[-1] == len(messages) - 1:
        end = open_turn_end_id(tokenizer, messages, text, tools)
        return np.append(tokens.ids, end).astype(np.int32), np.append(mask, True)
    return tokens.ids, mask


def continuation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> tuple[np.ndarray, np.ndarray]:  # [T] int32, [T] bool
    """Return the token ids of a text and its continuation, without a chat template, and the loss mask: True for the
    continuation and the end of sequence. The tokenizer puts its own special tokens before the text, as in vLLM.

    Raises InputError if the tokenizer has no end of sequence.
    """
    prompt, answer = (message["content"] for message in messages)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-sequence token to end a continuation: set "
            "eos_token in tokenizer_config.json"
        )
    tokens = Tokens.after_prompts(tokenizer, prompt + answer, [len(prompt)])
    whole, plain = (
        tokenizer(prompt, add_special_tokens=special, verbose=False)["input_ids"] for special in (True, False)
    )
    before = next(whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    token_ids = np.array([*before, *tokens.ids, tokenizer.eos_token_id], dtype=np.int32)
    written: np.ndarray = np.zeros(len(token_ids), dtype=bool)
    written[len(before) + tokens.inside(len(prompt), len(prompt + answer))] = True
    written[-1] = True
    return token_ids, written


def through_last_turn(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Sequence[Any] | None = None
) -> tuple[Tokens, str]:
    """Return the dialogue's tokens through the token that ends its last turn, the assistant's, where a rollout ends
    too; and their text."""
    text = render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    before = render(tokenizer, messages[:-1], add_generation_prompt=True, tools=tools) if len(messages) > 1 else ""
    if not text.startswith(before):
        text = begun_as_asked(tokenizer, messages, before, tools) or text
    tokens = Tokens.after_prompts(tokenizer, text, [len(before)] if before and text.startswith(before) else [])
    closing = tokens.closing(np.arange(len(tokens.ids)), {turn_end_id(tokenizer)})
    if closing is not None:
        return Tokens(*(column[: closing + 1] for column in tokens)), text
    return tokens.closed_by(open_turn_end_id(tokenizer, messages, text, tools), text), text


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token with which the chat template ends the assistant's turn; base models may have another
    `eos_token`.

    The generation prompt is not read: R1-Distill's opens `<think>`, which no turn in a dialogue has.
    """
    return _turn_end_id(tokenizer, str(tokenizer.chat_template), tokenizer.eos_token_id)


@lru_cache(maxsize=8)  # called once per row
def _turn_end_id(tokenizer: PreTrainedTokenizerBase, _template: str, _eos_token_id: int | None) -> int:
    dialogue: list[Message] = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "1"}]
    text = render(tokenizer, dialogue, add_generation_prompt=False)
    tokens = Tokens.of(tokenizer, text)
    closing = tokens.closing(np.arange(len(tokens.ids)))
    return open_turn_end_id(tokenizer, dialogue, text, None) if closing is None else int(tokens.ids[closing])


def turn_opener_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the special tokens of a prompt that no answer contains: those with which the chat template names the
    speaker. Empty without a template."""
    if not tokenizer.chat_template:
        return set()
    asked: list[Message] = [{"role": "user", "content": "1"}]
    before = render(tokenizer, asked, add_generation_prompt=True)
    answered = render(tokenizer, [*asked, {"role": "assistant", "content": "1"}], add_generation_prompt=False)
    prompt, answer = Tokens.of(tokenizer, before), Tokens.of(tokenizer, answered.removeprefix(before))
    inside = set(answer.ids.tolist()) if answered.startswith(before) else set()
    return set(prompt.ids[prompt.is_control].tolist()) - inside


def open_turn_end_id(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str, tools: Sequence[Any] | None
) -> int:
    """Return the token that ends the last turn of `messages`, rendered as `text`, which the template leaves open: the
    token that opens the next turn, if nothing else ends turns of this role, else the end of sequence. Raises InputError
    if the tokenizer has no end of sequence."""
    role = "tool" if messages[-1].get("tool_calls") else "user"
    following: Message = {"role": role, "content": "1"}
    try:
        longer = render(tokenizer, [*messages, following], add_generation_prompt=False, tools=tools)
    except InputError:
        longer = ""  # the template refuses such a turn there
    if longer.startswith(text):
        tokens = Tokens.of(tokenizer, longer)
        opener = tokens.next_opener(tokens.inside(0, len(text)))
        if opener is not None:
            return int(tokens.ids[opener])
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} leaves the assistant's turn open and the tokenizer has no "
            f"end-of-sequence token to close it: set eos_token in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def _turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], learnt: Sequence[int], tools: Sequence[Any] | None
) -> tuple[str, list[tuple[int, int]]]:
    """Return the dialogue as text, and the start and stop in it of the assistant's turns whose index is in `learnt`,
    located by rendering the messages before each turn."""
    text = render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    turns: list[tuple[int, int]] = []
    for index in learnt:
        if index == 0:
            raise InputError("the dialogue starts with the assistant's turn: put a user message before it")
        turn = messages[: index + 1]
        before = render(tokenizer, turn[:-1], add_generation_prompt=True, tools=tools)
        through = render(tokenizer, turn, add_generation_prompt=False, tools=tools)
        if not through.startswith(before):
            begun = begun_as_asked(tokenizer, turn, before, tools) if len(turn) == len(messages) else None
            if begun is None:
                raise _begins_otherwise(tokenizer, before, through, index + 1)
            text = through = begun
        kept = shared_turn(tokenizer, text, through)
        if kept is None or kept < len(before):
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} renders message {index + 1}, an assistant's, "
                f"differently once later messages follow (Qwen3 drops earlier thinking): set last_turn_only=true and "
                f"end the dialogue with its last assistant message, or split it into one row per assistant message"
            )
        _check_thinking(tokenizer, turn, text[len(before) : kept], before)
        turns.append((len(before), kept))
    return text, turns


def shared_turn(tokenizer: PreTrainedTokenizerBase, text: str, through: str) -> int | None:
    """Return how many characters of `through`, which ends a turn, begin `text`, which continues after it: all, or all
    but the special tokens that the template writes at the very end (Phi-3). None if a turn is rendered differently."""
    control = tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer)))
    while not text.startswith(through):
        end = next((token for token in control if through.rstrip().endswith(token)), None)
        if end is None:
            return None
        through = through.rstrip().removesuffix(end)
    return len(through)


def begun_as_asked(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], before: str, tools: Sequence[Any] | None
) -> str | None:
    """Return the dialogue with its last turn, the assistant's, as the generation prompt begins it, if the template
    renders it differently: `before` ends in `<think>`, which R1-Distill's template removes from every turn, with the
    thinking. None if the turn's own content does not begin that way."""
    message = messages[-1]
    plain: Message = {"role": "assistant", "content": "1"}
    usual = render(tokenizer, [*messages[:-1], plain], add_generation_prompt=False, tools=tools)
    opened = before[len(commonprefix(before, usual)) :]
    content = message["content"].lstrip()
    if not opened.strip() or not content.startswith(opened.strip()) or message.get("tool_calls"):
        return None
    written = content.removeprefix(opened) if content.startswith(opened) else content.removeprefix(opened.strip())
    return before + written + str(tokenizer.convert_ids_to_tokens(turn_end_id(tokenizer)))


def _begins_otherwise(tokenizer: PreTrainedTokenizerBase, before: str, through: str, number: int) -> InputError:
    opened = before[len(commonprefix(before, through)) :]
    return InputError(
        f"the chat template of {tokenizer.name_or_path} renders message {number}, an assistant's, differently from how "
        f"its generation prompt begins it ({opened!r}): begin the last message with that and set last_turn_only=true, "
        f"or set chat_template to a file in which both begin alike"
    )


def _check_thinking(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], turn: str, before: str) -> None:
    """Raise InputError if the template leaves out the thinking of the last message, an assistant's."""
    thinking, closed, _ = messages[-1]["content"].rpartition("</think>")
    thought = thinking.rpartition("<think>")[2].strip()
    if closed and thought not in turn:
        raise InputError(
            f"message {len(messages)} has thinking, which the chat template of {tokenizer.name_or_path} leaves out: "
            f"remove it, or set chat_template to a file that keeps it"
        )


def commonprefix(one: str, other: str) -> str:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in same)]
