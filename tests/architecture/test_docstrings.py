"""Docstrings open with a verb or a noun, not with a bare preposition, pronoun or question word."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BARE = {
    *("Of", "By", "In", "On", "At", "From", "To", "With", "Without", "Within", "Under", "Over", "Between", "After"),
    *("Before", "Beside", "Past", "Per", "As", "For", "Until", "Since", "Among", "Above", "Below", "Through"),
    *("What", "How", "Whether", "Who", "Whoever", "Whom", "Whose", "Which", "Where", "When", "Why"),
    *("It", "Its", "They", "Their", "This", "That", "These", "Those", "He", "She"),
}


AVOIDED = re.compile(r"\b(anew|kin|mend|told|whoever)\b", re.IGNORECASE)


def bare_openings(source: str) -> Iterator[tuple[int, str]]:
    """Lines of docstrings, of fields and constants too, that open with one of `BARE` or use an `AVOIDED` word, and the
    word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            word = re.match(r"\s*([A-Za-z]+)", node.value.value)
            if word and word[1] in BARE:
                yield node.lineno, word[1]
            yield from ((node.lineno, avoided) for avoided in AVOIDED.findall(node.value.value))


def test_docstrings_open_with_a_verb_or_a_noun():
    found = [
        f"{path.relative_to(ROOT)}:{line} {word}"
        for room in ("rlhf", "serve", "launch")
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, word in bare_openings(path.read_text())
    ]
    assert not found, "name the value, or say what the function does: " + ", ".join(found)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('"""What a run writes down."""', ["What"]),
        ('class A:\n    size: int = 1\n    """Of a row."""\n', ["Of"]),
        ('def f():\n    """Return what a run writes down."""\n', []),
        ('"""Start the engines anew."""', ["anew"]),
        ('SIZE = 1\n"""Its size."""\ntext = "Of a row."\n', ["Its"]),
    ],
)
def test_a_bare_opening_is_found(source, words):
    assert [word for _, word in bare_openings(source)] == words
