"""Answers that are good or bad on their own (KTO, Ethayarajh et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf.data.base import DialogueDataConfig, PolicyPreferenceDataConfig
from rlhf.data.dialogues import Dialogue
from rlhf.data.encoding import PolicyEncoder
from rlhf.data.fields import has, take
from rlhf.data.files import kind_of
from rlhf.data.pairs import Pair, check_pair, prompt_field, take_answer
from rlhf.data.quarantine import Quarantine
from rlhf.types import InputError, TrainingRow, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True, slots=True)
class KTODataConfig(DialogueDataConfig, PolicyPreferenceDataConfig):
    """Rows of a prompt, a completion and a label; a row with `chosen` and `rejected` in place of them gives two."""

    prompt_key: str = "prompt"
    """The field that holds the prompt, text or messages. Dots go into nested fields, here and below."""
    conversations_key: str = "conversations"
    """The field that holds the prompt in rows without `prompt_key`, as turns {from, value} (LLaMA-Factory)."""
    completion_key: str = "completion"
    """The field that holds the completion, as text or message."""
    label_key: str = "label"
    """The field that says whether the completion is desirable: true or false."""
    chosen_key: str = "chosen"
    """Field of pairs that holds the desirable answer, as text or message, or the dialogue that ends with it."""
    rejected_key: str = "rejected"
    """Field of pairs that holds the undesirable answer."""

    def load(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int, quarantine: Quarantine) -> list[Unit]:
        """Return units of one row each, with score 1 if the answer is desirable, else 0."""
        encode = PolicyEncoder(tokenizer, self, context_tokens=context_tokens)

        def make(where: str, row: Mapping[str, Any]) -> Iterator[Unit]:
            for key, dialogue, score in self.answers(row):
                yield (encode(where, dialogue, key=key, score=score),)

        return self.collect(quarantine, make)

    def answers(self, row: Mapping[str, Any]) -> Iterator[tuple[str, Dialogue, float]]:
        """Yield each field that holds an answer, the dialogue that ends with it, and its score."""
        prompt_key = prompt_field(row, self.prompt_key, self.conversations_key)
        if has(row, self.chosen_key) and has(row, self.rejected_key) and not has(row, self.completion_key):
            keys = (self.chosen_key, self.rejected_key)
            chosen, rejected = (take_answer(row, key, prompt_key) for key in keys)
            pair = check_pair(Pair(chosen, rejected))
            yield self.chosen_key, self.dialogue(row, pair.chosen), 1.0
            yield self.rejected_key, self.dialogue(row, pair.rejected), 0.0
            return
        label = take(row, self.label_key, remedy="set label_key to the field that says whether it is desirable")
        if label not in (0, 1):
            raise InputError(f"the field '{self.label_key}' is {kind_of(label)}, not true or false: correct the row")
        answer = take_answer(row, self.completion_key, prompt_key)
        if answer[-1]["role"] != "assistant":
            raise InputError(
                f"the field '{self.completion_key}' ends with a {answer[-1]['role']}'s turn: end it with the "
                "assistant's, or remove the row"
            )
        yield self.completion_key, self.dialogue(row, answer), float(label)


def mismatched_rows(rows: Sequence[TrainingRow], seed: int) -> list[TrainingRow]:
    """Pair each row's prompt with the completion of another row; KTO estimates z0 on these rows.

    A completion is truncated where its row would be longer than the longest of `rows`: nothing is learnt from these
    rows, and the KL of the first tokens is an estimate too.
    """
    if len(rows) < 2:
        raise InputError(f"KTO compares rows with each other and has {len(rows)}: give at least 2")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    partners = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    longest = max(row.num_tokens for row in rows)
    return [_with_completion_of(rows[partners[i]], row, longest) for i, row in enumerate(rows)]


def _with_completion_of(other: TrainingRow, row: TrainingRow, longest: int) -> TrainingRow:
    prompt = row.token_ids[: row.loss_mask.argmax()]
    learnt = np.flatnonzero(other.loss_mask)
    completion = other.token_ids[learnt[0] : learnt[-1] + 1][: longest - len(prompt)]
    token_ids = np.concatenate([prompt, completion])
    return replace(row, token_ids=token_ids, loss_mask=np.arange(len(token_ids)) >= len(prompt))
