"""Docstrings open with a noun or a verb, and use the field's words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "serve").rglob("*.py"))

BARE = re.compile(
    r"(Of|What|By|Whether|How|Who|Whose|Whom|Whoever|Where|Why|Without|As|In|To|From|So|With|It|Its|Their|None)\b"
)
AVOIDED = re.compile(r"\b(anew|kin|mend|told|whoever)\b", re.IGNORECASE)


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """String literals that stand alone: docstrings, and the lines under fields and constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def test_docstrings_open_with_a_noun_or_a_verb_and_use_common_words():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0][:60]}"
        for path in FILES
        for line, text in docstrings(ast.parse(path.read_text()))
        if BARE.match(text) or AVOIDED.search(text)
    ]
    assert not found, "name the value, or say what the function does: " + "; ".join(found)
