"""Reward models: a sequence classifier with one label, encoder or decoder, whose logit is the reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from rlhf.data.dialogues import Dialogue
from rlhf.data.encoding import score_inputs
from rlhf.data.template_clock import fix_date
from rlhf.models.causal_lm import context_length, read_model_config, vocab_size
from rlhf.models.heads import Head, compute_in_fp32, read_config
from rlhf.models.tokenizer import load_tokenizer
from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest relative rounding error of a score."""

JudgeInput = Sequence[int] | Dialogue
"""A rollout as its token ids, or as the dialogue that ends with it."""


def check_reward_model(path: str) -> int:
    """Return the longest sequence that the model in the folder `path` reads. Raises InputError if the model has no
    single score."""
    raw = read_model_config(path)
    architecture = (raw.get("architectures") or ["none"])[0]
    if not architecture.endswith("ForSequenceClassification"):
        raise InputError(
            f"reward.model={path}: its architecture is {architecture}, which has no head for a score; give a "
            "...ForSequenceClassification model with one label"
        )
    config = read_config(path, Head.score)
    if config.num_labels != 1:
        raise InputError(
            f"reward.model={path}: it has {config.num_labels} labels, a reward model has one; train it with "
            "num_labels=1"
        )
    if config.pad_token_id is None:
        raise InputError(
            f"reward.model={path}: its config.json has no pad_token_id, through which it finds a sequence's end; set "
            "the id it was trained with"
        )
    return context_length(raw)


def check_vocabulary(key: str, path: str, policy_path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError if the policy's token ids have another meaning in the model in `path`."""
    difference = vocabulary_difference(path, tokenizer)
    if difference is not None:
        remedy = (
            "set reward.model_input=text to let it read rollouts as text"
            if key.startswith("reward.")
            else "use a model of the same family"
        )
        raise InputError(
            f"{key}={path}: its vocabulary is not that of the policy {policy_path}, {difference}; {remedy}"
        )


def vocabulary_difference(path: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return in words how the vocabulary of the model in `path` differs: its size, or the first token that does; None
    if it does not."""
    theirs, ours = load_tokenizer(path).get_vocab(), tokenizer.get_vocab()
    if len(theirs) != len(ours):
        return f"it has {len(theirs)} tokens and not {len(ours)}"
    num_rows = vocab_size(read_model_config(path))
    if num_rows < len(tokenizer):
        return f"its embedding has {num_rows} rows for {len(tokenizer)} tokens"
    differing = theirs.items() ^ ours.items()
    if not differing:
        return None
    first = min(token_id for _, token_id in differing)
    there, here = ({i: token for token, i in vocabulary.items()}.get(first) for vocabulary in (theirs, ours))
    return f"token {first} is {there!r} and not {here!r}"


class RewardModel:
    """A whole copy of a reward model on one device."""

    def __init__(self, path: str, *, dtype: torch.dtype, max_tokens: int, template_date: str | None = None) -> None:
        """`max_tokens`: tokens of a forward pass, padding included; a longer sequence runs alone. `template_date`: the
        date that the chat template writes as today's; None for the clock."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.longest = check_reward_model(path)
        self.tokenizer = load_tokenizer(path)
        fix_date(self.tokenizer, template_date)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, local_files_only=True, trust_remote_code=False
        )
        compute_in_fp32(self.model)
        self.model.eval().to(self.device)
        self.max_tokens = max_tokens
        self.check_padding(path, TOLERANCE[dtype])

    def score(self, items: Sequence[JudgeInput]) -> list[float]:
        """Return the logits of the model's own forward pass, [N] float; NaN for a sequence that is too long for it."""
        rows = self.encode(items)
        scores = [float("nan")] * len(rows)
        readable = [i for i, row in enumerate(rows) if 0 < len(row["input_ids"]) <= self.longest]
        lengths = {i: len(rows[i]["input_ids"]) for i in readable}
        for chosen in self.batches(sorted(readable, key=lengths.__getitem__), lengths):
            logits = self.forward([rows[i] for i in chosen])
            for i, logit in zip(chosen, logits, strict=True):
                scores[i] = logit
        return scores

    def check_padding(self, path: str, tolerance: float) -> None:
        """Raise InputError if a score depends on other rows of the batch: scores two random rows together and alone."""
        generator = np.random.default_rng(0)
        known = [
            i for i in range(self.model.config.get_text_config().vocab_size) if i != self.model.config.pad_token_id
        ]
        rows = [{"input_ids": generator.choice(known, min(length, self.longest)).tolist()} for length in (12, 20)]
        together = np.array(self.forward(rows))
        alone = np.array([self.forward([row])[0] for row in rows])
        difference = float((np.abs(together - alone) / np.maximum(np.abs(alone), 1.0)).max())
        if not difference <= tolerance:
            raise InputError(
                f"reward.model={path}: the score of a row changes by {difference:.2g} with the rows beside it, so "
                "its rewards would depend on the batch; use a reward model of another architecture, such as Qwen3"
            )

    def encode(self, items: Sequence[JudgeInput]) -> list[dict[str, Any]]:
        """Return the model's inputs for each item; dialogues are encoded as in training."""
        dialogues = [each for each in items if isinstance(each, Dialogue)]
        if not dialogues:
            return [{"input_ids": ids} for ids in items]
        inputs = score_inputs(self.tokenizer, dialogues)
        if getattr(self.model.config, "type_vocab_size", 0) > 1:
            return inputs
        return [{"input_ids": each["input_ids"]} for each in inputs]

    def batches(self, order: Sequence[int], lengths: Mapping[int, int]) -> list[list[int]]:
        """Group rows into batches that are scored together; `order` sorts them by rising length."""
        batches: list[list[int]] = []
        for i in order:
            if batches and lengths[i] * (len(batches[-1]) + 1) <= self.max_tokens:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    def forward(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> list[float]:
        width = len(rows[-1]["input_ids"])
        backgrounds = {name: self.model.config.pad_token_id if name == "input_ids" else 0 for name in rows[0]}
        inputs = {name: torch.full((len(rows), width), value) for name, value in backgrounds.items()}
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            mask[i, : len(row["input_ids"])] = 1
            for name, values in row.items():
                inputs[name][i, : len(values)] = torch.as_tensor(values)
        inputs["attention_mask"] = mask
        with torch.no_grad():
            logits = self.model(**{name: tensor.to(self.device) for name, tensor in inputs.items()}).logits
        return logits.squeeze(-1).float().tolist()

    def move(self, device: str) -> None:
        self.model.to(device)
