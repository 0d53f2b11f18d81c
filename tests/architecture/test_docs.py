"""Links, anchors, paths, keys, recipes and targets that the pages name exist; both READMEs have the same content."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from tests.known_keys import ALL_KEYS, exists, keys_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
READMES = (ROOT / "README.md", ROOT / "README.zh.md")
PAGES = [*READMES, *sorted(DOCS.rglob("*.md"))]
OTHERS_KEYS = DOCS / "coming_from.md"
"""Names other systems' keys; tests/unit/config/test_coming_from.py checks ours in it."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OUR_PATH = re.compile(r"(?:rlhf|serve|tests|launch|benchmarks|conf|docs|requirements)/[\w./-]*\w")
KEY = re.compile(r"\+?([a-z]\w*(?:\.\w+)*)(?:=|\.\*|$)")
EXAMPLES = {"mine", "NAME"}
KEYS = ALL_KEYS | {"algorithm.max_advantage", "algorithm.class"}
"""Those of commands, one of the class in docs/extending.md, and one that a run with such a class records."""
SECTIONS = {key.partition(".")[0] for key in ALL_KEYS if "." in key}
STUDENT_PAGES = ("install.md", "data.md", "online_rl.md", "algorithms.md", "offline_training.md", "evaluation.md")
CHOICES = {"experiment", "pipeline", "service", "suite"}
"""Groups whose choices are files of conf/, beside those of the dataclasses."""


def prose(page: Path) -> str:
    """Return the text without blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[str]:
    """Yield commands of shell blocks, continued lines joined, without comments."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "bash":
            lines = re.sub(r"\\\n", " ", block).splitlines()
            yield from (re.sub(r"\s#.*", "", line) for line in lines)


@cache
def anchors(page: Path) -> set[str]:
    """Return anchors as GitHub and mkdocs make them of headings, and those that the page sets."""
    text = page.read_text(encoding="utf-8")
    headings = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in headings_of(page)]
    return {slug(title) for title in headings} | set(re.findall(r'<a id="([^"]+)"', text))


def slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def headings_of(page: Path) -> list[str]:
    return [title for _, title in headings_with_levels(page)]


def headings_with_levels(page: Path) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


@cache
def key_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("key_reference", DOCS / "tools/keys.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_made_by_mkdocs(page: Path) -> bool:
    """Return whether `make docs` makes the page: one of keys, or one of the API of a package."""
    if page.parent.name == "reference":
        return page.name in {"index.md", *(f"{name}.md" for name in key_reference().SCHEMAS)}
    return page.parent.name == "api" and (ROOT / page.stem.replace(".", "/") / "__init__.py").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_exist(page):
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if page not in READMES and place.is_relative_to(DOCS) and is_made_by_mkdocs(place):
            continue
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", [page for page in PAGES if page != OTHERS_KEYS], ids=lambda page: page.name)
def test_what_code_names_exists(page):
    spans = CODE.findall(prose(page))
    paths = [path for span in spans for path in re.findall(OUR_PATH, span) if span.startswith(path)]
    missing = [path for path in paths if Path(path).stem not in EXAMPLES and not (ROOT / path).exists()]
    keys = [match[1] for span in spans if (match := KEY.match(span)) and is_key(span, match[1])]
    missing += [key for key in keys if key not in CHOICES and not exists(key, KEYS)]
    assert not missing


def is_key(span: str, key: str) -> bool:
    """Return whether a span names a key: one that is set, or a dotted one below a section that exists."""
    is_file = re.search(r"\.(py|jsonl?|md|png|ya?ml|parquet)\b", span.partition("=")[0])
    return not is_file and (
        span.removeprefix("+").startswith(f"{key}=") or (key.partition(".")[0] in SECTIONS and "." in key)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_scripts_and_keys_that_exist(page):
    missing = []
    for command in commands(page):
        script, *words = command.partition("python ")[2].split() or [""]
        if re.match(r"(launch|serve)/", script):
            missing += [script] if not (ROOT / script).is_file() else []
            keys = [match[1] for word in words if (match := re.match(r"'?\+?([a-z][\w.]*)=", word))]
            missing += [key for key in keys if key not in CHOICES and not exists(key, KEYS)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_and_targets_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\b(experiment|pipeline|service)=(\w+)", text)
    missing = [
        name for group, name in named if name not in EXAMPLES and not (ROOT / f"conf/{group}/{name}.yaml").is_file()
    ]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    code = CODE.findall(text) + [line for _, block in FENCE.findall(text) for line in block.splitlines()]
    missing += [span for span in code if (match := re.match(r"make ([a-z-]+)", span)) and match[1] not in targets]
    assert not missing


WRONG = """# One

`stream.max_stale=1` and `owner=me` [a](#one) [b](#two)

```bash
python launch/none.py
```
"""


def test_what_does_not_exist_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(WRONG)
    keys = [match[1] for span in CODE.findall(prose(page)) if (match := KEY.match(span)) and is_key(span, match[1])]
    assert [exists(key, KEYS) for key in keys] == [False, True]
    assert anchors(page) == {"one"}
    with pytest.raises(AssertionError, match=r"launch/none\.py"):
        test_commands_name_scripts_and_keys_that_exist(page)
    with pytest.raises(AssertionError, match="#two"):
        test_links_and_anchors_exist(page)


def texts_in_source() -> str:
    """Return every string of rlhf/ and serve/, a placeholder of an f-string as a line end."""
    texts = []
    for path in [*(ROOT / "rlhf").rglob("*.py"), *(ROOT / "serve").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "\n" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_errors_are_quoted_as_they_are():
    rows = re.findall(r"^\| (.*?) \|", prose(DOCS / "troubleshooting.md"), re.MULTILINE)
    quoted = [span for row in rows for span in CODE.findall(row) if " " in span and not span.startswith("ray ")]
    pieces = [piece.strip() for span in quoted for piece in span.split("...") if piece.strip()]
    source = texts_in_source()
    assert len(pieces) > 15
    assert not [piece for piece in pieces if piece not in source]


def test_recipes_are_all_listed():
    listed = CODE.findall((DOCS / "recipes.md").read_text(encoding="utf-8"))
    names = [path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")]
    assert not [name for name in names if name not in listed and not name.startswith("tiny_")]


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.parent.name != "decisions"]
    assert not [page for page in pages if page not in text]
    listed = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert not [page.name for page in (DOCS / "decisions").iterdir() if f"(decisions/{page.name})" not in listed]


def test_every_key_is_in_the_reference():
    pages = key_reference().pages()
    for name, (_, schema) in key_reference().SCHEMAS.items():
        keys = {key.removesuffix(".*") for key in keys_of(schema)}
        assert not [key for key in keys if f"`{key}`" not in pages[f"{name}.md"]]


def test_the_readme_is_short():
    assert all(len(readme.read_text(encoding="utf-8").splitlines()) <= 200 for readme in READMES)


BILINGUAL = [READMES, *((DOCS / name, DOCS / "zh" / name) for name in STUDENT_PAGES)]


@pytest.mark.parametrize(("english", "chinese"), BILINGUAL, ids=[pair[0].name for pair in BILINGUAL])
def test_both_languages_have_the_same_sections_figures_and_commands(english, chinese):
    assert [level for level, _ in headings_with_levels(english)] == [
        level for level, _ in headings_with_levels(chinese)
    ]
    assert numbers(english) == numbers(chinese)
    assert list(without_comments(english)) == list(without_comments(chinese))


def numbers(page: Path) -> list[str]:
    """Return the numbers of the text in order of size, those of commands and links left out."""
    text = re.sub(r"\]\([^)]*\)", "]", prose(page))
    return sorted(re.findall(r"\d[\d.,]*\d|\d", text))


def without_comments(page: Path) -> Iterator[str]:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        yield "" if language == "mermaid" else re.sub(r"\s*#.*|<[^>]*>", "", block)


def test_pictures_are_what_their_source_draws(tmp_path):
    program = "import picture, sys; [sys.stdout.write(picture.picture(words)) for words in picture.PICTURES.values()]"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=DOCS / "tools", capture_output=True, text=True, check=True
    )
    assert done.stdout == "".join(
        (DOCS / name).read_text(encoding="utf-8") for name in ("picture.svg", "picture.zh.svg")
    )


def test_diagrams_can_be_drawn():
    sources = [block for page in PAGES for language, block in FENCE.findall(page.read_text()) if language == "mermaid"]
    assert len(sources) >= 3
    program = "import mermaid, sys; sys.stdout.write(mermaid.draw(sys.stdin.read()))"
    for source in sources:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=DOCS / "tools", input=source, capture_output=True, text=True, check=True)
        boxes = set(re.findall(r"^\s*(\w+)|(?:-->|-\.->)(?:\|[^|]*\|)?\s*(\w+)", source, re.MULTILINE)) - {
            ("flowchart", "")
        }
        assert done.stdout.count("<rect") == len({name for pair in boxes for name in pair if name})
