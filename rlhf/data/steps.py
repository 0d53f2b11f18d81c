"""Process rewards: answers in steps, each labelled right or wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf.data.base import DialogueDataConfig, ScoreDataConfig
from rlhf.data.chat import require_template, through_last_turn
from rlhf.data.dialogues import Dialogue, check_turns
from rlhf.data.fields import BadRow, Defect, empty, finite, has, take
from rlhf.data.files import kind_of
from rlhf.data.left_out import refuse_losses
from rlhf.data.messages import take_prompt
from rlhf.data.quarantine import Quarantine
from rlhf.types import InputError, TrainingRow, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN = -1.0


@dataclass(kw_only=True, slots=True)
class StepDataConfig(DialogueDataConfig, ScoreDataConfig):
    """Rows of a prompt, the steps of its answer, and their labels (Lightman et al. 2023; TRL's stepwise format)."""

    prompt_key: str = "prompt"
    """The field that holds the prompt, text or messages. Dots go into nested fields, here and below."""
    steps_key: str | None = None
    """The field that holds the steps, a list of texts. None: `steps` or, as in TRL, `completions`."""
    labels_key: str = "labels"
    """The field that holds a label for each step: from 0, wrong, to 1, right, or true and false; -1 and null are
    unknown. PRM800K's ratings differ: their -1 is wrong."""
    separator: str = "\n"
    """Text between two steps."""

    def load(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int, quarantine: Quarantine) -> list[Unit]:
        """Return units of one row each: the loss mask is True at the last token of each labelled step, where `targets`
        has the label. The last step ends with its turn, as a rollout does."""
        require_template(tokenizer)

        def make(where: str, row: Mapping[str, Any]) -> Iterator[Unit]:
            steps, labels = self.steps(row)
            prompt = take_prompt(row, self.prompt_key, remedy="set prompt_key to the field that holds the prompt")
            answer = {"role": "assistant", "content": self.separator.join(steps)}
            dialogue = self.dialogue(row, [*prompt, answer])
            refuse_losses(tokenizer, dialogue.messages, dialogue.tools)
            check_turns(dialogue.messages, self.prompt_key)
            token_ids, ends = find_ends(tokenizer, dialogue, steps, self.separator)
            self.check_length(len(token_ids), context_tokens)
            known = labels != UNKNOWN
            mask: np.ndarray = np.zeros(len(token_ids), dtype=bool)
            targets: np.ndarray = np.zeros(len(token_ids), dtype=np.float32)
            mask[ends[known]], targets[ends[known]] = True, labels[known]
            yield (
                TrainingRow(
                    token_ids=token_ids,
                    loss_mask=mask,
                    columns={"targets": targets},
                    source=where,
                    prompt_id=dialogue.prompt_id,
                ),
            )

        return self.collect(quarantine, make)

    def steps(self, row: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
        """Return the texts of the steps, without surrounding blanks, and their labels [N] float32."""
        key = self.steps_key or ("completions" if has(row, "completions") and not has(row, "steps") else "steps")
        steps = take(row, key, remedy="set steps_key to the field that holds the steps")
        labels = take(row, self.labels_key, remedy="set labels_key to the field that holds a label for each step")
        for name, values in ((key, steps), (self.labels_key, labels)):
            if not isinstance(values, list):
                raise InputError(f"the field '{name}' is {kind_of(values)}, not a list: correct or remove the row")
        if not steps:
            raise empty(f"the field '{key}'", ", it has no steps")
        if len(steps) != len(labels):
            raise InputError(
                f"the field '{key}' has {len(steps)} steps and '{self.labels_key}' {len(labels)} labels: give each "
                "step one label, -1 for unknown"
            )
        for number, step in enumerate(steps, start=1):
            if not isinstance(step, str):
                raise InputError(f"step {number} of '{key}' is {kind_of(step)}, not text: correct or remove the row")
            if not step.strip():
                raise empty(f"step {number} of '{key}'")
        values = np.array([self.label(label, number) for number, label in enumerate(labels, start=1)], dtype=np.float32)
        if (values == UNKNOWN).all():
            raise BadRow(
                f"the field '{self.labels_key}' has no known label, so all is masked: label a step, or remove the row",
                Defect.unlearnable,
            )
        return [step.strip() for step in steps], values

    def label(self, label: object, number: int) -> float:
        if label is None:
            return UNKNOWN
        value = float(label) if isinstance(label, bool) else finite(label)
        if value is not None and (value == UNKNOWN or 0 <= value <= 1):
            return value
        found = label if isinstance(label, float) or value is not None else kind_of(label)
        raise InputError(
            f"label {number} of '{self.labels_key}' is {found}: give 0 to 1, true, false, or -1 for unknown"
        )


def find_ends(
    tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, steps: list[str], separator: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids [T] int32 of the dialogue, and the index [N] int64 of each step's last token: the last is
    T - 1."""
    tokens, text = through_last_turn(tokenizer, dialogue.messages, tools=dialogue.tools)
    content = dialogue.messages[-1]["content"]
    start = text.rfind(content, 0, int(tokens.starts[-1]))
    if start < 0:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} does not render the answer as it is, so its steps cannot "
            "be found: change the steps, or chat_template.jinja"
        )
    ends, position = [], start
    for step in steps[:-1]:
        position += len(step)
        ends.append(int(tokens.inside(position - 1, position)[-1]))
        position += len(separator)
    ends.append(len(tokens.ids) - 1)
    if len(set(ends)) < len(ends):
        raise BadRow(
            "two steps end within one token: join them, or set separator to a text between two tokens",
            Defect.unlearnable,
        )
    return tokens.ids, np.array(ends)
