"""Reward models: a sequence classifier with one label, encoder or decoder, whose logit is the reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import transformers

from rlhf.data.chat import render, tokenize_texts
from rlhf.models.causal_lm import context_length, read_model_config, vocab_size
from rlhf.models.heads import Head, config_for
from rlhf.models.tokenizer import load_tokenizer
from rlhf.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Judged = Sequence[int] | Sequence[Message]
"""A rollout as its token ids, or as the dialogue that ends with it."""


def check_reward_model(path: str) -> int:
    """The longest sequence the model in the folder `path` reads. InputError where it gives no single score."""
    raw = read_model_config(path)
    architecture = (raw.get("architectures") or ["none"])[0]
    if not architecture.endswith("ForSequenceClassification"):
        raise InputError(
            f"reward.model={path}: its architecture is {architecture}, which has no head for a score; give a "
            "...ForSequenceClassification model with one label"
        )
    config = config_for(path, Head.score)
    if config.num_labels != 1:
        raise InputError(
            f"reward.model={path}: it has {config.num_labels} labels, a reward model has one; train it with "
            "num_labels=1"
        )
    if config.pad_token_id is None:
        raise InputError(
            f"reward.model={path}: its config.json has no pad_token_id, by which it finds a sequence's end; set the "
            "one it was trained with"
        )
    return context_length(raw)


def check_vocabulary(key: str, path: str, policy_path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """InputError where token ids of the policy would mean something else to the model in `path`."""
    differing = dict(load_tokenizer(path).get_vocab().items() ^ tokenizer.get_vocab().items())
    if differing or vocab_size(read_model_config(path)) < len(tokenizer):
        example = f", {min(differing)!r} for one" if differing else ""
        remedy = (
            "set reward.model_input=text to let it read rollouts as text"
            if key == "reward.model"
            else "start from a model of the same family"
        )
        raise InputError(f"{key}={path}: its vocabulary is not that of the policy {policy_path}{example}; {remedy}")


class RewardModel:
    """A whole copy of a reward model on one device."""

    def __init__(self, path: str, *, dtype: torch.dtype, max_tokens: int) -> None:
        """`max_tokens`: of a forward pass, padding included; a longer sequence goes alone."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.longest = check_reward_model(path)
        self.tokenizer = load_tokenizer(path)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, local_files_only=True, trust_remote_code=False
        )
        self.model.eval().to(self.device)
        self.max_tokens = max_tokens

    def score(self, judged: Sequence[Judged]) -> list[float]:
        """[N] float, NaN for a sequence longer than the model reads: the logit of the model's own forward pass."""
        sequences = self.as_token_ids(judged)
        scores = [float("nan")] * len(sequences)
        readable = [i for i, ids in enumerate(sequences) if 0 < len(ids) <= self.longest]
        for chosen in self.batches(sorted(readable, key=lambda i: len(sequences[i])), sequences):
            logits = self.forward([sequences[i] for i in chosen])
            for i, logit in zip(chosen, logits, strict=True):
                scores[i] = logit
        return scores

    def as_token_ids(self, judged: Sequence[Judged]) -> list[Sequence[int]]:
        """Dialogues through the model's own chat template; an encoder without one reads prompt and answer as a pair."""
        if not judged or not isinstance(judged[0][0], dict):
            return list(judged)  # type: ignore[arg-type]
        if self.tokenizer.chat_template:
            texts = [render(self.tokenizer, messages, add_generation_prompt=False) for messages in judged]  # type: ignore[arg-type]
            return list(tokenize_texts(self.tokenizer, texts))
        pairs = [("\n".join(m["content"] for m in messages[:-1]), messages[-1]["content"]) for messages in judged]  # type: ignore[index]
        return self.tokenizer([a for a, _ in pairs], [b for _, b in pairs], verbose=False)["input_ids"]

    def batches(self, order: Sequence[int], sequences: Sequence[Sequence[int]]) -> list[list[int]]:
        """Indices of sequences that are scored together, in rising length."""
        batches: list[list[int]] = []
        for i in order:
            if batches and len(sequences[i]) * (len(batches[-1]) + 1) <= self.max_tokens:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    def forward(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        width = max(map(len, sequences))
        ids = torch.full((len(sequences), width), self.model.config.pad_token_id)
        mask = torch.zeros(len(sequences), width, dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.as_tensor(sequence)
            mask[row, : len(sequence)] = 1
        with torch.no_grad():
            logits = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).logits
        return logits.squeeze(-1).float().tolist()

    def move(self, device: str) -> None:
        self.model.to(device)
