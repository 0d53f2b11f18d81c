"""Mermaid flowcharts as SVG, so that the site draws them without a script: the part of the language used in docs/.

`flowchart LR`, nodes `name[text]`, edges `a --> b`, `a -->|text| b`, and `a -.-> b` for an edge that goes back.
"""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from svg import LINE, Box, document, lines_in, path, text, width_of

NODE = r"(\w+)(?:\[([^\]]+)\])?"
EDGE = re.compile(rf"^\s*{NODE}\s*(-->|-\.->)(?:\|([^|]+)\|)?\s*{NODE}\s*$")
CHARACTERS, GAP, LANE, PADDING = 18, 46, 22, 12
CSS = """
.flow rect { fill: var(--md-code-bg-color, #f5f5f5); stroke: var(--md-primary-fg-color, #4051b5); }
.flow text { fill: var(--md-default-fg-color, #222); font-size: 12px; }
.flow .note { font-size: 11px; paint-order: stroke; stroke: var(--md-default-bg-color, #fff); stroke-width: 4px; }
.flow .edge { fill: none; stroke: var(--md-default-fg-color--light, #666); stroke-width: 1.3; }
.flow .back { stroke-dasharray: 5 4; }
.flow .head { fill: var(--md-default-fg-color--light, #666); }"""


@dataclass(frozen=True, slots=True)
class Edge:
    source: str
    target: str
    note: str
    is_back: bool


def parse(source: str) -> tuple[dict[str, list[str]], list[Edge]]:
    """Return the lines of text by node, and the edges. Raises ValueError at a line that is not understood."""
    first, *rest = [line for line in source.splitlines() if line.strip()]
    if first.strip() != "flowchart LR":
        raise ValueError(f"{first!r}: docs/tools/mermaid.py draws `flowchart LR` alone")
    labels: dict[str, str] = {}
    edges = []
    for line in rest:
        match = EDGE.match(line)
        if match is None:
            raise ValueError(f"{line!r}: docs/tools/mermaid.py reads one edge per line, `a[text] -->|text| b[text]`")
        one, one_label, arrow, note, other, other_label = match.groups()
        for name, label in ((one, one_label), (other, other_label)):
            labels[name] = label or labels.get(name, name)
        edges.append(Edge(one, other, note or "", arrow == "-.->"))
    return {name: textwrap.wrap(label, CHARACTERS) for name, label in labels.items()}, edges


def ranks(labels: dict[str, list[str]], edges: list[Edge]) -> dict[str, int]:
    """Return the column of each node: one after the last of the nodes before it. Edges that go back do not count."""
    rank = dict.fromkeys(labels, 0)
    ahead = [edge for edge in edges if not edge.is_back]
    for _ in labels:
        for edge in ahead:
            rank[edge.target] = max(rank[edge.target], rank[edge.source] + 1)
    if max(rank.values(), default=0) >= len(labels):
        raise ValueError("a cycle: draw the edge that goes back as -.->")
    return rank


def place(labels: dict[str, list[str]], edges: list[Edge]) -> dict[str, Box]:
    columns: dict[int, list[str]] = defaultdict(list)
    # Edges that go back leave a box at its bottom, where no other box may lie.
    returning = {edge.source for edge in edges if edge.is_back}
    for name, rank in sorted(ranks(labels, edges).items(), key=lambda item: item[0] in returning):
        columns[rank].append(name)
    height = {name: LINE * len(lines) + 2 * PADDING for name, lines in labels.items()}
    column_heights = [sum(height[name] + PADDING for name in names) for names in columns.values()]
    boxes: dict[str, Box] = {}
    x = 4.0
    for rank in sorted(columns):
        names = columns[rank]
        width = max(width_of(line) for name in names for line in labels[name]) + 2 * PADDING
        y = 4 + (max(column_heights) - sum(height[name] + PADDING for name in names)) / 2
        for name in names:
            boxes[name] = Box(x=x, y=y, width=width, height=height[name])
            y += height[name] + PADDING
        x += width + max([GAP, *(width_of(edge.note, 6) + 24 for edge in edges if edge.source in names)])
    return boxes


def draw(source: str, name: str = "flow") -> str:
    labels, edges = parse(source)
    boxes = place(labels, edges)
    lowest = max(box.bottom[1] for box in boxes.values())
    parts: list[str] = []
    lane = lowest
    for edge in edges:
        one, other = boxes[edge.source], boxes[edge.target]
        if edge.is_back:
            lane += LANE
            parts += back_edge(one, other, edge.note, lane, name)
        else:
            parts += ahead_edge(one, other, edge.note, name)
    for node, box in boxes.items():
        parts.append(
            f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="6"/>'
        )
        parts += lines_in(box, labels[node], "label")
    width = max(box.right[0] for box in boxes.values()) + 4
    return document(
        width, lane + 12, parts, title=", ".join(" ".join(lines) for lines in labels.values()), css=CSS, name=name
    )


def ahead_edge(one: Box, other: Box, note: str, name: str) -> list[str]:
    (x1, y1), (x2, y2) = one.right, other.left
    middle = (x1 + x2) / 2
    drawn = [path(f"M{x1:.0f},{y1:.0f} C{middle:.0f},{y1:.0f} {middle:.0f},{y2:.0f} {x2:.0f},{y2:.0f}", name)]
    return [*drawn, text(middle, (y1 + y2) / 2 - 6, note, "note")] if note else drawn


def back_edge(one: Box, other: Box, note: str, lane: float, name: str) -> list[str]:
    (x1, y1), (x2, y2) = one.bottom, other.bottom
    turn = 8 if x2 < x1 else -8
    data = (
        f"M{x1:.0f},{y1:.0f} V{lane - 8:.0f} Q{x1:.0f},{lane:.0f} {x1 - turn:.0f},{lane:.0f} "
        f"H{x2 + turn:.0f} Q{x2:.0f},{lane:.0f} {x2:.0f},{lane - 8:.0f} V{y2:.0f}"
    )
    return [path(data, name, "edge back"), text((x1 + x2) / 2, lane - 5, note, "note")]


class Fence:
    """A superfence that draws `mermaid` blocks; each gets a name of its own."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, source: str, language: str, class_name: str, options: Any, md: Any, **_: Any) -> str:
        self.number += 1
        try:
            return draw(source, f"flow{self.number}")
        except ValueError as error:
            # The extension turns an Exception into a code block, without a word.
            raise SystemExit(f"a diagram cannot be drawn: {error}") from error
