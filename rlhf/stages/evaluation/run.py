"""Evaluation of a model by suites.

load_suite      items with their prompts, and a digest of what is asked
ask_all         answers of the model; those that were asked for before come from their file
figures_of      metrics over all items and slices, paired with the baseline's on the same items
decide          verdicts of the gate
write_report    one committed folder, from which a later evaluation takes its baseline
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf.config import as_plain
from rlhf.evaluation.areas import area_rows
from rlhf.evaluation.gate_checks import Measurement
from rlhf.evaluation.gate_config import GateConfig
from rlhf.evaluation.gates import GateResult, check_known, decide
from rlhf.evaluation.overall import check_weights, usual_weights
from rlhf.evaluation.results import Figure, figure_names, figures_of, metrics_of, score
from rlhf.evaluation.suite import Suite, load_suite
from rlhf.evaluation.verdicts import terminal_table
from rlhf.evaluation_config import EvaluationConfig
from rlhf.stages.console import CONSOLE, show_table
from rlhf.stages.evaluation.answers import ask_all
from rlhf.stages.evaluation.baseline import Baseline, open_baseline
from rlhf.stages.evaluation.report import figure_rows, in_order, rows_of_areas, write_report
from rlhf.stages.evaluation.words import WORDS
from rlhf.stages.start import as_first_started
from rlhf.train.artifact import MANIFEST, committing
from rlhf.train.run_folder import REPORT, look_at_run_folder, open_run_folder
from rlhf.types import InputError

SHOWN_CHARACTERS = 2000
"""Characters of a prompt that a dry run shows."""


def run(config: EvaluationConfig) -> GateResult | None:
    """Evaluate the model and return the gate's verdicts, or with `dry_run` only check and show the first prompts.

    Raises InputError before Ray starts if the input is wrong.
    """
    config = as_first_started(config)
    suites = [load_suite(name, each, config.suite_root) for name, each in config.suite.items()]
    metrics = {suite.name: metrics_of(suite.name, suite.config.metrics) for suite in suites}
    baseline = None if config.baseline is None else open_baseline(config.baseline, suites)
    names = [name for suite in suites for name in figure_names(suite, metrics[suite.name])]
    check_gate(config.gate, names, baseline)
    check_weights(config.overall, metrics)
    weights = config.overall or usual_weights(metrics)
    if config.dry_run:
        look_at_run_folder(config.output, as_plain(config))
        show_first_items(suites)
        return None
    with open_run_folder(config.output, as_plain(config)) as folder:
        answers = ask_all(config, suites, folder.root)
        scores = [
            score(suite, metrics[suite.name], answers[suite.name], baseline.answers_to(suite) if baseline else None)
            for suite in suites
        ]
        figures = [figure for each in scores for figure in figures_of(each)]
        areas = area_rows(scores, figures, weights)
        verdicts = decide(config.gate, measured_by_name(figures, baseline))
        report = folder.root / REPORT
        if not (report / MANIFEST).is_file():
            by_name = {figure.name: figure.estimate.mean for figure in figures}
            with committing(report, {"kind": "evaluation", "config": as_plain(config), "metrics": by_name}) as staging:
                write_report(staging, config, suites, answers, figures, areas, verdicts, baseline)
    words = WORDS[config.language]
    show_table(words.figures, words.columns(baseline is not None), figure_rows(in_order(figures), config.language))
    if areas:
        show_table(words.areas, words.area, rows_of_areas(areas, config.language))
    if verdicts.verdicts:
        CONSOLE.print(terminal_table(verdicts, config.language))
    CONSOLE.print(f"report: {report}", soft_wrap=True)
    return verdicts


def check_gate(gate: GateConfig, names: Sequence[str], baseline: Baseline | None) -> None:
    """Raise InputError for a condition on a figure that no suite gives, or one for which the baseline is missing."""
    for condition in gate.conditions:
        check_known(condition, names)
        suite = condition.figure.partition("/")[0]
        if condition.needs_baseline and (baseline is None or suite not in baseline.answers):
            raise InputError(
                f"gate: {condition.kind} of {condition.figure} compares with a baseline, and none was evaluated on "
                f"suite.{suite}: set baseline to the folder of an evaluation that has it"
            )


def measured_by_name(figures: Sequence[Figure], baseline: Baseline | None) -> Mapping[str, Measurement]:
    digests = baseline.digests if baseline else {}
    return {figure.name: figure.as_measurement(digests.get(figure.suite)) for figure in figures}


def show_first_items(suites: Sequence[Suite]) -> None:
    """Show the first prompt of every suite."""
    for suite in suites:
        item = suite.items[0]
        CONSOLE.print(
            f"\n{suite.name}: {len(suite.items)} items; the first, {item.where}", markup=False, soft_wrap=True
        )
        for message in item.messages:
            text = str(message["content"])[:SHOWN_CHARACTERS]
            CONSOLE.print(f"{message['role']}: {text}", markup=False, soft_wrap=True)
        rights = item.references or tuple(item.choices[index] for index in item.right)
        CONSOLE.print(f"right: {' | '.join(rights)[:SHOWN_CHARACTERS]}", markup=False, soft_wrap=True)
