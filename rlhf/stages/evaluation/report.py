"""Report of an evaluation: figures with intervals, regressions first; verdicts; right and wrong answers side by side.

Written as Markdown, as one self-contained HTML file, as a plot and as JSON.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf.evaluation import verdicts as verdict_tables
from rlhf.evaluation.areas import AreaRow
from rlhf.evaluation.gates import GateResult
from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.results import Figure
from rlhf.evaluation.suite import Suite
from rlhf.evaluation.text import Language
from rlhf.evaluation_config import EvaluationConfig
from rlhf.ops.intervals import Estimate
from rlhf.stages.console import markdown_table
from rlhf.stages.evaluation.baseline import ANSWERS, RESULTS, Baseline
from rlhf.stages.evaluation.words import CHANGES, WORDS, Words
from rlhf.train.artifact import without_nan

TABLE, PAGE, PLOT = "report.md", "report.html", "report.png"
SHOWN_CHARACTERS = 600
"""Characters of a prompt or an answer in the report."""


def in_order(figures: Sequence[Figure]) -> list[Figure]:
    """Return the figures, regressions first."""
    return sorted(figures, key=lambda figure: figure.change != "worse")


def figure_rows(figures: Sequence[Figure], language: Language) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for figure in figures:
        row: tuple[str, ...] = (figure.name, with_interval(figure.estimate, language), str(figure.num_items))
        if (compared := figure.comparison) is not None:
            size = "" if math.isnan(compared.effect_size) else f"{compared.effect_size:+.2g}"
            p_value = "" if math.isnan(compared.p_value) else f"{compared.p_value:.2g}"
            change = CHANGES[language][figure.change]
            row += (f"{compared.theirs:.4g}", with_interval(compared.difference, language), size, p_value, change)
        rows.append(row)
    width = max(map(len, rows))
    return [(*row, *[""] * (width - len(row))) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a report shows."""

    model: str
    baseline: str | None
    """Model of the baseline; None without one."""
    language: Language
    figures: Sequence[Figure]
    """Regressions first."""
    areas: Sequence[AreaRow]
    """Improvements by area; empty without a baseline."""
    verdicts: GateResult
    samples: Mapping[str, Sequence[tuple[str, ...]]]
    """Some answers by suite: the item, its prompt, what is right, and the answer."""

    @property
    def words(self) -> Words:
        return WORDS[self.language]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.words.columns(self.baseline is not None)


def rows_of_areas(areas: Sequence[AreaRow], language: Language) -> list[tuple[str, ...]]:
    names = WORDS[language].area_names
    return [
        (names.get(row.name, row.name), with_interval(row.improvement, language),
         *map(str, (row.num_worse, row.num_better, row.num_figures)))
        for row in areas
    ]  # fmt: skip


def with_interval(estimate: Estimate, language: Language) -> str:
    return verdict_tables.with_interval(estimate, verdict_tables.number, verdict_tables.WORDS[language])


def write_report(
    folder: Path,
    config: EvaluationConfig,
    suites: Sequence[Suite],
    answers: Mapping[str, Sequence[Answer]],
    figures: Sequence[Figure],
    areas: Sequence[AreaRow],
    verdicts: GateResult,
    baseline: Baseline | None,
) -> None:
    """Write all files of the report into a folder."""
    report = Report(
        model=config.model or f"{config.endpoint.model} ({config.endpoint.url})",
        baseline=baseline.name if baseline else None,
        language=config.language,
        figures=in_order(figures),
        areas=areas,
        verdicts=verdicts,
        samples={suite.name: shown(suite, answers[suite.name], config.num_shown) for suite in suites},
    )
    (folder / ANSWERS).mkdir()
    for suite in suites:
        lines = "".join(json.dumps(asdict(each)) + "\n" for each in answers[suite.name])
        (folder / ANSWERS / f"{suite.name}.jsonl").write_text(lines, encoding="utf-8")
    record = {
        "model": report.model,
        "baseline": report.baseline,
        "suites": {suite.name: {"digest": suite.digest, "items": len(suite.items)} for suite in suites},
        "figures": {figure.name: as_record(figure) for figure in figures},
        "improvement": {each.name: asdict(each.improvement) for each in areas},
        "gate": [{"figure": each.condition.figure, "verdict": str(each.state)} for each in verdicts.verdicts],
        "verdict": str(verdicts.state) if verdicts.verdicts else None,
    }
    (folder / RESULTS).write_text(json.dumps(without_nan(record), indent=1, ensure_ascii=False), encoding="utf-8")
    draw(report, folder / PLOT)
    (folder / TABLE).write_text(as_markdown(report), encoding="utf-8", errors="replace")
    (folder / PAGE).write_text(as_html(report, (folder / PLOT).read_bytes()), encoding="utf-8", errors="replace")


def as_record(figure: Figure) -> dict[str, object]:
    record: dict[str, object] = {**asdict(figure.estimate), "items": figure.num_items}
    if (compared := figure.comparison) is not None:
        record |= {
            "baseline": compared.theirs,
            "difference": asdict(compared.difference),
            "effect_size": compared.effect_size,
            "p_value": compared.p_value,
            "test": str(compared.test),
            "detectable": compared.detectable,
            "change": figure.change,
        }
    return record


def shown(suite: Suite, answers: Sequence[Answer], number: int) -> list[tuple[str, ...]]:
    """Return some answers with their items, spread over the suite."""
    items = {item.id: item for item in suite.items}
    step = max(len(answers) // number, 1) if number else 1
    return [sample_row(items[answer.item], answer) for answer in answers[::step][:number]]


def sample_row(item: Item, answer: Answer) -> tuple[str, ...]:
    prompt = str(item.messages[-1]["content"]) if item.messages else ""
    right = " | ".join(item.references or [item.choices[index] for index in item.right])
    if answer.choices:
        best = max(range(len(answer.choices)), key=lambda index: answer.choices[index].logprob)
        text = f"{item.choices[best]} ({answer.choices[best].logprob:.4g})"
    else:
        text = answer.text
    return (item.where or item.id, *(each[:SHOWN_CHARACTERS] for each in (prompt, right, text)))


def as_markdown(report: Report) -> str:
    words = report.words
    parts = [f"# {words.title.format(report.model)}\n", words.legend + "\n"]
    if report.baseline is not None:
        parts.append(words.against.format(report.baseline) + "\n")
    if report.verdicts.verdicts:
        parts += [f"## {words.verdicts}\n", verdict_tables.markdown_table(report.verdicts, report.language)]
    if report.areas:
        parts += [f"## {words.areas}\n", markdown_table(words.area, rows_of_areas(report.areas, report.language))]
    table = markdown_table(report.columns, figure_rows(report.figures, report.language))
    parts += [f"## {words.figures}\n", table, f"![]({PLOT})\n"]
    for name, rows in report.samples.items():
        cells = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in rows]
        parts += [f"## {words.samples}: {name}\n", markdown_table(words.item, cells)]
    return "\n".join(parts)


def as_html(report: Report, image: bytes) -> str:
    """Return one self-contained page; `image` is the plot, a PNG."""
    words, language = report.words, report.language
    title = html.escape(words.title.format(report.model))
    body = [f"<h1>{title}</h1>", f"<p>{html.escape(words.legend)}</p>"]
    if report.baseline is not None:
        body.append(f"<p>{html.escape(words.against.format(report.baseline))}</p>")
    if report.verdicts.verdicts:
        verdict_words = verdict_tables.WORDS[language]
        states = [str(each.state) for each in report.verdicts.verdicts]
        table = html_table(verdict_words.columns, verdict_tables.rows(report.verdicts, verdict_words), states)
        overall = html.escape(verdict_tables.overall(report.verdicts, language))
        body += [f"<h2>{words.verdicts}</h2>", table, f"<p>{overall}</p>"]
    if report.areas:
        areas = rows_of_areas(report.areas, language)
        body += [f"<h2>{words.areas}</h2>", html_table(words.area, areas, [""] * len(areas))]
    changes = [figure.change for figure in report.figures]
    table = html_table(report.columns, figure_rows(report.figures, language), changes)
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    body += [f"<h2>{words.figures}</h2>", table, f'<img alt="{words.figures}" src="{source}">']
    for name, rows in report.samples.items():
        body += [f"<h2>{words.samples}: {html.escape(name)}</h2>", html_table(words.item, rows, [""] * len(rows))]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="{language}"><head>{head}</head><body>{"".join(body)}</body></html>\n'


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #bbb;padding:.3rem .6rem;text-align:left;"
    "vertical-align:top;white-space:pre-wrap}td:last-child,th{white-space:nowrap}th{background:#eee}"
    ".worse td,.failed td{background:#fbe3e3}"
    ".better td,.passed td{background:#e4f4e4}img{max-width:100%}"
)


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = [
        f'<tr class="{html.escape(name)}">{"".join(f"<td>{html.escape(cell)}</td>" for cell in row)}</tr>'
        for name, row in zip(classes, rows, strict=True)
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def draw(report: Report, path: Path) -> None:
    """Draw each figure with its interval, and with a baseline the differences beside them."""
    from matplotlib.figure import Figure as Canvas

    figures = list(reversed(report.figures))
    # Fonts of a machine may lack Chinese, so the plot speaks English.
    sides: dict[str, list[Estimate | None]] = {"value": [each.estimate for each in figures]}
    if report.baseline is not None:
        sides["difference to the baseline"] = [
            each.comparison.difference if each.comparison else None for each in figures
        ]
    canvas = Canvas(figsize=(6 * len(sides), 1.2 + 0.3 * len(figures)), layout="constrained")
    for number, (title, estimates) in enumerate(sides.items(), start=1):
        axes = canvas.add_subplot(1, len(sides), number, title=title)
        for place, each in enumerate(estimates):
            if each is not None:
                axes.plot([each.low, each.high], [place, place], color="tab:blue")
                axes.plot([each.mean], [place], "o", color="tab:blue")
        axes.set_yticks(range(len(figures)), [each.name if number == 1 else "" for each in figures])
        axes.grid(axis="x", linewidth=0.4)
        if number == 2:
            axes.axvline(0, color="grey", linewidth=1)
    canvas.savefig(path, dpi=120)
