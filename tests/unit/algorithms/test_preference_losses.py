"""Methods that learn a policy from preferences, row by row in double precision, and whatever the split."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf.algorithms.base import Loss, Mean
from rlhf.algorithms.dpo import DPOConfig
from rlhf.algorithms.ipo import IPOConfig
from rlhf.algorithms.kto import KTOConfig
from rlhf.algorithms.orpo import ORPOConfig
from rlhf.algorithms.preference import PreferenceConfig
from rlhf.algorithms.simpo import SimPOConfig
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import InputError
from tests.unit.algorithms.layouts import Sequences, lay_out, loss_and_gradient, make_sequences

COLUMNS = ("ref_logprobs", "kl_baseline")
LENGTHS = [5, 9, 2, 7, 4, 4]
CONFIGS: dict[str, PreferenceConfig] = {
    "dpo": DPOConfig(beta=0.3),
    "conservative_dpo": DPOConfig(beta=0.3, label_smoothing=0.15, sft_coef=0.2),
    "ipo": IPOConfig(beta=0.2, sft_coef=0.1),
    "ipo_per_token": IPOConfig(beta=0.8, per_token=True),
    "kto": KTOConfig(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7),
    "kto_sft": KTOConfig(beta=0.3, sft_coef=0.4),
    "orpo": ORPOConfig(beta=0.25),
    "simpo": SimPOConfig(),
    "simpo_sft": SimPOConfig(beta=2.5, gamma=0.3, sft_coef=0.3),
}


def responses(seed: int, lengths: Sequence[int]) -> Sequences:
    """Rows of at least two tokens, the last of which is learnt and others are or are not."""
    mask = make_sequences(seed, lengths).mask
    return make_sequences(seed, lengths, [[*row[:-1], True] for row in mask])


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


class Naive:
    """A row's numbers in double precision, from its loss tokens one after the other."""

    def __init__(self, sequences: Sequences, row: int) -> None:
        self.tokens = [t for t, learnt in enumerate(sequences.mask[row]) if learnt]
        self.leaf = torch.tensor(sequences.logprobs[row], dtype=torch.float64, requires_grad=True)
        self.logprob, self.ratio = torch.zeros(2, dtype=torch.float64)
        for t in self.tokens:
            self.logprob = self.logprob + self.leaf[t]
            self.ratio = self.ratio + self.leaf[t] - sequences.ref_logprobs[row][t]
        self.mean = self.logprob / len(self.tokens)
        self.label = sequences.scores[row]


def naive_pair(config: PreferenceConfig, chosen: Naive, rejected: Naive) -> Tensor:
    match config:
        case DPOConfig():
            right = sigmoid(config.beta * (chosen.ratio - rejected.ratio))
            loss = -(1 - config.label_smoothing) * right.log() - config.label_smoothing * (1 - right).log()
        case IPOConfig(per_token=False):
            loss = (chosen.ratio - rejected.ratio - 1 / (2 * config.beta)) ** 2
        case IPOConfig(per_token=True):
            margin = chosen.ratio / len(chosen.tokens) - rejected.ratio / len(rejected.tokens)
            loss = (margin - 1 / (2 * config.beta)) ** 2
        case ORPOConfig():
            odds = [side.mean.exp() / (1 - side.mean.exp()) for side in (chosen, rejected)]
            loss = -config.beta * sigmoid((odds[0] / odds[1]).log()).log()
        case SimPOConfig():
            loss = -sigmoid(config.beta * (chosen.mean - rejected.mean) - config.gamma).log()
    return loss - config.sft_coef * chosen.mean


def naive_row(config: KTOConfig, row: Naive, baseline: float) -> Tensor:
    gain = config.beta * (row.ratio - baseline)
    if row.label == 1:
        return config.desirable_weight * (1 - sigmoid(gain)) - config.sft_coef * row.mean
    return config.undesirable_weight * (1 - sigmoid(-gain))


def naive(config: PreferenceConfig, sequences: Sequences) -> tuple[float, list[list[float]]]:
    """The mean over pairs or rows, and its gradient per sequence."""
    rows = [Naive(sequences, i) for i in range(len(sequences.mask))]
    if isinstance(config, KTOConfig):
        losses = [naive_row(config, row, sequences.kl_baseline[0][0]) for row in rows]
    else:
        losses = [naive_pair(config, rows[i], rows[i + 1]) for i in range(0, len(rows), 2)]
    mean = sum(losses) / len(losses)
    mean.backward()
    return mean.item(), [row.leaf.grad.tolist() for row in rows]


def assert_gradients(found: list[list[float]], expected: list[list[float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradient_equal_rows_one_by_one(name, packed):
    config, sequences = CONFIGS[name], responses(0, LENGTHS)
    expected, expected_gradients = naive(config, sequences)
    loss, gradients, _ = loss_and_gradient(config.build(), sequences, [range(6)], COLUMNS, packed=packed)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_gradients(gradients, expected_gradients)


@st.composite
def split(draw: Callable) -> tuple[list[int], list[list[int]]]:
    """Lengths of the rows of one to five pairs, and the pairs dealt to micro-batches."""
    num_pairs = draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(2, 7), min_size=2 * num_pairs, max_size=2 * num_pairs))
    packs: dict[int, list[int]] = {}
    for pair in draw(st.permutations(range(num_pairs))):
        packs.setdefault(draw(st.integers(0, 2)), []).extend([2 * pair, 2 * pair + 1])
    return lengths, list(packs.values())


@pytest.mark.parametrize("name", CONFIGS)
@given(split(), st.booleans(), st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_nothing_depends_on_the_split(name, split, packed, seed):
    """The same loss, gradients and metrics however pairs are dealt to micro-batches, end to end or padded."""
    lengths, packs = split
    loss, sequences = CONFIGS[name].build(), responses(seed, lengths)
    total, gradients, metrics = loss_and_gradient(loss, sequences, [range(len(lengths))], COLUMNS, packed=False)
    found = loss_and_gradient(loss, sequences, packs, COLUMNS, packed=packed)
    assert found[0] == pytest.approx(total, rel=1e-4, abs=1e-6)
    assert_gradients(found[1], gradients)
    assert found[2] == pytest.approx(metrics, rel=1e-4, abs=1e-5)


def test_metrics_of_pairs_are_counted_in_pairs():
    sequences = responses(3, LENGTHS)
    rows = [Naive(sequences, i) for i in range(6)]
    for name, reward in (("dpo", lambda row: 0.3 * row.ratio), ("simpo", lambda row: 2.0 * row.mean)):
        chosen, rejected = ([reward(row).item() for row in side] for side in (rows[0::2], rows[1::2]))
        found = means(CONFIGS[name].build(), sequences)
        assert found.pop("entropy") == pytest.approx(
            sum(sequences.logprobs[i][t] ** 2 for i, row in enumerate(rows) for t in row.tokens), rel=1e-4
        )
        assert found == pytest.approx(
            {
                "chosen_reward": sum(chosen) / 3,
                "rejected_reward": sum(rejected) / 3,
                "reward_margin": (sum(chosen) - sum(rejected)) / 3,
                "reward_accuracy": sum(c > r for c, r in zip(chosen, rejected, strict=True)) / 3,
                "chosen_logprobs": sum(row.logprob.item() for row in rows[0::2]) / 3,
                "rejected_logprobs": sum(row.logprob.item() for row in rows[1::2]) / 3,
            },
            rel=1e-4,
        )


def test_metrics_of_labelled_rows_are_counted_per_label():
    sequences = responses(4, LENGTHS)
    sequences.scores = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    rows = [Naive(sequences, i) for i in range(6)]
    good, bad = [row for row in rows if row.label == 1], [row for row in rows if row.label == 0]
    found = means(KTOConfig(beta=0.3).build(), sequences)
    del found["entropy"]
    assert found == pytest.approx(
        {
            "chosen_reward": sum(0.3 * row.ratio.item() for row in good) / 4,
            "rejected_reward": sum(0.3 * row.ratio.item() for row in bad) / 2,
            "chosen_logprobs": sum(row.logprob.item() for row in good) / 4,
            "rejected_logprobs": sum(row.logprob.item() for row in bad) / 2,
            "reward_accuracy": sum((row.ratio.item() > 0.3) == (row.label == 1) for row in rows) / 6,
            "kl_baseline": 0.3,
        },
        rel=1e-4,
    )


def means(loss: Loss, sequences: Sequences) -> dict[str, float]:
    batch, outputs, _ = lay_out(sequences, range(len(sequences.mask)), COLUMNS, packed=True)
    _, metrics = loss(outputs, batch)
    return {
        name: value.total.item() / value.weight if isinstance(value, Mean) else value.item()
        for name, value in metrics.items()
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_the_empty_batch_adds_nothing(name):
    """A rank with fewer packs takes part with zero loss and zero gradient, and metrics that weigh nothing."""
    _, outputs, leaves = lay_out(responses(5, [2]), [0], [], packed=True)
    loss_sum, metrics = CONFIGS[name].build()(outputs, MicroBatch.empty())
    loss_sum.backward()
    assert loss_sum.item() == 0.0
    assert leaves[0].grad.tolist() == [0.0, 0.0]
    for value in metrics.values():
        total, weight = (value.total, value.weight) if isinstance(value, Mean) else (value, 0)
        assert (total.item(), weight) == (0.0, 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_values_outside_the_mask_do_not_matter(name):
    loss, sequences = CONFIGS[name].build(), responses(6, LENGTHS)
    batch, outputs, _ = lay_out(sequences, range(6), COLUMNS, packed=False)
    expected, _ = loss(outputs, batch)
    for values in (outputs.logprobs, outputs.entropy, *(batch.column(column) for column in COLUMNS)):
        values.data[~batch.loss_mask] = torch.nan
    found, metrics = loss(outputs, batch)
    assert found.item() == expected.item()
    assert all(math.isfinite(v.total.item() if isinstance(v, Mean) else v.item()) for v in metrics.values())


def test_counts_and_references():
    rows = responses(7, LENGTHS).rows
    for name, config in CONFIGS.items():
        assert config.build().count(rows) == (6 if name.startswith("kto") else 3)
        assert config.reads_reference is name.startswith(("dpo", "conservative", "ipo", "kto"))


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (DPOConfig, "beta", 0.0),
        (IPOConfig, "beta", -1.0),
        (ORPOConfig, "beta", math.inf),
        (DPOConfig, "sft_coef", -0.1),
        (DPOConfig, "label_smoothing", 0.5),
        (DPOConfig, "label_smoothing", -0.1),
        (KTOConfig, "beta", math.nan),
        (KTOConfig, "desirable_weight", 0.0),
        (KTOConfig, "undesirable_weight", math.nan),
        (SimPOConfig, "beta", 0.0),
        (SimPOConfig, "gamma", -0.5),
    ],
)
def test_a_value_that_makes_no_sense_is_named(config, key, value):
    with pytest.raises(InputError, match=rf"^algorithm\.{key}={value}: must"):
        config(**{key: value})
