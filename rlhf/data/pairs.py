"""Pairs of rows, in the formats of public data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rlhf.data.fields import BadRow, Defect, as_number, empty, has, take, take_text
from rlhf.data.files import kind_of
from rlhf.data.messages import take_prompt, take_reply
from rlhf.types import InputError, Message

_HH_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two dialogues that differ in their last turn, and the quality of that turn, if known."""

    chosen: Sequence[Message]
    rejected: Sequence[Message]
    scores: tuple[float, float] = (0.0, 0.0)


def make_pair(prompt: Sequence[Message], chosen: str, rejected: str, scores: tuple[float, float] = (0.0, 0.0)) -> Pair:
    better, worse = ([*prompt, {"role": "assistant", "content": answer}] for answer in (chosen, rejected))
    return check_pair(Pair(better, worse, scores))


def check_pair(pair: Pair) -> Pair:
    """Raise BadRow unless the sides differ in their last turn and nowhere else."""
    chosen, rejected = pair.chosen, pair.rejected
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if messages[-1]["role"] != "assistant":
            raise InputError(
                f"the field '{side}' ends with a {messages[-1]['role']}'s turn: end it with the assistant's, or remove "
                "the row"
            )
    if chosen[:-1] != rejected[:-1]:
        raise BadRow(
            "the prompts of 'chosen' and 'rejected' differ, only their last turns may: correct or remove the row",
            Defect.prompts_differ,
        )
    if chosen[-1] == rejected[-1]:
        raise BadRow("the fields 'chosen' and 'rejected' are the same: remove the row", Defect.same)
    return pair


def take_answer(row: Mapping[str, Any], key: str, prompt_key: str) -> list[Message]:
    """Return the dialogue in the field `key`: an answer to the row's prompt, as text or message, or the whole dialogue
    as messages."""
    remedy = f"set {key}_key to the field that holds it" if not has(row, key) else "write text, or messages"
    messages = take_reply(row, key, remedy=remedy)
    # A whole dialogue; the row's prompt, as UltraFeedback has it, is its beginning.
    if messages[0]["role"] != "assistant":
        return messages
    if len(messages) > 1:
        raise InputError(f"the field '{key}' has {len(messages)} messages after the prompt: give the last turn alone")
    return [*take_prompt(row, prompt_key, remedy="set prompt_key to the field that holds the prompt"), *messages]


def prompt_field(row: Mapping[str, Any], prompt_key: str, conversations_key: str) -> str:
    """Return the field that holds the prompt: `prompt_key` or, in rows without it, `conversations_key`
    (LLaMA-Factory)."""
    return conversations_key if has(row, conversations_key) and not has(row, prompt_key) else prompt_key


def take_hh(row: Mapping[str, Any], key: str) -> list[Message]:
    r"""Return the field `key`, a dialogue of HH-RLHF (Bai et al. 2022): `\n\nHuman: ...\n\nAssistant: ...`."""
    text = take_text(row, key, remedy="give the dialogue as text")
    before, *parts = _HH_TURN.split(text)
    if before.strip() or not parts:
        raise InputError(f"the field '{key}' does not begin with 'Human:' or 'Assistant:': correct or remove the row")
    turns = zip(parts[::2], parts[1::2], strict=True)
    messages: list[Message] = [{"role": _HH_ROLES[speaker], "content": content.strip()} for speaker, content in turns]
    for number, message in enumerate(messages, start=1):
        if not message["content"]:
            raise empty(f"turn {number} of '{key}'")
    return messages


def take_comparison(row: Mapping[str, Any]) -> Pair:
    """Return the pair of two summaries of a post, as in summarize-from-feedback (Stiennon et al. 2020, appendix B)."""
    remedy = "give 'info', 'summaries' and 'choice'"
    info, summaries, choice = (take(row, key, remedy=remedy) for key in ("info", "summaries", "choice"))
    if not isinstance(info, Mapping):
        raise InputError(f"the field 'info' is {kind_of(info)}, not an object: {remedy}")
    parts = {"SUBREDDIT": "subreddit", "TITLE": "title", "POST": "post", "ARTICLE": "article"}
    shown = [f"{name}: {'r/' * (key == 'subreddit')}{info[key]}" for name, key in parts.items() if info.get(key)]
    if not any(isinstance(info.get(key), str) and info[key].strip() for key in ("post", "article")):
        raise empty("the field 'info.post'")
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise InputError(f"the field 'summaries' is {kind_of(summaries)}, not a list of two: {remedy}")
    if choice not in (0, 1) or isinstance(choice, bool):
        raise InputError(f"the field 'choice' is {choice!r}, not 0 or 1: correct or remove the row")
    choice = int(choice)  # pandas makes floats of a column with a gap
    texts = [_text_of(summary, "text", f"summary {number}") for number, summary in enumerate(summaries, start=1)]
    prompt = [{"role": "user", "content": "\n\n".join([*shown, "TL;DR:"])}]
    return make_pair(prompt, texts[choice], texts[1 - choice])


def take_graded(
    row: Mapping[str, Any],
    *,
    prompt_key: str,
    completions_key: str,
    completion_key: str,
    grade_key: str,
    grade_range: tuple[float, float],
    best_only: bool,
) -> Iterator[Pair]:
    """Yield pairs of a prompt's graded completions: the best with each worse one, or each two of different grades."""
    prompt = take_prompt(row, prompt_key, remedy="set prompt_key to the field that holds the prompt")
    completions = take(row, completions_key, remedy="set completions_key to the field that holds the completions")
    if not isinstance(completions, list) or len(completions) < 2:
        raise InputError(f"the field '{completions_key}' is {kind_of(completions)}, not a list of at least two")
    graded = []
    for number, completion in enumerate(completions, start=1):
        name = f"completion {number}"
        text = _text_of(completion, completion_key, name)
        grade = as_number(completion.get(grade_key), f"{name} has a '{grade_key}' that is")
        if not grade_range[0] <= grade <= grade_range[1]:
            raise InputError(
                f"{name} has a '{grade_key}' of {grade:g}, and grades go from {grade_range[0]:g} to "
                f"{grade_range[1]:g}: correct or remove the row, or set grade_range"
            )
        graded.append((text, grade))
    graded.sort(key=lambda item: -item[1])  # stable: the first of equal grades counts as the best
    pairs = [(better, worse) for better, worse in combinations(graded, 2) if better[1] > worse[1]]
    if best_only:
        pairs = [(better, worse) for better, worse in pairs if better is graded[0]]
    if not pairs:
        raise BadRow(f"all completions have the grade {graded[0][1]}: remove the row", Defect.same)
    for (chosen, grade), (rejected, other) in pairs:
        yield make_pair(prompt, chosen, rejected, (grade, other))


def _text_of(item: object, key: str, name: str) -> str:
    if not isinstance(item, Mapping) or not isinstance(item.get(key), str):
        raise InputError(f"{name} has no text '{key}': give it one, or remove the row")
    if not item[key].strip():
        raise empty(name)
    return str(item[key]).strip()
