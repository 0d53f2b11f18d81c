"""Items and answers of metric tests, and the property that statistics add up."""

from collections.abc import Sequence

import numpy as np

from rlhf.evaluation.items import Answer, ChoiceLogprob, Item
from rlhf.evaluation.metrics.base import Metric


def item(index: int = 0, **values: object) -> Item:
    return Item(**{"id": str(index), "messages": (), "where": f"suite.jsonl:{index + 1}", **values})


def referenced(*references: Sequence[str]) -> list[Item]:
    return [item(index, references=tuple(each)) for index, each in enumerate(references)]


def texts(*written: str) -> list[Answer]:
    return [Answer(item=str(index), text=text, stop="stop") for index, text in enumerate(written)]


def choice(logprob: float, num_tokens: int = 3) -> ChoiceLogprob:
    return ChoiceLogprob(logprob=logprob, num_tokens=num_tokens)


def likelihoods(*rows: Sequence[float]) -> list[Answer]:
    return [Answer(item=str(index), choices=tuple(map(choice, row))) for index, row in enumerate(rows)]


def figure(metric: Metric, items: Sequence[Item], answers: Sequence[Answer]) -> float:
    """The figure of all answers, after a check that halves add up to it and that rows keep to the contract."""
    rows = metric.statistics(items, answers)
    assert rows.dtype == np.float64
    assert rows.shape[0] == len(items)
    assert np.isin(rows[:, 0], (0, 1)).all()
    assert not rows[rows[:, 0] == 0].any()
    half = len(items) // 2
    whole = metric.figure(rows.sum(axis=0))
    np.testing.assert_allclose(metric.figure(rows[:half].sum(axis=0) + rows[half:].sum(axis=0)), whole)
    np.testing.assert_allclose(metric.figure(np.stack([rows.sum(axis=0)] * 2)), [whole, whole])
    assert np.isnan(metric.figure(np.zeros(rows.shape[1])))
    return float(whole)
