"""Every file of conf/suite: its data in the published form, prompts, right answers, and figures of both answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from rlhf.config import compose
from rlhf.evaluation.forms import Form
from rlhf.evaluation.items import Answer, ChoiceLogprob, Item
from rlhf.evaluation.layouts.lookup import LAYOUTS
from rlhf.evaluation.metrics.lookup import METRICS
from rlhf.evaluation.results import metrics_of, slices_of
from rlhf.evaluation.suite import Suite, SuiteConfig, continuations, load_suite
from rlhf.evaluation_config import EvaluationConfig
from rlhf.types import InputError
from tests.unit.evaluation.published import CHOICE, READING, Published
from tests.unit.evaluation.published_texts import TEXTS

CONF = Path(__file__).parents[3] / "conf"
PUBLISHED = {**READING, **CHOICE, **TEXTS}
CODE = ("humaneval", "mbpp")
MADE = ("quickstart", "reasoning_gym", *CODE)
"""Suites whose data is made, or refused."""
FILES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF / "suite").glob("*.yaml")}
FRESH = {name for file in ("procedural", "procedural_zh") for name in FILES[file]}
ZERO_IF_RIGHT = ("stereotype",)
"""Metrics that are 0 for the answers called right here, although neither direction is better."""


@pytest.fixture(scope="module")
def all_configs() -> dict[str, SuiteConfig]:
    words = [f"suite=[{','.join(FILES)}]", "model=folder", "output=folder"]
    return compose(CONF, "evaluate", words, EvaluationConfig).suite


def loaded(name: str, config: SuiteConfig, root: Path) -> Suite:
    for path, content in PUBLISHED[name].files.items() if name in PUBLISHED else ():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        (root / path).write_bytes(data)
    return load_suite(name, config, str(root))


def answers_to(suite: Suite, texts: tuple[str, ...], *, right: bool) -> list[Answer]:
    """Return one answer per item: texts in turn, or likelihoods that prefer the right choices or the others."""
    stop = "stop" if right else "length"
    if suite.config.form is Form.generate:
        return [
            Answer(item=item.id, text=texts[i % len(texts)], stop=stop, num_tokens=3)
            for i, item in enumerate(suite.items)
        ]
    return [Answer(item=item.id, choices=logprobs(item, right=right)) for item in suite.items]


def logprobs(item: Item, *, right: bool) -> tuple[ChoiceLogprob, ...]:
    return tuple(
        ChoiceLogprob(logprob=-1.0 if (i in item.right) == right else -1000.0, num_tokens=2)
        for i in range(len(item.choices))
    )


def good_and_bad(suite: Suite, published: Published | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if published is not None:
        return tuple(published.good), tuple(published.bad)
    return tuple(item.references[0] for item in suite.items), ("none",)


def test_every_file_has_made_data():
    assert {name for file in FILES.values() for name in file} == {*PUBLISHED, *MADE, *FRESH}


@pytest.mark.parametrize("name", PUBLISHED)
def test_first_prompts_and_right_answers(name, all_configs, tmp_path):
    suite, published = loaded(name, all_configs[name], tmp_path), PUBLISHED[name]
    first = suite.items[0]
    prompt = str(first.messages[-1]["content"]) if first.messages else ""
    assert re.fullmatch(".*".join(map(re.escape, published.prompt.split("..."))), prompt, re.DOTALL), prompt
    if isinstance(published.right, int):
        assert first.right[0] == published.right
    else:
        assert (first.references or ("",))[0] == published.right
    assert slices_of(suite.config.slices, suite.items).keys() or not suite.config.slices


@pytest.mark.parametrize("name", [*PUBLISHED, *sorted(FRESH)])
def test_right_and_wrong_answers_have_the_largest_and_smallest_figures(name, all_configs, tmp_path):
    config = all_configs[name]
    if name in FRESH:
        config.source_options["size"] = 3
    suite = loaded(name, config, tmp_path)
    good, bad = good_and_bad(suite, PUBLISHED.get(name))
    for metric_name, metric in metrics_of(name, config.metrics).items():
        figures = [
            float(metric.figure(metric.statistics(suite.items, answers_to(suite, texts, right=is_right)).sum(0)))
            for texts, is_right in ((good, True), (bad, False))
        ]
        if metric_name in ("perplexity", "bits_per_byte", "repetition"):
            # These have no largest value, or depend on a text's form: the right answer's is smaller.
            assert figures[0] < figures[1]
        elif metric_name != "length":
            least, most = metric.bounds or (0.0, 1.0)
            is_low = metric.larger_is_better is False or metric_name in ZERO_IF_RIGHT
            assert figures == pytest.approx([least, most] if is_low else [most, least])


def test_examples_of_mmlu_are_those_of_the_subject_as_plain_text(all_configs, tmp_path):
    suite = loaded("mmlu", all_configs["mmlu"], tmp_path)
    text = "".join(str(each["content"]) for each in suite.items[1].messages)
    example = "\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
    opening = "The following are multiple choice questions (with answers) about moral law.\n\n"
    shown = "".join(f"E{i}?{example}" for i in range(5))
    assert text == f"{opening}{shown}Which?\nA. k\nB. l\nC. m\nD. n\nAnswer:"
    assert continuations(suite.config, suite.items[1]) == (" A", " B", " C", " D")


@pytest.mark.parametrize("name", CODE)
def test_code_is_refused(name, all_configs, tmp_path):
    with pytest.raises(
        InputError, match=rf"suite\.{name}: .*code suites need the sandbox, which this version does not"
    ):
        load_suite(name, all_configs[name], str(tmp_path))


def test_every_metric_and_layout_belongs_to_a_suite_or_has_a_test(all_configs):
    used = {metric for config in all_configs.values() for metric in config.metrics}
    layouts = {config.layout for config in all_configs.values()}
    tests = {path.name: path.read_text() for path in Path(__file__).parent.rglob("test_*.py")}
    classes = {name: METRICS[name].rpartition(":")[2] for name in METRICS}
    assert not [
        name for name, cls in classes.items() if name not in used and not named(cls, tests, Path(__file__).name)
    ]
    assert not [name for name in LAYOUTS if name not in layouts and not named(name, tests, Path(__file__).name)]


def named(text: str, tests: dict[str, str], itself: str) -> bool:
    return any(text in content for name, content in tests.items() if name != itself)


def test_blank_lines_of_a_corpus_have_no_perplexity(all_configs, tmp_path):
    suite = loaded("perplexity", all_configs["perplexity"], tmp_path)
    assert len(suite.items) == 2
    (metric,) = metrics_of("perplexity", {"perplexity": {}}).values()
    statistics = metric.statistics(suite.items, answers_to(suite, (), right=True))
    assert float(metric.figure(statistics.sum(0))) == pytest.approx(np.exp(0.5))
