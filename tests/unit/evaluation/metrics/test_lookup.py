"""Metrics by name, with options as YAML gives them."""

import inspect

import pytest

from rlhf.evaluation.metrics.base import Metric
from rlhf.evaluation.metrics.exact import TokenF1
from rlhf.evaluation.metrics.lookup import METRICS, find_metric
from rlhf.evaluation.text import Language
from rlhf.lookup import find_function
from rlhf.types import InputError

OWN = """
from dataclasses import dataclass
import numpy as np
from rlhf.evaluation.metrics.base import MeanMetric

@dataclass(frozen=True, slots=True, kw_only=True)
class Length(MeanMetric):
    unit: int

    def values(self, items, answers):
        return np.array([len(answer.text) / self.unit for answer in answers])

def function():
    return 1
"""


@pytest.mark.parametrize("name", METRICS)
def test_every_short_name_is_a_metric(name):
    found = find_function("metric", METRICS[name])
    assert issubclass(found, Metric)
    assert not inspect.isabstract(found)


def test_options_become_values_of_their_types():
    assert find_metric("token_f1", {"language": "zh"}, "metrics") == TokenF1(language=Language.zh)
    assert find_metric("accuracy", {"labels": ["是", "否"]}, "metrics").labels == ("是", "否")
    assert find_metric("math", {"timeout_s": 3}, "metrics").timeout_s == 3.0


def test_a_class_of_the_users_own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    assert find_metric(f"{path}:Length", {"unit": 2}, "metrics").unit == 2
    with pytest.raises(InputError, match=r"metrics gives own.py:Length no unit, which it needs"):
        find_metric(f"{path}:Length", {}, "metrics")
    with pytest.raises(InputError, match=r"own.py:function', which is no metric: name a subclass"):
        find_metric(f"{path}:function", {}, "metrics")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("blue", {}, "metrics has 'blue', which is no metric: use one of exact_match, token_f1, .*package.module"),
        ("rlhf.evaluation.metrics.base:Metric", {}, "which is no metric: name a subclass"),
        ("bleu", {"langage": "zh"}, "metrics gives bleu the option 'langage', which it does not have: use language"),
        ("chrf", {"order": 2}, "does not have: remove it, since"),
        ("bleu", {"language": "fr"}, "metrics gives bleu language='fr': give zh or en"),
        ("accuracy", {"labels": "yes"}, r"labels='yes': give a list"),
        ("accuracy", {"labels": [1]}, r"labels=\[1\]: give a value of type str"),
        ("math", {"timeout_s": True}, "timeout_s=True: give a value of type float"),
        ("math", {"timeout_s": -1}, "timeout_s of the metric of mathematics is -1"),
        ("bleu", ["zh"], r"metrics gives bleu the options \['zh'\]: give keys with values"),
    ],
)
def test_mistakes_are_named(name, options, sentence):
    with pytest.raises(InputError, match=sentence):
        find_metric(name, options, "metrics")
