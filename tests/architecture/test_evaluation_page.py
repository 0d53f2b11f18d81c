"""The page about evaluation: its Python runs, and its tables are what conf/suite and the lookups have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from rlhf.evaluation.items import Answer
from rlhf.evaluation.layouts.lookup import LAYOUTS
from rlhf.evaluation.metrics.lookup import METRICS
from rlhf.evaluation.procedural import TASKS
from rlhf.evaluation.results import metrics_of
from rlhf.evaluation.suite import SuiteConfig, load_suite

ROOT = Path(__file__).parents[2]
PAGES = ("docs/evaluation.md", "docs/zh/evaluation.md")
SUITES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "conf/suite").glob("*.yaml")}


def cells_of(page: str, width: int) -> dict[str, list[str]]:
    """Return the rows of the tables of a width by their first code span."""
    lines = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row for row in rows if len(row) == width}


@pytest.mark.parametrize("page", PAGES)
def test_every_suite_is_in_the_table(page):
    rows = cells_of(page, 5)
    assert rows.keys() == SUITES.keys()
    for name, suites in SUITES.items():
        data = {"/".join(filter(None, (each["path"], each.get("files")))) for each in suites.values()}
        is_code = any(each["layout"] == "code" for each in suites.values() if "layout" in each)
        metrics = set() if is_code else {metric for each in suites.values() for metric in each["metrics"]}
        assert set(re.findall(r"`([^`]+)`", rows[name][1])) == data
        assert set(re.findall(r"`([^`]+)`", rows[name][3])) == metrics


@pytest.mark.parametrize("page", PAGES)
def test_every_layout_metric_and_task_is_named(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not [name for name in (*LAYOUTS, *METRICS, *TASKS) if f"`{name}`" not in text]


def test_a_layout_and_a_metric_of_ones_own_run(tmp_path):
    blocks = re.findall(r"^```(\w+)\n(# .*?)^```", (ROOT / PAGES[0]).read_text(), re.MULTILINE | re.DOTALL)
    code, recipe = (next(block for language, block in blocks if language == each) for each in ("python", "yaml"))
    (tmp_path / "my_suite.py").write_text(code, encoding="utf-8")
    rows = [{"id": 1, "riddle": "What has keys?", "solution": "Piano"}]
    (tmp_path / "riddles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys = yaml.safe_load(recipe.replace("/path/to", str(tmp_path)))["riddles"]
    suite = load_suite("riddles", SuiteConfig(**keys), str(tmp_path))
    assert suite.items[0].messages[0]["content"] == "What has keys?"
    (metric,) = metrics_of("riddles", keys["metrics"]).values()
    answers = [Answer(item="1", text=text) for text in ("A Piano.", "a piano")]
    statistics = metric.statistics([suite.items[0]] * 2, answers)
    assert statistics.tolist() == [[1.0, 1.0], [1.0, 0.0]]
