"""The Grafana dashboard shows what a run exports, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.actors.metrics import METRICS, RUN

DASHBOARD = json.loads((Path(__file__).parents[2] / "launch/cluster/grafana/rlhf.json").read_text())
BY_NAME = {f"ray_{metric.name}": metric for metric in METRICS}
GRAFANA_UNITS = {"seconds": "s", "bytes": "bytes", "ratio": "percentunit"}


def targets() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    yield from ((panel, target) for panel in DASHBOARD["panels"] for target in panel["targets"])


def names(expression: str) -> list[str]:
    return re.findall(r"\bray_\w+", expression)


def tags(expression: str) -> set[str]:
    """Of selectors `{tag="..."}`, and of `by (tag, ...)`."""
    selected = [tag for inside in re.findall(r"\{(.*?)\}", expression) for tag in re.findall(r"(\w+)\s*[=!]", inside)]
    grouped = [tag for inside in re.findall(r"\bby \((.*?)\)", expression) for tag in re.split(r",\s*", inside)]
    return {*selected, *grouped}


def test_every_expression_is_of_exported_metrics_and_their_tags():
    for panel, target in targets():
        found = names(target["expr"])
        assert found, (panel["title"], target["expr"])
        assert set(found) <= set(BY_NAME), panel["title"]
        known = set.intersection(*(set(BY_NAME[name].tags) for name in found))
        used = tags(target["expr"])
        assert used <= known, panel["title"]
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= used, panel["title"]


def test_every_exported_metric_is_in_a_panel():
    assert {name for _, target in targets() for name in names(target["expr"])} == set(BY_NAME)


def test_every_panel_can_be_narrowed_to_a_run():
    assert all(f'{RUN}=~"$run"' in target["expr"] for _, target in targets())
    (variable,) = (variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "run")
    metric, tag = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert tag in BY_NAME[metric].tags


def test_panels_have_the_units_of_their_metrics():
    for panel, target in targets():
        (unit,) = {BY_NAME[name].unit for name in names(target["expr"])}
        assert panel["fieldConfig"]["defaults"]["unit"] == GRAFANA_UNITS.get(unit, "none"), panel["title"]


def test_panels_do_not_overlap():
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_end_in_their_base_unit(metric):
    """As Prometheus asks: https://prometheus.io/docs/practices/naming."""
    assert re.fullmatch(r"rlhf_[a-z_]+", metric.name)
    ending = metric.unit.replace(" ", "_")
    assert metric.name.endswith((ending, "_total")), metric.unit


def test_tags_of_an_expression_are_found():
    assert tags('max by (run, role) (a{run=~"$run", kind!="x"}) / sum by (phase) (b)') == {
        "run", "role", "kind", "phase"
    }  # fmt: skip
