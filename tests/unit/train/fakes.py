"""A model of a few hundred parameters behind the Backend protocol, rows for it, and groups as the driver sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rlhf.algorithms.base import TokenOutputs
from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
from rlhf.models.heads import Head
from rlhf.ops.microbatch import MicroBatch
from rlhf.runtimes.buckets import Bucket
from rlhf.train.batching import Packing, RowGroup
from rlhf.train.report import StepReport
from rlhf.train.stats import Stats
from rlhf.types import EpisodeInfo, Failure, Group, Prompt, Reference, Rollout, Row, Score, TrainingRow

T = TypeVar("T")
VOCAB, LONGEST = 13, 32
READOUT = TokenReadout(SamplingDistribution(temperature=0.8))
PACKING = Packing(max_tokens=40, packed=True, num_ranks=1)


class TinyModel(nn.Module):
    """Logits from a token and its position alone: rows in one pack cannot see each other but through a wrong layout."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.tokens = nn.Parameter(torch.randn(VOCAB, VOCAB, generator=generator))
        self.positions = nn.Parameter(torch.randn(LONGEST, VOCAB, generator=generator))

    def forward(self, input_ids: Tensor, position_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.tokens[input_ids] + self.positions[position_ids])

    @property
    def gradient(self) -> Tensor:
        return torch.cat([parameter.grad.flatten() for parameter in self.parameters()])


class FakeBackend:
    """One rank of a TinyModel with plain SGD. Simulated ranks do not meet: `gradients` is this rank's share."""

    head, rounding = Head.causal_lm, 1e-5

    def __init__(self, rank: int = 0, num_ranks: int = 1, model: TinyModel | None = None) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self.model = model or TinyModel()
        self.forwards: list[MicroBatch] = []
        self.lasts: list[bool] = []
        self.gradients: list[Tensor] = []
        self.learning_rates: list[float] = []
        self.skipped: set[int] = set()
        """Steps that find their gradient not finite."""

    def forward(self, batch: MicroBatch, readout: TokenReadout, *, grad: bool) -> TokenOutputs:
        self.forwards.append(batch)
        with torch.set_grad_enabled(grad):
            return readout(self.model, batch)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.lasts.append(last)
        loss.backward()

    def step(self, lr: float) -> tuple[float, bool]:
        assert self.lasts[-1], "a step follows the last micro-batch"
        applied = len(self.gradients) not in self.skipped
        self.gradients.append(self.model.gradient.clone())
        self.learning_rates.append(lr)
        with torch.no_grad():
            for parameter in self.model.parameters():
                if applied:
                    parameter -= lr * parameter.grad
                parameter.grad = None
        return float(self.gradients[-1].norm()) if applied else float("nan"), applied

    def gather(self, value: T) -> list[T]:
        return [value]

    def weights(self, bucket_bytes: int, carrier: Any = None, *, adapter_alone: bool = False) -> Iterator[Bucket]:
        raise NotImplementedError

    def without_adapter(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        raise NotImplementedError

    def save_pretrained(self, folder: Path) -> None:
        raise NotImplementedError

    def load_saved(self, folder: Path) -> nn.Module:
        raise NotImplementedError


def row_logprobs(model: TinyModel, token_ids: Sequence[int], temperature: float) -> list[Tensor]:
    """Log probability of each token but the first, one position at a time."""
    logprobs = []
    for t in range(1, len(token_ids)):
        logits = (model.tokens[int(token_ids[t - 1])] + model.positions[t - 1]) / temperature
        logprobs.append(logits[int(token_ids[t])] - torch.logsumexp(logits, 0))
    return logprobs


def supervised_rows(seed: int, num_rows: int) -> list[TrainingRow]:
    generator = np.random.default_rng(seed)
    rows = []
    for length in generator.integers(2, 20, num_rows):
        mask = np.arange(length) >= generator.integers(1, length)
        rows.append(TrainingRow(token_ids=generator.integers(0, VOCAB, length).astype(np.int32), loss_mask=mask))
    return rows


def rollout_groups(seed: int, sizes: Sequence[int]) -> list[RowGroup]:
    """Groups of rollouts with signals, as the driver deals them: the rollouts are their own references."""
    generator = np.random.default_rng(seed)
    groups = []
    for number, size in enumerate(sizes):
        rollouts = [random_rollout(generator, f"p{number}") for _ in range(size)]
        scalars = tuple(
            Row(
                group=0,
                index=i,
                num_tokens=len(rollout.token_ids),
                num_loss_tokens=int(rollout.loss_mask.sum()),
                signal=float(generator.normal()),
            )
            for i, rollout in enumerate(rollouts)
        )
        groups.append(RowGroup(rows=Reference(rollouts), scalars=scalars))
    return groups


def random_rollout(generator: np.random.Generator, prompt_id: str, version: int = 0) -> Rollout:
    length = int(generator.integers(3, 20))
    mask = np.arange(length) >= generator.integers(1, length)
    return Rollout(
        prompt_id=prompt_id,
        token_ids=generator.integers(0, VOCAB, length).astype(np.int32),
        loss_mask=mask,
        logprobs=np.where(mask, -generator.random(length), 0.0).astype(np.float32),
        versions=np.where(mask, version, -1).astype(np.int32),
        stop="stop",
        text="text",
    )


def make_prompt(number: int) -> Prompt:
    return Prompt(
        id=f"p{number}",
        messages=[{"role": "user", "content": f"{number}?"}],
        token_ids=(3, 4),
        source=f"rows.jsonl:{number + 1}",
        meta={"answer": str(number)},
    )


def make_info(
    score: Score | Failure,
    *,
    number: int = 0,
    sample: int = 0,
    version: int = 0,
    stop: str = "stop",
    num_loss_tokens: int = 3,
) -> EpisodeInfo:
    """Of an episode with one row."""
    episode = f"p{number}/0/{sample}"
    row = Row(group=0, index=sample, num_tokens=2 + num_loss_tokens, num_loss_tokens=num_loss_tokens, episode=episode)
    return EpisodeInfo(
        id=episode,
        prompt_id=f"p{number}",
        source=f"rows.jsonl:{number + 1}",
        rows=(row,),
        score=score,
        stop=stop,
        versions=(version, version) if num_loss_tokens else (-1, -1),
        trained=True,
    )


def make_group(number: int, infos: Sequence[EpisodeInfo], rollouts: Any = None) -> Group:
    return Group(prompt=make_prompt(number), rollouts=Reference(rollouts), infos=infos)


def make_report(
    step: int, rewards: Sequence[float] = (1.0, 0.0), stats: Stats | None = None, rollouts: Any = None
) -> StepReport:
    infos = [make_info(Score(value=reward), sample=i, version=step) for i, reward in enumerate(rewards)]
    groups = [make_group(0, infos, rollouts)]
    return StepReport(step=step, groups=groups, rejected=[], stats=stats or Stats(), seconds={"step": 1.0}, use={})
