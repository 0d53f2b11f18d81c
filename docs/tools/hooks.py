"""Pages that mkdocs builds beside the files of docs/: the keys, written by docs/tools/keys.py, and the API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mermaid import Fence
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
KEY_PAGES = ROOT / "build/key_pages"


def on_config(config: Any) -> Any:
    """Fill in the parts of the navigation that follow from files, and draw diagrams."""
    fence = {"name": "mermaid", "class": "mermaid", "format": Fence()}
    config["mdx_configs"]["pymdownx.superfences"] = {"custom_fences": [fence]}
    for section in config["nav"]:
        if "Reference" in section:
            section["Reference"] = [
                {"Keys": ["reference/index.md", *key_navigation()]},
                {"API": [{page_title(package): api_page(package)} for package in packages()]},
            ]
        for item in section.get("Understand", []):
            if "Decisions" in item:
                item["Decisions"] = [
                    f"decisions/{page.name}" for page in sorted((ROOT / "docs/decisions").glob("*.md"))
                ]
    return config


def on_files(files: Files, config: Any) -> Files:
    for page in key_pages():
        text = page.read_text(encoding="utf-8")
        files.append(File.generated(config, f"reference/{page.name}", content=text))
    for package in packages():
        files.append(File.generated(config, api_page(package), content=api_text(package)))
    return files


def key_pages() -> list[Path]:
    pages = sorted(KEY_PAGES.glob("*.md"))
    if not pages:
        raise SystemExit(f"{KEY_PAGES} has no pages: run `make docs`, or python docs/tools/keys.py {KEY_PAGES}")
    return pages


def key_navigation() -> list[dict[str, str]]:
    """Return the pages of keys in the order of their index, each under its command."""
    index = (KEY_PAGES / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| \[\w+\]\((\w+\.md)\)", index, re.MULTILINE)
    return [{command: f"reference/{page}"} for command, page in rows]


def packages() -> list[Path]:
    """Return the folders of rlhf/ and serve/ that hold modules, each a page of the API."""
    inits = [path for name in ("rlhf", "serve") for path in (ROOT / name).rglob("__init__.py")]
    folders = sorted(init.parent for init in inits)
    return [folder for folder in folders if "migrations" not in folder.parts and modules(folder)]


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def page_title(package: Path) -> str:
    return dotted(package)


def api_page(package: Path) -> str:
    return f"api/{dotted(package)}.md"


def api_text(package: Path) -> str:
    """Return a page with the documented members of each module, which mkdocstrings reads from the source."""
    directives = "\n\n".join(f"::: {dotted(module)}" for module in modules(package))
    return f"# {page_title(package)}\n\nFrom the docstrings of `{package.relative_to(ROOT)}/`.\n\n{directives}\n"
