"""The preference losses compared with TRL's: value and gradient on the same rows under the same two models.

    pip install --no-deps --target build/trl trl
    PYTHONPATH=$PWD:build/trl python benchmarks/trl_losses.py

The models are bigrams: a table of logits by the previous token. TRL's trainers are created without their constructors,
with only the attributes that their loss reads; their own code then computes the loss. Rows note different definitions.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from rlhf.algorithms.base import Loss, ScoreOutputs, TokenOutputs, TokenStatistics
from rlhf.algorithms.dpo import DPOConfig
from rlhf.algorithms.ipo import IPOConfig
from rlhf.algorithms.kto import KTOConfig
from rlhf.algorithms.orpo import ORPOConfig
from rlhf.algorithms.reward_model import RewardModelConfig
from rlhf.algorithms.simpo import SimPOConfig
from rlhf.ops.microbatch import MicroBatch
from rlhf.stages.console import CONSOLE, show_table
from rlhf.types import Row

VOCABULARY, NUM_PAIRS, IGNORED = 50, 8, -100
SAME = "same"


@dataclass(frozen=True)
class Rows:
    """Prompts and responses: chosen, rejected, chosen, rejected, ..."""

    prompts: list[list[int]]
    responses: list[list[int]]
    scores: list[float]

    @property
    def ids(self) -> list[list[int]]:
        return [p + r for p, r in zip(self.prompts, self.responses, strict=True)]

    @property
    def mask(self) -> list[list[bool]]:
        return [[False] * len(p) + [True] * len(r) for p, r in zip(self.prompts, self.responses, strict=True)]

    @property
    def scalars(self) -> list[Row]:
        return [
            Row(group=0, index=i, num_tokens=len(mask), num_loss_tokens=sum(mask)) for i, mask in enumerate(self.mask)
        ]

    def take(self, indices: Sequence[int]) -> Rows:
        return Rows(*([field[i] for i in indices] for field in (self.prompts, self.responses, self.scores)))

    @property
    def by_side(self) -> Rows:
        """Return the rows in TRL's order: all chosen rows, then all rejected ones."""
        return self.take([*range(0, len(self.ids), 2), *range(1, len(self.ids), 2)])

    @property
    def mismatched(self) -> Rows:
        """Return mismatched rows like TRL's KTO: each prompt with the previous response."""
        return replace(self, responses=[self.responses[-1], *self.responses[:-1]])


def draw_rows(seed: int, *, ragged: bool) -> Rows:
    """Draw rows; if not `ragged`, prompts have one token and responses equal length."""
    generator = random.Random(seed)

    def tokens(least: int, most: int) -> list[int]:
        return [generator.randrange(VOCABULARY) for _ in range(generator.randint(least, most) if ragged else least)]

    prompts = [tokens(1, 9) for _ in range(NUM_PAIRS)]
    return Rows(
        prompts=[prompt for prompt in prompts for _ in range(2)],
        responses=[tokens(4, 14) for _ in range(2 * NUM_PAIRS)],
        scores=[float(generator.random() < 0.6) for _ in range(2 * NUM_PAIRS)],
    )


def padded(rows: Sequence[Sequence[float]], padding: float) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)


def token_logprobs(table: Tensor, ids: Tensor) -> Tensor:
    """Return logprobs [B, T] under the bigram model `table` [V, V]; 0 for the first token, which is not predicted."""
    chosen = table.log_softmax(-1)[ids[:, :-1], ids[:, 1:]]
    return F.pad(chosen, (1, 0))


def sequence_logprobs(table: Tensor, rows: Rows) -> Tensor:
    return (token_logprobs(table, padded(rows.ids, 0)) * padded(rows.mask, False)).sum(-1)


# Ours


def ours(loss: Loss, rows: Rows, reference: Tensor, baseline: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Return the loss of a whole batch as the learner computes it: the sum divided by the count."""

    def value(table: Tensor) -> Tensor:
        known = token_logprobs(reference, padded(rows.ids, 0)).numpy()
        columns = {
            "ref_logprobs": np.concatenate([row[: len(ids)] for row, ids in zip(known, rows.ids, strict=True)]),
            "kl_baseline": np.full(sum(map(len, rows.ids)), baseline, dtype=np.float32),
        }
        ids, mask = [np.array(row) for row in rows.ids], [np.array(row) for row in rows.mask]
        batch = MicroBatch.from_rows(ids, mask, rows.scores, columns, packed=False)
        logprobs = token_logprobs(table, batch.token_ids)
        statistics = TokenStatistics(entropy=torch.zeros_like(logprobs), first_choice=torch.zeros_like(batch.loss_mask))
        outputs = TokenOutputs(logprobs, statistics)
        total, _ = loss(outputs, batch)
        return total / loss.count(rows.scalars)

    return value


def our_scores(loss: Loss, rows: Rows) -> Callable[[Tensor], Tensor]:
    """Return a loss of scores; a score is the first column of the table in the row of the sequence's last token."""

    def value(table: Tensor) -> Tensor:
        ids = [np.array(row) for row in rows.ids]
        last = [np.arange(len(row)) == len(row) - 1 for row in rows.ids]
        batch = MicroBatch.from_rows(ids, last, rows.scores, {}, packed=False)
        total, _ = loss(ScoreOutputs(scores=table[batch.token_ids, 0] * batch.loss_mask), batch)
        return total / loss.count(rows.scalars)

    return value


# TRL's


def bare(trainer: type, **attributes: Any) -> Any:
    """Return a trainer for one CPU process with only the attributes that its loss needs."""
    made = object.__new__(trainer)
    alone = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    common = {
        "accelerator": alone,
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "is_encoder_decoder": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in {**common, **attributes}.items():
        setattr(made, name, value)
    return made


def fused(table: Tensor) -> Callable[..., SimpleNamespace]:
    """Return a model like TRL's fused head: logprobs of the labels only, and statistics that no loss reads."""

    def model(input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        logprobs = (token_logprobs(table, input_ids) * (labels != IGNORED))[:, 1:]
        unread = torch.zeros_like(logprobs)
        return SimpleNamespace(log_probs=logprobs, entropy=unread, mean_logits=unread, is_top1=unread.bool())

    return model


def inputs_of(rows: Rows, prefix: str = "") -> dict[str, Tensor]:
    return {
        f"{prefix}input_ids": padded(rows.ids, 0),
        f"{prefix}attention_mask": padded([[1] * len(row) for row in rows.ids], 0),
        f"{prefix}completion_mask": padded(rows.mask, False).long(),
    }


def trl_dpo(losses: Mapping[str, float], rows: Rows, reference: Tensor, **keys: float) -> Callable[[Tensor], Tensor]:
    """`losses` are TRL's loss types and their weights."""
    trainer = bare(
        DPOTrainer,
        loss_types=list(losses),
        loss_weights=list(losses.values()),
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        **{"label_smoothing": 0.0, **keys},
    )
    rows = rows.by_side
    chosen, rejected = sequence_logprobs(reference, rows).chunk(2)
    inputs = {**inputs_of(rows), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    return lambda table: trainer._compute_loss(fused(table), inputs, False)


def trl_cpo_of_ratios(loss_type: str, rows: Rows, reference: Tensor, **keys: float) -> Callable[[Tensor], Tensor]:
    """Return TRL's CPO loss on log ratios: CPO's objectives are DPO's without a reference, which the ratios add."""
    trainer = bare(CPOTrainer, loss_type=loss_type, alpha=0.0, **{"label_smoothing": 0.0, **keys})
    rows = rows.by_side

    def value(table: Tensor) -> Tensor:
        ratios = sequence_logprobs(table, rows) - sequence_logprobs(reference, rows)
        return trainer.cpo_loss(*ratios.chunk(2))[0].mean()

    return value


def trl_pairs(trainer: Any, rows: Rows) -> Callable[[Tensor], Tensor]:
    """Return the whole loss of ORPO or SimPO, starting from logits."""
    batch: dict[str, Tensor] = {}
    for side, offset in (("chosen", 0), ("rejected", 1)):
        part = rows.take(range(offset, len(rows.ids), 2))
        labels = [
            [token if on else IGNORED for token, on in zip(*pair, strict=True)]
            for pair in zip(part.ids, part.mask, strict=True)
        ]
        batch |= {**inputs_of(part, f"{side}_"), f"{side}_labels": padded(labels, IGNORED)}
        del batch[f"{side}_completion_mask"]

    def value(table: Tensor) -> Tensor:
        return trainer.get_batch_loss_metrics(lambda ids, **_: SimpleNamespace(logits=table[ids]), batch)[0]

    return value


def trl_kto(rows: Rows, reference: Tensor, num_microbatches: int, **keys: float) -> Callable[[Tensor], Tensor]:
    """Return the mean over micro-batches, as in gradient accumulation; each has its own reference point."""
    trainer = bare(KTOTrainer, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **keys)
    size = len(rows.ids) // num_microbatches
    parts = [rows.take(range(start, start + size)) for start in range(0, len(rows.ids), size)]

    def value(table: Tensor) -> Tensor:
        losses = []
        for part in parts:
            other = part.mismatched
            inputs = {
                **inputs_of(part),
                **inputs_of(other, "KL_"),
                "label": torch.tensor(part.scores).bool(),
                "ref_logps": sequence_logprobs(reference, part),
                "ref_KL_logps": sequence_logprobs(reference, other),
            }
            losses.append(trainer._compute_loss(fused(table), inputs, False))
        return torch.stack(losses).mean()

    return value


def trl_reward(rows: Rows, *, margin: bool, centring_coef: float | None) -> Callable[[Tensor], Tensor]:
    trainer = bare(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=centring_coef))
    rows = rows.by_side
    last = torch.tensor([ids[-1] for ids in rows.ids])
    better, worse = torch.tensor(rows.scores).chunk(2)

    def value(table: Tensor) -> Tensor:
        inputs = {"attention_mask": torch.ones(1), **({"margin": better - worse} if margin else {})}
        return trainer.compute_loss(lambda **_: SimpleNamespace(logits=table[last, :1]), inputs)

    return value


# Side by side


def baseline_of(rows: Rows, policy: Tensor, reference: Tensor) -> float:
    """Return KTO's z0 over the whole batch, as the learner computes it."""
    gains = sequence_logprobs(policy, rows.mismatched) - sequence_logprobs(reference, rows.mismatched)
    return max(gains.mean().item(), 0.0)


def compare(
    name: str,
    definition: str,
    mine: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], Tensor],
    table: Tensor,
) -> tuple[str, ...]:
    values, gradients = [], []
    for loss in (mine, theirs):
        leaf = table.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        values.append(value.item())
        gradients.append(leaf.grad)
    values_apart = abs(values[0] - values[1]) / abs(values[1])
    gradients_apart = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    return name, f"{values[0]:.7f}", f"{values[1]:.7f}", f"{values_apart:.0e}", f"{gradients_apart:.0e}", definition


def pairs_with_reference(ragged: Rows, even: Rows, policy: Tensor, reference: Tensor) -> list[tuple[str, ...]]:
    def row(name: str, definition: str, config: DPOConfig | IPOConfig, theirs: Callable, rows: Rows = ragged) -> tuple:
        return compare(name, definition, ours(config.build(), rows, reference), theirs, policy)

    smoothed = DPOConfig(beta=0.1, label_smoothing=0.1)
    assisted = DPOConfig(beta=0.1, sft_coef=0.2)
    sft = {"sigmoid": 1.0, "sft": 0.2}
    return [
        row("DPO", SAME, DPOConfig(beta=0.1), trl_dpo({"sigmoid": 1.0}, ragged, reference, beta=0.1)),
        row(
            "DPO, label smoothing 0.1",
            "same; by TRL's CPO on log ratios, since its DPO no longer has this loss",
            smoothed,
            trl_cpo_of_ratios("sigmoid", ragged, reference, beta=0.1, label_smoothing=0.1),
        ),
        row(
            "DPO, label smoothing 0.1",
            "TRL's `robust` is another loss: unbiased under flipped labels, not conservative",
            smoothed,
            trl_dpo({"robust": 1.0}, ragged, reference, beta=0.1, label_smoothing=0.1),
        ),
        row("DPO with SFT, equal lengths", SAME, assisted, trl_dpo(sft, even, reference, beta=0.1), even),
        row(
            "DPO with SFT",
            "TRL: mean over all chosen tokens of a micro-batch; ours of each response, then of responses",
            assisted,
            trl_dpo(sft, ragged, reference, beta=0.1),
        ),
        row(
            "IPO, per token",
            SAME,
            IPOConfig(beta=0.5, per_token=True),
            trl_dpo({"ipo": 1.0}, ragged, reference, beta=0.5),
        ),
        row(
            "IPO, eq. 17",
            "same; by TRL's CPO on log ratios",
            IPOConfig(beta=0.1),
            trl_cpo_of_ratios("ipo", ragged, reference, beta=0.1),
        ),
        row(
            "IPO, eq. 17",
            "TRL's DPO trainer: log ratios per token, which is our per_token=true",
            IPOConfig(beta=0.1),
            trl_dpo({"ipo": 1.0}, ragged, reference, beta=0.1),
        ),
    ]


def single_rows(rows: Rows, policy: Tensor, reference: Tensor) -> list[tuple[str, ...]]:
    weights = {"beta": 0.1, "desirable_weight": 1.3, "undesirable_weight": 0.8}
    loss = KTOConfig(**weights).build()
    table = []
    # The mean log ratio changes its sign with the roles: once z0 is positive, once it is clamped to 0.
    for one, other in ((policy, reference), (reference, policy)):
        baseline = baseline_of(rows, one, other)
        mine = ours(loss, rows, other, baseline)
        table.append(compare(f"KTO, z0 = {baseline:.4f}", SAME, mine, trl_kto(rows, other, 1, **weights), one))
        if baseline:
            definition = "TRL: z0 of each micro-batch; ours of the whole batch, however it is split"
            table.append(compare("KTO, 4 micro-batches", definition, mine, trl_kto(rows, other, 4, **weights), one))
    return table


def pairs_without_reference(ragged: Rows, even: Rows, policy: Tensor) -> list[tuple[str, ...]]:
    # ORPOTrainer and CPOTrainer name the same padding differently.
    orpo = bare(ORPOTrainer, beta=0.1, padding_value=0)
    keys = {"beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0, "alpha": 0.0, "label_smoothing": 0.0}
    simpo = bare(CPOTrainer, loss_type="simpo", pad_token_id=0, **keys)
    ratio = ORPOConfig(beta=0.1, sft_coef=0.0).build()

    def trl_odds_ratio(table: Tensor) -> Tensor:
        rows = ragged.by_side
        means = sequence_logprobs(table, rows) / torch.tensor([sum(mask) for mask in rows.mask])
        return -orpo.odds_ratio_loss(*means.chunk(2))[0].mean()

    definition = "TRL: likelihood of prompt and response, mean over all tokens of a micro-batch; ours of each response"
    return [
        compare("ORPO, odds ratio alone", SAME, ours(ratio, ragged, policy), trl_odds_ratio, policy),
        compare(
            "ORPO, equal lengths, prompt of one token",
            SAME,
            ours(ORPOConfig(beta=0.1).build(), even, policy),
            trl_pairs(orpo, even),
            policy,
        ),
        compare(
            "ORPO", definition, ours(ORPOConfig(beta=0.1).build(), ragged, policy), trl_pairs(orpo, ragged), policy
        ),
        compare(
            "SimPO",
            SAME,
            ours(SimPOConfig(beta=2.0, gamma=1.0).build(), ragged, policy),
            trl_pairs(simpo, ragged),
            policy,
        ),
    ]


def reward_models(rows: Rows, policy: Tensor) -> list[tuple[str, ...]]:
    table = []
    for name, margin, centring in (
        ("Bradley-Terry", False, 0.0),
        ("Bradley-Terry, margin", True, 0.0),
        ("Bradley-Terry, centring 0.01", False, 0.01),
        ("Bradley-Terry, both", True, 0.01),
    ):
        loss = RewardModelConfig(use_margin=margin, centring_coef=centring).build()
        theirs = trl_reward(rows, margin=margin, centring_coef=centring or None)
        table.append(compare(name, SAME, our_scores(loss, rows), theirs, policy))
    return table


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = 1.5 * torch.randn(2, VOCABULARY, VOCABULARY, generator=generator)
    ragged, even = draw_rows(0, ragged=True), draw_rows(1, ragged=False)
    table = [
        *pairs_with_reference(ragged, even, policy, reference),
        *single_rows(ragged, policy, reference),
        *pairs_without_reference(ragged, even, policy),
        *reward_models(ragged, policy),
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "torch"))
    CONSOLE.print(f"{versions}; {NUM_PAIRS} pairs, single precision")
    columns = ("loss", "ours", "TRL", "apart", "gradients apart", "definition")
    show_table("Losses on the same tensors; differences relative, of gradients by their norm", columns, table)


if __name__ == "__main__":
    main()
