"""Properties of every metric: odd answers have a value, rows add up, and figures stay within their bounds."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.evaluation.items import Answer
from rlhf.evaluation.metrics.lookup import METRICS, find_metric
from rlhf.lookup import find_function
from tests.unit.evaluation.metrics.examples import choice, item

SCHEMA = {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}
META = {
    "harmful": True, "canary": "K7", "pair": True, "context": "some text 12", "functions": [SCHEMA],
    "ground_truth": [{"f": {"x": [1]}}], "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
    "kwargs": [{}, {}],
}  # fmt: skip
ITEMS = [
    item(index, references=("12",), choices=("Paris", "Rome"), right=(0,), cluster="c", meta=META) for index in range(6)
]
ODD = [
    "", " \n\t", "\0", "<think>never ends", "</think>", "答案是" + " " * 20_000, "The answer is" + "\n" * 20_000,
    "A, " * 10_000, "(" * 20_000, "<<" * 10_000, "[" * 20_000, "*" * 20_000, "." * 20_000 + "a",
    "e\u0301\u200d🤖", "𝟏𝟐",
    "好" * 20_000, "\\boxed{" * 5_000, "```" * 5_000, "1" * 20_000, "{" * 20_000,
]  # fmt: skip
# The others are slow to start, and have tests of their own.
NAMES = [name for name in METRICS if name not in ("bert_score", "math")]


def values(name, answers, items=None):
    metric = find_metric(name, {}, "metrics")
    items = items or [ITEMS[index % len(ITEMS)] for index in range(len(answers))]
    rows = metric.statistics(items, answers)
    assert rows.shape == (len(answers), rows.shape[1])
    assert np.isfinite(rows).all()
    figures = metric.figure(rows)
    assert figures.shape == (len(answers),)
    np.testing.assert_array_equal(np.isnan(figures), rows[:, 0] == 0)
    low, high = metric.bounds or (-np.inf, np.inf)
    counted = figures[~np.isnan(figures)]
    assert ((counted >= low - 1e-9) & (counted <= high + 1e-9)).all()
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_odd_answers_have_a_value(name):
    values(name, [Answer(item=str(index), text=text, stop="stop") for index, text in enumerate(ODD)])


@settings(max_examples=30)
@given(st.lists(st.text("ab好。.,<>{}[]()*1A \n'\"", max_size=30), min_size=2, max_size=6), st.data())
def test_rows_do_not_depend_on_the_order_of_answers(written, data):
    answers = [
        Answer(item=str(index), text=text, stop="stop", num_tokens=index,
               choices=(choice(-1.0 - index, 2), choice(-2.0, 1)))
        for index, text in enumerate(written)
    ]  # fmt: skip
    order = data.draw(st.permutations(range(len(answers))))
    for name in NAMES:
        rows = values(name, answers, ITEMS[: len(answers)])
        permuted = values(name, [answers[i] for i in order], [ITEMS[i] for i in order])
        np.testing.assert_allclose(permuted, rows[order])


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_and_option_has_its_line(name):
    metric = find_function("metric", METRICS[name])
    assert inspect.getdoc(metric)
    source = inspect.getsource(metric)
    for option in metric.__annotations__:
        if option not in ("bounds", "larger_is_better"):
            assert '\n    """' in source.partition(f"\n    {option}:")[2].partition("\n\n")[0], option
