"""The offline loop: which rows a step has, that it learns, and that it goes on where it stopped."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms.sft import SFTLoss
from rlhf.runtimes.configs import OptimizerConfig, Schedule
from rlhf.train.learner import Learner
from rlhf.train.offline import (
    ColumnFunction,
    Corpus,
    OfflineTrainConfig,
    OfflineTrainer,
    columns_of_rows,
    rows_of_step,
)
from rlhf.train.reference import LiveReference
from rlhf.types import InputError
from tests.unit.train.fakes import PACKING, READOUT, FakeBackend, row_logprobs, supervised_rows


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_steps_cover_each_epoch_once(num_rows, rows_per_step, seed):
    num_epochs = 3
    num_steps = -(-num_epochs * num_rows // rows_per_step)
    rows = [i for step in range(num_steps) for i in rows_of_step(num_rows, rows_per_step, step, seed)]
    assert len(rows) == num_steps * rows_per_step
    for epoch in range(num_epochs):
        assert Counter(rows[epoch * num_rows : (epoch + 1) * num_rows]) == Counter(range(num_rows))


MEASURED = ("seconds/step", "tokens_per_second", "memory_bytes/policy")


def test_the_order_follows_from_seed_and_epoch():
    def epoch_of(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(rows_of_step(20, 20, epoch, seed))

    assert epoch_of(0, 0) == epoch_of(0, 0)
    assert len({epoch_of(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize(("num_steps", "num_rows", "expected"), [(7, 100, 7), (None, 8, 2), (None, 9, 3), (None, 1, 1)])
def test_no_number_of_steps_means_one_pass(num_steps, num_rows, expected):
    assert OfflineTrainConfig(num_steps=num_steps, rows_per_step=4).steps_over(num_rows) == expected


@pytest.mark.parametrize("keys", [{"rows_per_step": 0}, {"num_steps": 0}, {"num_steps": -3}])
def test_values_out_of_range_are_refused(keys):
    config = {"rows_per_step": 64, "num_steps": None, **keys}
    sentence = f"train.rows_per_step={config['rows_per_step']}, train.num_steps={config['num_steps']}: at least 1"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        OfflineTrainConfig(**keys)


def trainer_of(backend: FakeBackend, num_steps: int, column_functions: Sequence[ColumnFunction] = ()) -> OfflineTrainer:
    return OfflineTrainer(
        learner=Learner(backend, READOUT, packed=True),
        loss=SFTLoss(),
        optimizer=OptimizerConfig(lr=2.0, schedule=Schedule.linear, final_lr_fraction=0.5),
        config=OfflineTrainConfig(num_steps=num_steps, rows_per_step=4),
        packing=PACKING,
        seed=5,
        column_functions=column_functions,
    )


def corpus_of(num_rows: int) -> Corpus:
    return Corpus(units=[(row,) for row in supervised_rows(0, num_rows)])


def run(backend: FakeBackend, num_steps: int, *, next_step: int = 0, stop: int | None = None) -> list[dict[str, float]]:
    steps = trainer_of(backend, num_steps).fit(corpus_of(10), next_step=next_step)
    return list(itertools.islice(steps, stop or num_steps))


def untimed(figures: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {name: v for name, v in row.items() if name not in ("seconds/step", "tokens_per_second", "memory_bytes/policy")}
        for row in figures
    ]


def test_training_lowers_the_loss_of_all_rows():
    def loss_of_all() -> float:
        learnt = [
            value.item()
            for row in supervised_rows(0, 10)
            for value, on in zip(row_logprobs(backend.model, row.token_ids, 0.8), row.loss_mask[1:], strict=True)
            if on
        ]
        return -sum(learnt) / len(learnt)

    backend = FakeBackend()
    before = loss_of_all()
    figures = run(backend, 30)
    assert loss_of_all() < 0.5 * before
    assert [row["step"] for row in figures] == list(range(30))
    assert [row["train/lr"] for row in figures] == pytest.approx(backend.learning_rates)
    assert figures[0]["train/lr"] == 2.0
    assert figures[-1]["train/lr"] == 1.0
    assert set(figures[0]) == {
        "step", "train/lr", "train/loss", "train/gradient_norm", "train/skipped_updates", "train/entropy",
        "train/accuracy", "train/exact_match",
        "tokens", "tokens_per_second", "seconds/step", "memory_bytes/policy",
    }  # fmt: skip
    first = rows_of_step(10, 4, 0, 5)
    assert figures[0]["tokens"] == sum(row.num_tokens for i, row in enumerate(supervised_rows(0, 10)) if i in first)
    assert figures[0]["tokens_per_second"] == pytest.approx(figures[0]["tokens"] / figures[0]["seconds/step"])


def test_a_resumed_run_has_the_same_steps():
    whole, stopped = FakeBackend(), FakeBackend()
    expected = run(whole, 9)
    first = run(stopped, 9, stop=4)
    resumed = FakeBackend(model=stopped.model)
    assert untimed(first + run(resumed, 9, next_step=4)) == untimed(expected)
    assert len(resumed.gradients) == 5
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_evaluation_gives_the_loss_of_all_rows_and_learns_nothing():
    backend = FakeBackend()
    rows = supervised_rows(0, 10)
    learnt = [
        value.item()
        for row in rows
        for value, on in zip(row_logprobs(backend.model, row.token_ids, 0.8), row.loss_mask[1:], strict=True)
        if on
    ]
    figures = trainer_of(backend, 1).evaluate(corpus_of(10))
    assert figures["loss"] == pytest.approx(-sum(learnt) / len(learnt), rel=1e-5)
    assert backend.gradients == []
    assert all(parameter.grad is None for parameter in backend.model.parameters())


@given(st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_rows_are_scored_in_their_order_however_they_are_packed(rows_per_batch, num_rows):
    backend = FakeBackend()
    rows = supervised_rows(1, num_rows)
    columns = columns_of_rows(Learner(backend, READOUT, packed=True), rows, PACKING, rows_per_batch=rows_per_batch)
    for row, column in zip(rows, columns, strict=True):
        expected = [0.0, *(value.item() for value in row_logprobs(backend.model, row.token_ids, 0.8))] * row.loss_mask
        assert column.tolist() == pytest.approx(list(expected), abs=1e-5)


def test_what_is_scored_reaches_the_loss_as_a_column():
    backend = FakeBackend()
    learner = Learner(backend, READOUT, packed=True)
    trainer_of(backend, 1, [LiveReference(learner)]).evaluate(corpus_of(10))
    scored = [micro for micro in backend.forwards if micro.ref_logprobs is not None]
    assert sum(micro.num_rows for micro in scored) == 10
    for micro in scored:
        own = READOUT(backend.model, micro).logprobs
        torch.testing.assert_close(micro.column("ref_logprobs"), own.detach())
