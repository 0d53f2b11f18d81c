"""Write the reference of every configuration key, from the dataclasses: `python docs/tools/keys.py FOLDER`."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlhf.config import ALGORITHMS, DATA, CompareConfig, OnlineConfig
from rlhf.evaluation_config import EvaluationConfig
from rlhf.help.fields import Key, keys_of
from rlhf.offline_config import PreferenceRunConfig, RewardModelRunConfig, SFTRunConfig
from rlhf.pipelines.config import FunctionConfig, PipelineConfig
from rlhf.sweeps.config import SweepRunConfig
from serve.client import PowerConfig, StartConfig
from serve.config import ServeConfig
from serve.feedback.export import ExportRunConfig
from serve.feedback.forget import ForgetConfig
from serve.gateway.api_keys import AddConfig

SCHEMAS: dict[str, tuple[str, type[Any]]] = {
    "online": ("launch/ppo.py", OnlineConfig),
    "sft": ("launch/sft.py", SFTRunConfig),
    "reward_model": ("launch/reward_model.py", RewardModelRunConfig),
    "preference": ("launch/dpo.py", PreferenceRunConfig),
    "compare": ("launch/compare.py", CompareConfig),
    "evaluate": ("launch/evaluate.py", EvaluationConfig),
    "pipeline": ("launch/pipeline.py", PipelineConfig),
    "function": ("launch/pipeline.py, a stage of kind function", FunctionConfig),
    "sweep": ("launch/sweep.py", SweepRunConfig),
    "serve": ("launch/serve.py", ServeConfig),
    "release": ("launch/release.py start", StartConfig),
    "power": ("launch/release.py power", PowerConfig),
    "keys": ("launch/keys.py add", AddConfig),
    "export": ("launch/export_feedback.py", ExportRunConfig),
    "forget": ("launch/forget.py", ForgetConfig),
}
"""By name of the page: the command that reads the keys, and their dataclass."""
GROUPS = {"algorithm": ALGORITHMS, "data": DATA}
"""Choices whose keys differ, by the key of the group."""


def pages() -> dict[str, str]:
    """Return the text of each page, by file name."""
    texts = {f"{name}.md": page(command, schema) for name, (command, schema) in SCHEMAS.items()}
    rows = [f"| `{cmd}` | [{name}]({name}.md) | {summary(schema)} |" for name, (cmd, schema) in SCHEMAS.items()]
    texts["index.md"] = (
        "# Every key\n\nMade by `make docs` from the dataclasses: the sentence of a key stands under its field in the "
        "source. How keys are set: [Configuration](../configuration.md).\n\n"
        "| command | keys | purpose |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )
    return texts


def page(command: str, schema: type[Any]) -> str:
    keys = list(keys_of(schema, OmegaConf.structured(schema)))
    parts = [f"# Keys of `{command}`", summary(schema), table(keys_below("", keys))]
    for key in keys:
        choices = list(choices_of(schema, key.path))
        if key.is_section or choices:
            parts += [f"## `{key.path}`", key.sentence, table(keys_below(f"{key.path}.", keys))]
        for name, choice in choices:
            own = keys_of(choice, OmegaConf.structured(choice), f"{key.path}.")
            parts += [f"### `{key.path}={name}`", summary(choice), table(own, anchors=False)]
    return "\n\n".join(filter(None, parts)) + "\n"


def keys_below(prefix: str, keys: Iterable[Key]) -> list[Key]:
    """Return the keys of one section, without its sections, which have tables of their own."""
    own = [key for key in keys if key.path.startswith(prefix) and not key.is_section]
    return [key for key in own if "." not in key.path.removeprefix(prefix).replace(".NAME", "")]


def choices_of(schema: type[Any], path: str) -> Iterator[tuple[str, type[Any]]]:
    """Yield the choices of a group that the field takes."""
    declared = typing.get_type_hints(schema).get(path)
    for name, choice in GROUPS.get(path, {}).items():
        if isinstance(declared, type) and issubclass(choice, declared):
            yield name, choice


def table(keys: Iterable[Key], *, anchors: bool = True) -> str:
    """Return a table of keys; empty without keys."""
    rows = [f"| {name(key, anchors)} | {default(key)} | {cell(key.sentence)} *{cell(key.type)}* |" for key in keys]
    lines = ["| key | default | meaning, *type* |", "| --- | --- | --- |", *rows]
    return "\n".join(['<div class="keys" markdown>\n', *lines, "\n</div>"]) if rows else ""


def name(key: Key, anchored: bool) -> str:
    """Return the key, with an anchor unless several choices of the page have one of its name."""
    return f'<a id="{key.path}"></a>`{key.path}`' if anchored else f"`{key.path}`"


def default(key: Key) -> str:
    return "must be set" if key.default is None else f"`{cell(key.default) or ' '}`"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def summary(schema: type[Any]) -> str:
    """Return the first paragraph of a dataclass's docstring, on one line."""
    return " ".join((schema.__doc__ or "").partition("\n\n")[0].split())


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.md"):
        stale.unlink()
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
