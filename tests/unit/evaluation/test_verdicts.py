"""The table of verdicts, in both languages and both forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from rlhf.evaluation.gate_checks import Measurement, Missing, Reason, State
from rlhf.evaluation.gate_config import DecideBy
from rlhf.evaluation.gates import decide
from rlhf.evaluation.text import Language
from rlhf.evaluation.verdicts import WORDS, markdown_table, overall, terminal_table
from tests.unit.evaluation.test_gates import comparison, estimate, gate, measured

FIGURES = {
    "cmmlu/acc": measured(estimate(0.05, 0.01, 0.09)),
    "rm/tau": Measurement(missing=Missing.grades),
    "写作/人工": Measurement(missing=Missing.ratings),
    "ppo/reward": measured(estimate(0.3, 0.22, 0.4), has_zero=False),
}
GATE = gate(
    {"figure": "cmmlu/acc", "at_least": 0.85},
    {"figure": "cmmlu/acc", "at_least": 0.79, "decide_by": DecideBy.point},
    {"figure": "cmmlu/acc", "not_worse_than": 0.02},
    {"figure": "rm/tau", "at_least": 0.3},
    {"figure": "写作/人工", "at_least": 4.0},
    {"figure": "ppo/reward", "improves_by": 0.2, "relative": True},
)


def test_english() -> None:
    assert markdown_table(decide(GATE, FIGURES), Language.en).splitlines() == [
        "| figure | threshold | measured | verdict |",
        "| --- | --- | --- | --- |",
        "| cmmlu/acc | ≥ 0.85 | 0.8 (0.75 to 0.85) | undecided |",
        "| cmmlu/acc | ≥ 0.79 | 0.8 (0.75 to 0.85) | passed (decided by the point) |",
        "| cmmlu/acc | worse by at most 0.02 | 0.8 (0.75 to 0.85); improvement 0.05 (0.01 to 0.09); "
        "+0.1 baseline standard deviations; p = 0.01, sign flips by cluster | passed |",
        "| rm/tau | ≥ 0.3 |  | undecided (a rank correlation needs grades of several answers to a prompt) |",
        "| 写作/人工 | ≥ 4 |  | awaiting people (no rating sheet was filled in) |",
        "| ppo/reward | improves by more than 20 % of the baseline, translated: win rate > 60 %, improvement in "
        "baseline standard deviations > 0.2 | 0.8 (0.75 to 0.85); win rate 65 % (61 % to 70 %); improvement in "
        "baseline standard deviations 0.6 (0.44 to 0.8); p = 0.01, sign flips by cluster | passed (threshold "
        "translated, as the score has no zero) |",
        "",
        "gate: undecided",
    ]


def test_chinese() -> None:
    assert markdown_table(decide(GATE, FIGURES), Language.zh).splitlines() == [
        "| 指标 | 阈值 | 实测 | 结论 |",
        "| --- | --- | --- | --- |",
        "| cmmlu/acc | ≥ 0.85 | 0.8（0.75 至 0.85） | 无法判定 |",
        "| cmmlu/acc | ≥ 0.79 | 0.8（0.75 至 0.85） | 通过（按点估计判定） |",
        "| cmmlu/acc | 变差不超过 0.02 | 0.8（0.75 至 0.85）；提升 0.05（0.01 至 0.09）；+0.1 个基线标准差；"
        "p = 0.01，按簇符号翻转检验 | 通过 |",
        "| rm/tau | ≥ 0.3 |  | 无法判定（秩相关需要同一提示下多个回答的评分） |",
        "| 写作/人工 | ≥ 4 |  | 待人工（尚无人工评分表） |",
        "| ppo/reward | 提升超过基线的 20 %，换算为：胜率 > 60 %，以基线标准差计的提升 > 0.2 | 0.8（0.75 至 0.85）；"
        "胜率 65 %（61 % 至 70 %）；以基线标准差计的提升 0.6（0.44 至 0.8）；p = 0.01，按簇符号翻转检验 | "
        "通过（该分数没有自然零点，阈值已换算） |",
        "",
        "总结论：无法判定",
    ]


@pytest.mark.parametrize("language", list(Language))
def test_a_terminal_shows_the_same_cells(language: Language) -> None:
    console = Console(width=400)
    with console.capture() as capture:
        console.print(terminal_table(decide(GATE, FIGURES), language))
    shown = capture.get()
    for line in markdown_table(decide(GATE, FIGURES), language).splitlines()[2:8]:
        for cell in line.strip("|").split(" | "):
            assert cell.strip() in shown


@pytest.mark.parametrize("language", list(Language))
def test_every_state_and_reason_has_words(language: Language) -> None:
    words = WORDS[language]
    assert set(words.states) == set(State)
    assert set(words.reasons) == set(Reason)


def test_a_failed_gate_says_so_in_both_languages() -> None:
    result = decide(gate({"figure": "cmmlu/acc", "at_least": 0.99}), FIGURES)
    assert overall(result, Language.en) == "gate: failed"
    assert overall(result, Language.zh) == "总结论：未通过"


def test_improvements_are_positive_for_metrics_that_should_fall() -> None:
    figures = {"speed/latency|ms": measured(estimate(-0.05, -0.09, -0.01), larger_is_better=False)}
    text = markdown_table(decide(gate({"figure": "speed/latency|ms", "improves_by": 0.0}), figures), Language.en)
    assert "improvement 0.05 (0.01 to 0.09); +0.1 baseline standard deviations" in text
    assert r"speed/latency\|ms" in text


def test_an_undecided_comparison_shows_what_it_can_detect_and_holm_its_p_value() -> None:
    close = replace(measured(), comparison=comparison(estimate(0.05, -0.01, 0.11), p_value=0.04))
    figures = {"s/a": close, "s/b": close}
    conditions = ({"figure": name, "improves_by": 0.0} for name in figures)
    text = markdown_table(decide(gate(*conditions), figures), Language.zh)
    assert "p = 0.04，按簇符号翻转检验；Holm 校正后 p = 0.08；可检出的最小差异 0.1" in text
    assert "无法判定（多项提升经 Holm 校正后不显著）" in text
