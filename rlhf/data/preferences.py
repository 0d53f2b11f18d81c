"""Pairs of a better and a worse answer, for policies and for reward models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rlhf.data.base import DialogueDataConfig, PolicyPreferenceDataConfig, ScoreDataConfig
from rlhf.data.encoding import PolicyEncoder, ScoreEncoder
from rlhf.data.fields import has, take, take_number
from rlhf.data.pairs import Pair, check_pair, prompt_field, take_answer, take_comparison, take_graded, take_hh
from rlhf.data.quarantine import Quarantine
from rlhf.types import InputError, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_ULTRAFEEDBACK = {"overall_score": (1.0, 10.0), "fine-grained_score": (1.0, 5.0)}


class PairFormat(StrEnum):
    """Format in which a row holds its pairs."""

    pairs = "pairs"
    """`chosen` and `rejected`: answers to `prompt`, or whole dialogues as messages (TRL, UltraFeedback binarized)."""
    hh = "hh"
    """`chosen` and `rejected`: whole dialogues as text with `Human:` and `Assistant:` (HH-RLHF)."""
    comparisons = "comparisons"
    """`info`, two `summaries` and `choice` (summarize-from-feedback)."""
    graded = "graded"
    """`completions` of one prompt with grades (UltraFeedback)."""


class Pairing(StrEnum):
    """Choice of pairs among graded completions."""

    best = "best"
    """The best with each that is worse."""
    all = "all"
    """Each two of different grades."""


@dataclass(kw_only=True, slots=True)
class PairDataConfig(DialogueDataConfig):
    """Pairs of a better and a worse answer."""

    format: PairFormat | None = None
    """`pairs`, `hh`, `comparisons` or `graded`. None: inferred from the first row's fields, which must fit exactly one
    format."""
    prompt_key: str = "prompt"
    """The field that holds the prompt, text or messages, if `chosen` and `rejected` are answers only, or completions
    are graded (UltraFeedback: `instruction`). Dots go into nested fields, here and below."""
    conversations_key: str = "conversations"
    """The field that holds the prompt in rows without `prompt_key`, as turns {from, value} (LLaMA-Factory)."""
    chosen_key: str = "chosen"
    """The field that holds the better answer, as text or message, or the dialogue that ends with it."""
    rejected_key: str = "rejected"
    """The field that holds the worse answer."""
    chosen_score_key: str | None = None
    """The field that holds the quality of the better answer, a number (UltraFeedback binarized: `score_chosen`). None:
    unknown, unless completions are graded."""
    rejected_score_key: str | None = None
    """The field that holds the quality of the worse answer; set both or neither."""
    completions_key: str = "completions"
    """The field that holds graded completions, a list of objects."""
    completion_key: str = "response"
    """The field of a completion that holds its text."""
    grade_key: str = "overall_score"
    """The field of a completion that holds its grade, a number."""
    grade_range: list[float] | None = None
    """The lowest and the highest possible grade, as in [1, 5]; a grade outside makes a bad row. None: UltraFeedback's
    1 to 10 for `overall_score` and 1 to 5 for `fine-grained_score`, and any number for other names."""
    pairing: Pairing = Pairing.best
    """`best`: the best completion with each that is worse. `all`: each two of different grades."""

    def __post_init__(self) -> None:
        super(PairDataConfig, self).__post_init__()
        if (self.chosen_score_key is None) != (self.rejected_score_key is None):
            raise InputError(
                f"chosen_score_key={self.chosen_score_key}, rejected_score_key={self.rejected_score_key}: set both, or "
                "neither"
            )
        if self.grade_range is not None and not (
            len(self.grade_range) == 2 and self.grade_range[0] < self.grade_range[1]
        ):
            raise InputError(f"grade_range={self.grade_range}: give the lowest and the highest grade, as in [1, 10]")

    def encoder(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int) -> PolicyEncoder | ScoreEncoder:
        """Return the function that encodes one side of a pair as a training row."""
        raise NotImplementedError

    def load(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int, quarantine: Quarantine) -> list[Unit]:
        """Return units of the chosen and the rejected row; a row of graded completions gives several."""
        encode = self.encoder(tokenizer, context_tokens=context_tokens)
        form = self.format

        def make(where: str, row: Mapping[str, Any]) -> Iterator[Unit]:
            nonlocal form
            form = form or self.format_of(row)
            for pair in self.pairs(row, form):
                chosen, rejected = self.dialogue(row, pair.chosen), self.dialogue(row, pair.rejected)
                yield (
                    encode(where, chosen, key=self.chosen_key, score=pair.scores[0]),
                    encode(where, rejected, key=self.rejected_key, score=pair.scores[1]),
                )

        return self.collect(quarantine, make)

    def format_of(self, row: Mapping[str, Any]) -> PairFormat:
        sides = has(row, self.chosen_key) and has(row, self.rejected_key)
        text = take(row, self.chosen_key, remedy="") if sides else None
        is_hh = isinstance(text, str) and text.startswith("\n\nHuman:") and not has(row, self.prompt_key)
        fitting = {
            PairFormat.pairs: sides and not is_hh,
            PairFormat.hh: sides and is_hh,
            PairFormat.comparisons: all(has(row, key) for key in ("info", "summaries", "choice")),
            PairFormat.graded: has(row, self.completions_key) and has(row, self.prompt_key),
        }
        found = [form for form, fits in fitting.items() if fits]
        if len(found) == 1:
            return found[0]
        names = f"those of {' and '.join(found)}" if found else "of no known format"
        raise InputError(
            f"the row's fields {', '.join(row) or '(none)'} are {names}: set format, and the keys that name its fields "
            f"(pairs: {self.chosen_key}, {self.rejected_key} and {self.prompt_key}; hh: {self.chosen_key}, "
            f"{self.rejected_key}; comparisons: info, summaries, choice; graded: {self.prompt_key}, "
            f"{self.completions_key})"
        )

    def pairs(self, row: Mapping[str, Any], form: PairFormat) -> Iterator[Pair]:
        match form:
            case PairFormat.comparisons:
                yield take_comparison(row)
            case PairFormat.graded:
                yield from take_graded(
                    row,
                    prompt_key=self.prompt_key,
                    completions_key=self.completions_key,
                    completion_key=self.completion_key,
                    grade_key=self.grade_key,
                    grade_range=self.grades(),
                    best_only=self.pairing is Pairing.best,
                )
            case PairFormat.hh:
                chosen, rejected = (take_hh(row, key) for key in (self.chosen_key, self.rejected_key))
                yield check_pair(Pair(chosen, rejected, self.scores(row)))
            case PairFormat.pairs:
                prompt_key = prompt_field(row, self.prompt_key, self.conversations_key)
                chosen, rejected = (take_answer(row, key, prompt_key) for key in (self.chosen_key, self.rejected_key))
                yield check_pair(Pair(chosen, rejected, self.scores(row)))

    def scores(self, row: Mapping[str, Any]) -> tuple[float, float]:
        if self.chosen_score_key is None or self.rejected_score_key is None:
            return 0.0, 0.0
        remedy = "set chosen_score_key and rejected_score_key to the fields that hold the scores"
        chosen, rejected = (
            take_number(row, key, remedy=remedy) for key in (self.chosen_score_key, self.rejected_score_key)
        )
        return chosen, rejected

    def grades(self) -> tuple[float, float]:
        """Return the lowest and the highest possible grade."""
        if self.grade_range is None:
            return _ULTRAFEEDBACK.get(self.grade_key, (-math.inf, math.inf))
        low, high = self.grade_range
        return low, high


@dataclass(kw_only=True, slots=True)
class PreferenceDataConfig(PairDataConfig, PolicyPreferenceDataConfig):
    """Pairs for a policy, which learns the tokens of both last turns."""

    def encoder(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int) -> PolicyEncoder:
        return PolicyEncoder(tokenizer, self, context_tokens=context_tokens)


@dataclass(kw_only=True, slots=True)
class RankingDataConfig(PairDataConfig, ScoreDataConfig):
    """Pairs for a reward model, which scores each side at the end of the last turn."""

    def encoder(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int) -> ScoreEncoder:
        return ScoreEncoder(tokenizer, self, context_tokens=context_tokens)
