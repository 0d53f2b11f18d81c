"""The READMEs and the page on architecture show the step that runs."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP = re.compile(r"^ *async def step\(self, groups\b", re.MULTILINE)


def method_source(path: Path, class_name: str, method_name: str) -> str:
    """The lines of a method, comments at their ends included, without indentation."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for method in node.body:
                if getattr(method, "name", None) == method_name:
                    lines = text.splitlines()[method.lineno - 1 : method.end_lineno]
                    return textwrap.dedent("\n".join(lines))
    raise AssertionError(f"{path.relative_to(ROOT)} has no {class_name}.{method_name}")


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "docs/architecture.md"])
def test_readme_step_is_the_code_step(page):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    shown = [textwrap.dedent(block).rstrip() for block in blocks if STEP.search(block)]
    assert shown == [method_source(ROOT / "rlhf/train/online.py", "OnlineTrainer", "step")]
