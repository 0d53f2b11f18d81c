"""Table of a gate's verdicts, in Markdown or for a terminal, in Chinese or English."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from rlhf.evaluation.estimates import PairedTest
from rlhf.evaluation.gate_checks import Check, Quantity, Reason, State
from rlhf.evaluation.gates import GateResult, Verdict
from rlhf.evaluation.text import Language
from rlhf.ops.intervals import Estimate

STYLES = {State.passed: "green", State.failed: "red", State.undecided: "yellow", State.awaiting: "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Texts of the table in one language."""

    columns: tuple[str, str, str, str]
    title: str
    overall: str
    states: dict[State, str]
    reasons: dict[Reason, str]
    quantities: dict[Quantity, str]
    thresholds: dict[str, str]
    """Texts by `ConditionConfig.kind`, with the value at `{}`."""
    absolute: str
    relative: str
    translated: str
    interval: str
    no_interval: str
    effect: str
    p_value: str
    tests: dict[PairedTest, str]
    adjusted: str
    detectable: str
    brackets: tuple[str, str]
    comma: str
    semicolon: str


WORDS = {
    Language.en: Words(
        columns=("figure", "threshold", "measured", "verdict"),
        title="Verdicts",
        overall="gate: {}",
        states={state: str(state) for state in State},
        reasons={
            Reason.no_grades: "a rank correlation needs grades of several answers to a prompt",
            Reason.no_ratings: "no rating sheet was filled in",
            Reason.no_figure: "nothing was counted",
            Reason.no_interval: "the data does not determine an interval",
            Reason.no_zero: "a relative change has no meaning for a score without a zero",
            Reason.by_point: "decided by the point",
            Reason.translated: "threshold translated, as the score has no zero",
            Reason.adjusted: "not significant among several improvements, Holm",
        },
        quantities={
            Quantity.figure: "",
            Quantity.difference: "improvement ",
            Quantity.gain: "relative improvement ",
            Quantity.win_rate: "win rate ",
            Quantity.deviations: "improvement in baseline standard deviations ",
        },
        thresholds={
            "at_least": "≥ {}",
            "at_most": "≤ {}",
            "improves_by": "improves by more than {}",
            "not_worse_than": "worse by at most {}",
        },
        absolute="{}",
        relative="{} of the baseline",
        translated="{}, translated: {}",
        interval="{} ({} to {})",
        no_interval="{} (no interval)",
        effect="{} baseline standard deviations",
        p_value="p = {}",
        tests={test: str(test) for test in PairedTest},
        adjusted="p = {} after Holm",
        detectable="detectable from {}",
        brackets=(" (", ")"),
        comma=", ",
        semicolon="; ",
    ),
    Language.zh: Words(
        columns=("指标", "阈值", "实测", "结论"),
        title="达标表",
        overall="总结论：{}",
        states={
            State.passed: "通过",
            State.failed: "未通过",
            State.undecided: "无法判定",
            State.awaiting: "待人工",
        },
        reasons={
            Reason.no_grades: "秩相关需要同一提示下多个回答的评分",
            Reason.no_ratings: "尚无人工评分表",
            Reason.no_figure: "没有可统计的回答",
            Reason.no_interval: "数据不足以给出区间",
            Reason.no_zero: "该分数没有自然零点，相对变化没有意义",
            Reason.by_point: "按点估计判定",
            Reason.translated: "该分数没有自然零点，阈值已换算",
            Reason.adjusted: "多项提升经 Holm 校正后不显著",
        },
        quantities={
            Quantity.figure: "",
            Quantity.difference: "提升 ",
            Quantity.gain: "相对提升 ",
            Quantity.win_rate: "胜率 ",
            Quantity.deviations: "以基线标准差计的提升 ",
        },
        thresholds={
            "at_least": "≥ {}",
            "at_most": "≤ {}",
            "improves_by": "提升超过{}",
            "not_worse_than": "变差不超过{}",
        },
        absolute=" {}",
        relative="基线的 {}",
        translated="{}，换算为：{}",
        interval="{}（{} 至 {}）",
        no_interval="{}（无区间）",
        effect="{} 个基线标准差",
        p_value="p = {}",
        tests={PairedTest.mcnemar: "McNemar 中位 p 检验", PairedTest.sign_flip: "按簇符号翻转检验"},
        adjusted="Holm 校正后 p = {}",
        detectable="可检出的最小差异 {}",
        brackets=("（", "）"),
        comma="，",
        semicolon="；",
    ),
}


def markdown_table(result: GateResult, language: Language) -> str:
    """Return the table in Markdown, and the gate's verdict below."""
    words = WORDS[language]
    lines = [words.columns, ("---",) * len(words.columns), *rows(result, words)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"{table}\n\n{overall(result, language)}\n"


def terminal_table(result: GateResult, language: Language) -> Table:
    """Return the table for a terminal; `overall` is the line to print below."""
    words = WORDS[language]
    table = Table(title=words.title)
    for column in words.columns:
        table.add_column(column, overflow="fold")
    for verdict, row in zip(result.verdicts, rows(result, words), strict=True):
        table.add_row(*row, style=STYLES[verdict.state])
    return table


def overall(result: GateResult, language: Language) -> str:
    """Return the line with the gate's verdict."""
    words = WORDS[language]
    return words.overall.format(words.states[result.state])


def rows(result: GateResult, words: Words) -> list[tuple[str, str, str, str]]:
    return [
        (each.condition.figure, threshold_cell(each, words), measured_cell(each, words), verdict_cell(each, words))
        for each in result.verdicts
    ]


def threshold_cell(verdict: Verdict, words: Words) -> str:
    condition = verdict.condition
    form, amount = (percent, words.relative) if condition.relative else (number, words.absolute)
    value = amount.format(form(condition.threshold)) if condition.needs_baseline else number(condition.threshold)
    text = words.thresholds[condition.kind].format(value)
    if Reason.translated not in verdict.reasons:
        return text
    parts = [
        f"{words.quantities[check.quantity]}{check.relation} {form_of(check)(check.threshold)}"
        for check in verdict.checks
    ]
    return words.translated.format(text, words.comma.join(parts))


def measured_cell(verdict: Verdict, words: Words) -> str:
    """Return the figure with its interval, then its improvement, its size in standard deviations, and the p-value."""
    if verdict.measurement.estimate is None:
        return ""
    parts = [with_interval(verdict.measurement.estimate, number, words)]
    for check in verdict.checks:
        if check.quantity is not Quantity.figure:
            text = with_interval(check.estimate, form_of(check), words)
            parts.append(f"{words.quantities[check.quantity]}{text}")
    comparison = verdict.measurement.comparison
    if verdict.condition.needs_baseline and comparison is not None:
        size = comparison.effect_size * (1 if verdict.measurement.larger_is_better else -1)
        if not math.isnan(size) and Reason.translated not in verdict.reasons:
            parts.append(words.effect.format(f"{size + 0.0:+.2g}"))
        if not math.isnan(comparison.p_value):
            parts.append(
                f"{words.p_value.format(f'{comparison.p_value:.2g}')}{words.comma}{words.tests[comparison.test]}"
            )
        if verdict.p_value is not None:
            parts.append(words.adjusted.format(f"{verdict.p_value:.2g}"))
        if verdict.state is State.undecided and not math.isnan(comparison.detectable):
            parts.append(words.detectable.format(number(comparison.detectable)))
    return words.semicolon.join(parts)


def verdict_cell(verdict: Verdict, words: Words) -> str:
    state = words.states[verdict.state]
    reasons = words.comma.join(words.reasons[reason] for reason in verdict.reasons)
    return f"{state}{words.brackets[0]}{reasons}{words.brackets[1]}" if reasons else state


def form_of(check: Check) -> Callable[[float], str]:
    return percent if check.quantity in (Quantity.gain, Quantity.win_rate) else number


def with_interval(estimate: Estimate, form: Callable[[float], str], words: Words) -> str:
    if math.isnan(estimate.low):
        return words.no_interval.format(form(estimate.mean))
    return words.interval.format(*(form(value) for value in (estimate.mean, estimate.low, estimate.high)))


def number(value: float) -> str:
    # Adding 0 turns -0.0, which a negated estimate may have, into 0.
    return f"{value + 0.0:.4g}"


def percent(value: float) -> str:
    return f"{100 * value + 0.0:.4g} %"
