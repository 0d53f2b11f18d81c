"""The reference of offline methods: stored and found again, refused for other rows; KTO's baseline."""

from pathlib import Path

import numpy as np
import pytest

from rlhf.train.batching import Packing
from rlhf.train.learner import Learner
from rlhf.train.offline import Corpus, columns_of_rows, one_minibatch
from rlhf.train.reference import (
    KLBaseline,
    LiveReference,
    ReferenceConfig,
    rows_of,
    store,
    stored_logprobs,
    with_reference,
)
from rlhf.types import InputError
from tests.unit.train.fakes import PACKING, READOUT, FakeBackend, TinyModel, row_logprobs, supervised_rows


def corpora() -> list[Corpus]:
    rows = supervised_rows(3, 6)
    pairs = Corpus(units=[(rows[0], rows[1]), (rows[2], rows[3])])
    return [pairs, Corpus(units=[(rows[4],)], mismatched_rows=[rows[5]])]


def test_stored_logprobs_come_back_to_their_rows(tmp_path: Path) -> None:
    rows = rows_of(corpora())
    learner = Learner(FakeBackend(), READOUT, packed=True)
    logprobs = columns_of_rows(learner, rows, PACKING, rows_per_batch=4)
    assert stored_logprobs(tmp_path / "reference", rows) is None
    store(tmp_path / "reference", rows, logprobs, {"parents": []})
    found = stored_logprobs(tmp_path / "reference", rows)
    assert found is not None
    pairs, labelled = with_reference(corpora(), found)
    scored = [*(row for unit in pairs.units for row in unit), labelled.units[0][0], labelled.mismatched_rows[0]]
    for row, expected in zip(scored, logprobs, strict=True):
        np.testing.assert_array_equal(row.columns["ref_logprobs"], expected)


def test_logprobs_of_other_rows_are_refused(tmp_path: Path) -> None:
    rows = supervised_rows(3, 2)
    store(tmp_path / "reference", rows, [np.zeros(row.num_tokens, np.float32) for row in rows], {})
    with pytest.raises(InputError, match="these logprobs are of other rows, so the data changed since the run began"):
        stored_logprobs(tmp_path / "reference", supervised_rows(4, 2))


def expected_baseline(policy: TinyModel, reference: TinyModel, rows: list) -> float:
    total = 0.0
    for row in rows:
        ours, theirs = (row_logprobs(model, row.token_ids, 0.8) for model in (policy, reference))
        total += sum((a - b).item() for a, b, on in zip(ours, theirs, row.loss_mask[1:], strict=True) if on)
    return max(total / len(rows), 0.0)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("seeds", [(1, 2), (2, 1)])
def test_the_baseline_is_the_mean_log_ratio_of_mismatched_rows_and_not_negative(
    live: bool, seeds: tuple[int, int]
) -> None:
    policy, reference = (TinyModel(seed) for seed in seeds)
    rows = supervised_rows(5, 7)
    learner = Learner(FakeBackend(model=policy), READOUT, packed=True)
    frozen = LiveReference(Learner(FakeBackend(model=reference), READOUT, packed=True))
    mismatched_rows = rows
    if not live:
        columns = columns_of_rows(frozen.learner, rows, PACKING, rows_per_batch=3)
        (known,) = with_reference([Corpus(units=[], mismatched_rows=rows)], columns)
        mismatched_rows = list(known.mismatched_rows)
    batch = one_minibatch(rows, Packing(max_tokens=50, packed=True, num_ranks=1))
    columns_by_name = KLBaseline(learner, PACKING, frozen if live else None)(batch, mismatched_rows)
    flat = np.concatenate(list(columns_by_name["kl_baseline"]))
    assert len(flat) == sum(row.num_tokens for row in rows)
    assert flat.tolist() == pytest.approx([expected_baseline(policy, reference, rows)] * len(flat), abs=1e-5)


def test_one_of_the_two_directions_is_clamped_to_zero() -> None:
    rows = supervised_rows(5, 7)
    both = [expected_baseline(TinyModel(a), TinyModel(b), rows) for a, b in ((1, 2), (2, 1))]
    assert min(both) == 0.0 < max(both)


def test_no_rows_at_once_is_refused() -> None:
    with pytest.raises(InputError, match=r"^reference.rows_per_batch=0: give at least 1$"):
        ReferenceConfig(rows_per_batch=0)
