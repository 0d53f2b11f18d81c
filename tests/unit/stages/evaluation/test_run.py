"""Evaluations of an endpoint, whole: answers once, baseline, verdicts, reports; and what is refused before."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import compose
from rlhf.evaluation.gate_checks import State
from rlhf.evaluation_config import EvaluationConfig
from rlhf.stages.evaluation.run import run
from rlhf.types import InputError
from tests.unit.judges.server import Server, completion, running

CONF = Path(__file__).parents[4] / "conf"
NUM_ITEMS = 40


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as each:
        yield each


@pytest.fixture
def rows(tmp_path) -> Path:
    path = tmp_path / "sums.jsonl"
    lines = [{"prompt": f"{i}+1=", "answer": str(i + 1), "kind": "odd" if i % 2 else "even"} for i in range(NUM_ITEMS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answers_right(share: float):
    """Replies that are right for the first share of the items."""

    def reply(number: int, body: Any):
        number = int(body["messages"][-1]["content"].partition("+")[0])
        return completion(str(number + 1) if number < share * NUM_ITEMS else "?")

    return reply


def config(server: Server, rows: Path, name: str, *overrides: str, model: str = "m") -> EvaluationConfig:
    suite = f"+suite={{sums: {{path: {rows}, metrics: {{exact_match: {{}}, length: {{}}}}, slices: [kind]}}}}"
    words = [suite, f"endpoint.url={server.url}", f"endpoint.model={model}", f"output={rows.parent / name}",
             f"answers={rows.parent / 'answers'}", *overrides]  # fmt: skip
    return compose(CONF, "evaluate", words, EvaluationConfig)


def results(rows: Path, name: str) -> Any:
    return json.loads((rows.parent / name / "report" / "results.json").read_text())


def test_figures_have_intervals_and_slices(server, rows):
    server.reply = answers_right(0.75)
    run(config(server, rows, "out"))
    figures = results(rows, "out")["figures"]
    assert figures["sums/exact_match"]["mean"] == 0.75
    assert figures["sums/exact_match"]["low"] < 0.75 < figures["sums/exact_match"]["high"]
    assert figures["sums/exact_match/kind=odd"]["items"] == NUM_ITEMS // 2
    assert set(figures) == {f"sums/{metric}{part}" for metric in ("exact_match", "length")
                            for part in ("", "/kind=odd", "/kind=even")}  # fmt: skip


def test_a_second_evaluation_asks_nothing(server, rows, capsys):
    server.reply = answers_right(1.0)
    run(config(server, rows, "one"))
    asked = len(server.requests)
    run(config(server, rows, "two"))
    assert (asked, len(server.requests)) == (NUM_ITEMS, NUM_ITEMS)
    assert results(rows, "one")["figures"] == results(rows, "two")["figures"]


def test_a_regression_is_first_and_fails_its_gate(server, rows):
    server.reply = answers_right(0.9)
    run(config(server, rows, "before", model="old"))
    server.reply = answers_right(0.5)
    gate = (
        "gate.conditions=[{figure: sums/exact_match, not_worse_than: 0.05}, {figure: sums/exact_match, at_least: 0.1}]"
    )
    verdicts = run(
        config(server, rows, "after", gate, f"baseline={rows.parent / 'before'}", "language=zh", model="new")
    )
    assert verdicts is not None
    assert [each.state for each in verdicts.verdicts] == [State.failed, State.passed]
    assert verdicts.exit_code == 10
    found = results(rows, "after")
    assert found["figures"]["sums/exact_match"]["change"] == "worse"
    assert (found["verdict"], found["baseline"].split()[0]) == ("failed", "old")
    text = (rows.parent / "after" / "report" / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| sums/")]
    assert "未通过" in text
    assert "退步" in next(line for line in lines if "题" not in line and line.count("|") > 6)
    page = (rows.parent / "after" / "report" / "report.html").read_text()
    assert page.count("<tr") > 10
    assert "data:image/png;base64," in page
    assert '<html lang="zh">' in page


def test_improvements_are_told_by_area(server, rows):
    server.reply = answers_right(0.5)
    run(config(server, rows, "before", model="old"))
    server.reply = answers_right(0.9)
    words = [f"baseline={rows.parent / 'before'}", "suite.sums.area=reasoning", "language=zh",
             "+overall={sums/exact_match: 2}"]  # fmt: skip
    run(config(server, rows, "after", *words, model="new"))
    improvements = results(rows, "after")["improvement"]
    assert set(improvements) == {"all", "capability", "reasoning"}
    assert improvements["all"]["mean"] == pytest.approx(0.4)
    assert improvements["all"]["low"] > 0
    text = (rows.parent / "after" / "report" / "report.md").read_text()
    assert "| 能力（低于 0 即对齐税） | 0.4（" in text
    assert "| 推理 | 0.4（" in text


def test_equal_models_are_undecided(server, rows):
    server.reply = answers_right(0.5)
    run(config(server, rows, "before", model="old"))
    gate = "gate.conditions=[{figure: sums/exact_match, improves_by: 0}]"
    verdicts = run(config(server, rows, "after", gate, f"baseline={rows.parent / 'before'}", model="new"))
    assert verdicts is not None
    assert (verdicts.state, verdicts.exit_code) == (State.undecided, 11)


def test_a_dry_run_asks_nothing_and_shows_the_first_prompt(server, rows, capsys):
    assert run(config(server, rows, "out", "dry_run=true")) is None
    assert "user: 0+1=" in capsys.readouterr().out
    assert server.requests == []


def test_texts_are_shown_as_they_are(server, rows, capsys):
    words = [
        "suite.sums.path=procedural:calendar",
        "suite.sums.slices=[]",
        "dry_run=true",
        "suite.sums.template=[b]:cat:[/b]",
    ]
    assert run(config(server, rows, "out", *words)) is None
    shown = capsys.readouterr().out
    assert "procedural:calendar:0" in shown
    assert "user: [b]:cat:[/b]" in shown


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("gate.conditions=[{figure: sums/f1, at_least: 0}]", "no suite gives the figure sums/f1: known are sums/exact"),
        ("baseline=.", "it is no folder of a finished evaluation"),
        ("+suite.sums.metrics.bleu5={}", "which is no metric: use one of exact_match"),
        ("suite.sums.slices=[topic]", "no item has this field"),
        ("gate.conditions=[{figure: sums/length, improves_by: 1}]", "compares with a baseline"),
        ("gate.conditions=[{figure: sums/exact_match, at_least: 0, at_most: 1}]", "set exactly one of at_least"),
        ("model=folder", "set one of them"),
        ("+overall={sums/f1: 1}", "overall: no suite gives the figure sums/f1"),
    ],
)
def test_mistakes_are_refused_before_anything_is_asked(server, rows, override, sentence):
    with pytest.raises(InputError) as raised:
        run(config(server, rows, "out", override))
    assert sentence in str(raised.value)
    assert server.requests == []


def test_a_baseline_on_another_version_of_the_suite_is_refused(server, rows):
    server.reply = answers_right(1.0)
    run(config(server, rows, "before"))
    with pytest.raises(InputError, match=r"on another version of suite\.sums .*: its data, prompts or sampling differ"):
        run(config(server, rows, "after", "suite.sums.limit=10", f"baseline={rows.parent / 'before'}"))
