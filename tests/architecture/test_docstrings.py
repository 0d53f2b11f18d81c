"""Docstrings open with a verb or a noun; docstrings, comments and messages use the words of the field."""

import ast
import io
import re
import tokenize
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
THIRD_PERSON = re.compile(r"(?:Keeps|Puts|Raises|Refuses|Returns|Waits|Writes|Yields|ApiError|InputError|RunError)\b")
"""Openings of functions' docstrings that are no verb in the imperative."""
UNUSUAL = re.compile(
    rf"{AVOIDED.pattern}|\b(?:is|are|was|were|not) there\b|\b(?:go|goes|going|went) on\b|\bwithout a word\b"
    r"|\b(?:Raises?|ApiError|InputError|RunError)\b[^.;:]{0,30} where\b|\b[Nn]one where\b"
)
"""Words for which the field has others: again, fix, exists, continues, silently, `Raises InputError if`, `None if`."""


def bare_openings(source: str) -> Iterator[tuple[int, str]]:
    """Lines of docstrings, of fields and constants too, that open with one of `BARE` or use an `AVOIDED` word, and the
    word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            word = re.match(r"\s*([A-Za-z]+)", node.value.value)
            if word and word[1] in BARE:
                yield node.lineno, word[1]
            yield from ((node.lineno, avoided) for avoided in AVOIDED.findall(node.value.value))


def unusual_words(source: str) -> Iterator[tuple[int, str]]:
    """Lines of docstrings, comments and literals of three words or more that hold `UNUSUAL` words, and of functions'
    docstrings that open in the third person, and the words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) >= 3:
            yield from ((node.lineno, match[0]) for match in UNUSUAL.finditer(node.value))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            opening = THIRD_PERSON.match(ast.get_docstring(node) or "")
            if opening:
                yield node.lineno, opening[0]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from ((token.start[0], match[0]) for match in UNUSUAL.finditer(token.string))


def test_prose_uses_the_words_of_the_field():
    found = [
        f"{path.relative_to(ROOT)}:{line} {words!r}"
        for room in ("rlhf", "serve", "launch")
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, words in unusual_words(path.read_text())
    ]
    assert not found, "use the words of the field: " + ", ".join(found)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('def f():\n    """Returns the size."""\n', ["Returns"]),
        ('def f():\n    """Return the size. Raises InputError where it is unknown; None where it is 0."""\n',
         ["Raises InputError where", "None where"]),
        ('raise InputError(f"{path} is not there: mend it")\n', ["not there", "mend"]),
        ("size = 1  # it goes on, told by whoever\n", ["goes on", "told", "whoever"]),
        ('KEY = "go on"\n"""The mask is True where a token is learnt; there is none."""\n', []),
    ],
)  # fmt: skip
def test_unusual_words_are_found(source, words):
    assert [word for _, word in unusual_words(source)] == words


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
