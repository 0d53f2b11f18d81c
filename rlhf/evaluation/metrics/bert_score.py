"""BERTScore: similarity of texts by the contextual embeddings of their tokens (Zhang et al. 2020, eq. 1 to 3)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import MeanMetric
from rlhf.evaluation.metrics.requirements import final_text, references
from rlhf.paths import expand_home
from rlhf.types import InputError

if TYPE_CHECKING:
    from torch import Tensor


class Part(StrEnum):
    """Share of the answer that the reference has, of the reference that the answer has, or their harmonic mean."""

    precision = "precision"
    recall = "recall"
    f1 = "f1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BertScore(MeanMetric):
    """Mean similarity of answers and references, the best one's if there are several; without rescaling, so that values
    depend on the encoder and are comparable only between runs with the same one. 0 for a text without tokens."""

    bounds: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    model: str
    """Folder of a transformers encoder with its tokenizer."""
    layer: int | None = None
    """Number of the layer whose output is compared, from 1; 0 are the embeddings. None: the last."""
    part: Part = Part.f1
    """Figure: `precision`, `recall` or `f1`."""
    idf: bool = False
    """True: tokens are weighted by how few of the references have them. The weights are those of one call's items."""
    batch_size: int = 32
    """Pairs of texts in a forward pass."""
    device: str = "cpu"
    """Device of the encoder, as torch names it."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size of BERTScore is {self.batch_size}: give at least 1")

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        pairs = [
            (final_text(answer), reference)
            for item, answer in zip(items, answers, strict=True)
            for reference in references(item, "BERTScore")
        ]
        encoder = _Encoder(self.model, self.layer, self.device)
        weights = encoder.inverse_frequencies([reference for _, reference in pairs]) if self.idf else None
        # Pairs of similar length share a batch, which saves padding.
        order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
        scores = np.zeros(len(pairs))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            scores[batch] = encoder.scores([pairs[index] for index in batch], weights)[self.part]
        remaining = iter(scores)
        return np.array([max(next(remaining) for _ in item.references) for item in items])


class _Encoder:
    """A transformers encoder with its tokenizer. Raises InputError if the folder cannot be loaded."""

    def __init__(self, folder: str, layer: int | None, device: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        path = Path(expand_home("BERTScore's model", folder))
        if not path.is_dir():
            raise InputError(f"BERTScore has model={folder}, which is no folder: give one with an encoder's files")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise InputError(f"BERTScore cannot load model={folder}, {error}: give a transformers encoder") from error
        num_layers = model.config.num_hidden_layers
        if layer is not None and not 0 <= layer <= num_layers:
            raise InputError(
                f"BERTScore has layer={layer}, and {folder} has {num_layers} layers: give 0 to {num_layers}"
            )
        self._model, self._layer, self._device = model.eval().to(device), num_layers if layer is None else layer, device
        self._max_tokens = min(self._tokenizer.model_max_length, model.config.max_position_embeddings)

    def inverse_frequencies(self, texts: Sequence[str]) -> Mapping[int, float]:
        """Return log((M + 1) / (texts with the token + 1)) of M texts' tokens, as in bert-score."""
        counts = Counter(token for text in texts for token in set(self._tokens([text])["input_ids"][0].tolist()))
        weights = {token: math.log((len(texts) + 1) / (count + 1)) for token, count in counts.items()}
        return _Default(weights, math.log(len(texts) + 1))

    def scores(self, pairs: Sequence[tuple[str, str]], weights: Mapping[int, float] | None) -> dict[Part, np.ndarray]:
        """Return precision, recall and F1 of pairs of an answer and a reference, [number of pairs] each."""
        answer, answer_mask, answer_weights = self._embedded([first for first, _ in pairs], weights)
        reference, reference_mask, reference_weights = self._embedded([second for _, second in pairs], weights)
        similarity = answer @ reference.transpose(1, 2)  # [B, T_answer, T_reference]
        similarity = similarity.masked_fill(~(answer_mask[:, :, None] & reference_mask[:, None, :]), -math.inf)
        precision = _weighted(similarity.amax(dim=2), answer_weights)
        recall = _weighted(similarity.amax(dim=1), reference_weights)
        is_empty = (answer_weights.sum(dim=1) == 0) | (reference_weights.sum(dim=1) == 0)
        total = precision + recall
        f1 = (2 * precision * recall / total).masked_fill(total == 0, 0.0)
        values = {Part.precision: precision, Part.recall: recall, Part.f1: f1}
        return {part: value.masked_fill(is_empty, 0.0).cpu().numpy() for part, value in values.items()}

    def _embedded(self, texts: Sequence[str], weights: Mapping[int, float] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit embeddings [B, T, D], the mask of tokens [B, T] bool, and the tokens' weights [B, T].

        Special tokens can be matched but weigh nothing, as in bert-score.
        """
        import torch

        encoded = self._tokens(texts)
        is_special = encoded.pop("special_tokens_mask").bool()
        with torch.inference_mode():
            states = self._model(**encoded.to(self._device), output_hidden_states=True).hidden_states[self._layer]
        ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
        values = ids.new_ones(ids.shape, dtype=torch.float32)
        if weights is not None:
            values = torch.tensor([[weights[token] for token in row] for row in ids.tolist()], device=ids.device)
        values = values.masked_fill(is_special.to(ids.device) | ~mask, 0.0)
        return torch.nn.functional.normalize(states, dim=-1), mask, values

    def _tokens(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(
            [text.strip() for text in texts],
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )


class _Default(dict[int, float]):
    """Weights by token, with one for tokens that no reference has."""

    def __init__(self, weights: Mapping[int, float], default: float) -> None:
        super().__init__(weights)
        self._default = default

    def __missing__(self, token: int) -> float:
        return self._default


def _weighted(
    best: Tensor,  # [B, T], the largest similarity of each token
    weights: Tensor,  # [B, T]
) -> Tensor:  # [B]
    """Return the weighted mean over tokens (eq. 1 and 2); 0 without weights."""
    # A padded token's largest similarity is -inf, and its weight 0.
    total = (best.masked_fill(weights == 0, 0.0) * weights).sum(dim=1)
    return total / weights.sum(dim=1).clamp_min(1e-12)
