"""Boxes, arrows and text as SVG."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

FONT = "font-family: system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"
LINE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle by its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height


def document(width: float, height: float, parts: Sequence[str], *, title: str, css: str, name: str) -> str:
    """Return an SVG whose styles and markers are named after it, so that several may stand on one page."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="flow {name}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img"><title>{escape(title)}</title>\n<style>\n{css}\n</style>\n'
        f'<defs><marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path class="head" d="M0,1 L10,5 L0,9 z"/></marker></defs>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def rectangle(box: Box, css_class: str, radius: float = 6) -> str:
    return (
        f'<rect class="{css_class}" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" '
        f'rx="{radius:.0f}"/>'
    )


def text(x: float, y: float, words: str, css_class: str, anchor: str = "middle") -> str:
    return f'<text class="{css_class}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(words)}</text>'


def lines_in(box: Box, lines: Sequence[str], css_class: str) -> list[str]:
    """Draw lines of text in the middle of a box."""
    first = box.y + box.height / 2 - LINE * (len(lines) - 1) / 2 + 4.5
    return [text(box.x + box.width / 2, first + LINE * number, line, css_class) for number, line in enumerate(lines)]


def path(data: str, name: str, css_class: str = "edge") -> str:
    return f'<path class="{css_class}" d="{data}" marker-end="url(#{name})"/>'


def width_of(words: str, per_letter: float = 6.6) -> float:
    """Return the estimated width of a text of 12 pixels; Chinese characters are as wide as two letters."""
    return per_letter * sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in words)
