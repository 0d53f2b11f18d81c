"""Dialogues as training rows of policies and of reward models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf.data.base import OfflineDataConfig
from rlhf.data.chat import continuation, loss_mask, require_template, through_last_turn
from rlhf.data.dialogues import Dialogue, check_turns
from rlhf.data.fields import BadRow, Defect
from rlhf.data.left_out import refuse_losses, refuse_unknown
from rlhf.data.turns import control_ids
from rlhf.types import InputError, TrainingRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PolicyEncoder:
    """Encode whole dialogues; the loss mask marks the assistant's tokens and the ends of its turns."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: OfflineDataConfig, *, context_tokens: int) -> None:
        """Raise InputError if the tokenizer has no chat template."""
        require_template(tokenizer)
        self.tokenizer, self.config, self.context_tokens = tokenizer, config, context_tokens
        self.special = control_ids(tokenizer)

    def __call__(
        self, where: str, dialogue: Dialogue, *, key: str, last_turn_only: bool = True, score: float = 0.0
    ) -> TrainingRow:
        """Return the training row of the row at `where`, whose field `key` holds the dialogue or its answer."""
        check_turns(dialogue.messages, key)
        check_answers(self.tokenizer, self.special, dialogue, key, last_turn_only=last_turn_only)
        if dialogue.templated:
            refuse_losses(self.tokenizer, dialogue.messages, dialogue.tools)
            token_ids, mask = loss_mask(
                self.tokenizer,
                dialogue.messages,
                last_turn_only=last_turn_only,
                tools=dialogue.tools,
                masked=dialogue.masked,
            )
        else:
            token_ids, mask = continuation(self.tokenizer, dialogue.messages)
        refuse_unknown(self.tokenizer, token_ids, dialogue.messages)
        if self.special.issuperset(token_ids[mask].tolist()):
            raise BadRow(
                f"the field '{key}' has no token to learn, all is masked: correct or remove the row",
                Defect.unlearnable,
            )
        self.config.check_length(len(token_ids), self.context_tokens)
        return TrainingRow(token_ids=token_ids, loss_mask=mask, score=score, source=where, prompt_id=dialogue.prompt_id)


class ScoreEncoder:
    """Encode dialogues for a reward model; the loss mask marks the last token, whose score is the dialogue's."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: OfflineDataConfig, *, context_tokens: int) -> None:
        self.tokenizer, self.config, self.context_tokens = tokenizer, config, context_tokens
        self.special = control_ids(tokenizer)

    def __call__(self, where: str, dialogue: Dialogue, *, key: str, score: float = 0.0) -> TrainingRow:
        check_turns(dialogue.messages, key)
        refuse_unscored(self.tokenizer, dialogue)
        if len(dialogue.messages) - 1 in dialogue.masked:
            raise BadRow(f"the field '{key}' ends with a turn of weight 0: remove the row", Defect.unlearnable)
        check_answers(self.tokenizer, self.special, dialogue, key, last_turn_only=True)
        (inputs,) = score_inputs(self.tokenizer, [dialogue])
        token_ids, types = inputs["input_ids"], inputs.get("token_type_ids")
        self.config.check_length(len(token_ids), self.context_tokens)
        mask: np.ndarray = np.zeros(len(token_ids), dtype=bool)
        mask[-1] = True
        columns: dict[str, np.ndarray] = {} if types is None else {"token_types": types.astype(np.float32)}
        return TrainingRow(
            token_ids=token_ids,
            loss_mask=mask,
            score=score,
            columns=columns,
            source=where,
            prompt_id=dialogue.prompt_id,
        )


def refuse_unscored(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> None:
    """Raise InputError for parts of a dialogue that a reward model would ignore silently."""
    if not dialogue.templated:
        return
    if tokenizer.chat_template:
        refuse_losses(tokenizer, dialogue.messages, dialogue.tools)
    elif dialogue.tools:
        raise InputError(
            f"the row has tools, and {tokenizer.name_or_path} has no chat template that reads them: set tools_key to "
            "null"
        )


def score_inputs(
    tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Dialogue]
) -> list[dict[str, np.ndarray]]:  # [T] int32 each
    """Return a reward model's inputs for each dialogue, in training and later: `input_ids`, and `token_type_ids` for
    pairs.

    With a chat template, the dialogue through the token that ends the last turn, where a rollout ends too. An encoder
    without a template reads prompt and answer as a pair, distinguished by token types if its tokenizer has them.
    """
    if tokenizer.chat_template:
        return [{"input_ids": _through_answer(tokenizer, dialogue)} for dialogue in dialogues]
    pairs = tokenizer(
        ["\n".join(message["content"] for message in dialogue.messages[:-1]) for dialogue in dialogues],
        [dialogue.messages[-1]["content"] for dialogue in dialogues],
        return_attention_mask=False,
        return_token_type_ids=True,
        verbose=False,
    )
    return [
        # A model without `token_type_ids` assumes zeros, so all-zero types are left out.
        {
            name: np.array(pairs[name][i], dtype=np.int32)
            for name in ("input_ids", "token_type_ids")
            if any(pairs[name][i])
        }
        for i in range(len(dialogues))
    ]


def _through_answer(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> np.ndarray:  # [T] int32
    if not dialogue.templated:
        return continuation(tokenizer, dialogue.messages)[0]
    return through_last_turn(tokenizer, dialogue.messages, tools=dialogue.tools)[0].ids


def check_answers(
    tokenizer: PreTrainedTokenizerBase,
    special: frozenset[int],
    dialogue: Dialogue,
    key: str,
    *,
    last_turn_only: bool,
) -> None:
    """Raise BadRow if the text of an assistant's turn to learn has no tokens but special ones."""
    spoken = [
        (index, message)
        for index, message in enumerate(dialogue.messages)
        if message["role"] == "assistant" and not message.get("tool_calls")
    ]
    for index, message in spoken[-1:] if last_turn_only else spoken:
        if index in dialogue.masked:
            continue
        token_ids = tokenizer(message["content"], add_special_tokens=False, verbose=False)["input_ids"]
        if special.issuperset(token_ids):
            raise BadRow(
                f"the field '{key}' has an answer that tokenises to nothing: correct or remove the row",
                Defect.unlearnable,
            )
