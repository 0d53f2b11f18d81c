"""Data settings and parts that every offline stage shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf.data.dialogues import TEMPLATED, Dialogue, dialogue_of
from rlhf.data.fields import BadRow, Defect, require_positive
from rlhf.data.quarantine import BadRows, Quarantine
from rlhf.data.source import SourceConfig
from rlhf.data.split import split_held_out
from rlhf.types import InputError, Message, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A data set split into training and held-out units."""

    train: list[Unit]
    held_out: dict[str, list[Unit]] = field(default_factory=dict)
    """Held-out units by the name of their figures; empty if nothing is held out."""
    figures: dict[str, float] = field(default_factory=dict)
    """Figures of the split and the mixture, for the run's metrics."""


@dataclass(kw_only=True, slots=True)
class OfflineDataConfig(SourceConfig):
    """Rows of a file, and the treatment of bad rows."""

    max_tokens: int | None = None
    """Tokens a sequence may have, chat template included; a longer one is a bad row. None: the model's context."""
    bad_rows: BadRows = BadRows.strict
    """`strict`: the first bad row stops the run. `quarantine`: bad rows are left out, counted by defect, and written
    with the reasons to `rejects.jsonl` in the run's folder."""
    max_rejected_fraction: float = 0.05
    """Share of a file's rows that may be left out with `bad_rows=quarantine`; more stop the run."""

    def __post_init__(self) -> None:
        super(OfflineDataConfig, self).__post_init__()
        require_positive(max_tokens=self.max_tokens)
        if not 0 <= self.max_rejected_fraction < 1:
            raise InputError(
                f"max_rejected_fraction={self.max_rejected_fraction}: give at least 0 and less than 1, as in 0.05"
            )

    def quarantine(self) -> Quarantine:
        """Return an empty quarantine for the bad rows of a run."""
        return Quarantine(self.bad_rows, self.max_rejected_fraction)

    def load(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int, quarantine: Quarantine) -> list[Unit]:
        """Return all rows in file order, none truncated. Raises InputError with file, line and field of a bad row."""
        raise NotImplementedError

    def load_parts(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_tokens: int,
        quarantine: Quarantine,
        held_out_fraction: float,
        seed: int,
    ) -> Parts:
        """Return the rows, some of them held out; `seed` determines which."""
        units = self.load(tokenizer, context_tokens=context_tokens, quarantine=quarantine)
        if not held_out_fraction:
            return Parts(train=units)
        train, held_out = split_held_out(units, held_out_fraction, seed)
        return Parts(train=train, held_out={"held_out": held_out})

    def collect(self, quarantine: Quarantine, make: Callable[[str, Mapping[str, Any]], Iterable[T]]) -> list[T]:
        """Collect the results of `make(where, row)` for each row of the file."""
        return quarantine.collect(self.rows(quarantine.refuse), make, self.limit, source=self.path)

    def check_length(self, num_tokens: int, context_tokens: int) -> None:
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            sentence = f"more than max_tokens={self.max_tokens}: raise it or shorten the row"
        elif num_tokens > context_tokens:
            sentence = f"more than the model's context of {context_tokens}: shorten the row"
        else:
            return
        raise BadRow(f"the row has {num_tokens} tokens, {sentence}", Defect.too_long)


# Each run's configuration declares one of the next three classes for `data`: the rows that the run can learn from.


@dataclass(kw_only=True, slots=True)
class SFTDataConfig(OfflineDataConfig):
    """Rows that supervised fine-tuning and continued pretraining learn from."""


@dataclass(kw_only=True, slots=True)
class ScoreDataConfig(OfflineDataConfig):
    """Rows that reward models learn from."""


@dataclass(kw_only=True, slots=True)
class PolicyPreferenceDataConfig(OfflineDataConfig):
    """Rows that preference methods learn a policy from."""


@dataclass(kw_only=True, slots=True)
class DialogueDataConfig(OfflineDataConfig):
    """Rows of dialogues."""

    system_key: str | None = "system"
    """The field that holds a system message, put before the dialogue where a row has one. None: it is left out."""
    tools_key: str | None = "tools"
    """The field that holds the schemas of the functions the assistant may call, where a row has any; the chat template
    gets them. None: they are left out."""
    templated_key: str | None = TEMPLATED
    """The field that is false where the answer continues the prompt's text, as in `/v1/completions`: both are learnt
    end to end, without the chat template. None: every row is a dialogue."""

    def dialogue(self, row: Mapping[str, Any], messages: Sequence[Message]) -> Dialogue:
        """Return the messages with the row's system message, tools and turn weights."""
        return dialogue_of(
            row, messages, system_key=self.system_key, tools_key=self.tools_key, templated_key=self.templated_key
        )
