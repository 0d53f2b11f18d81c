"""Choices that work with a command: recipes, algorithms and other files of `conf/` that fit its configuration."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.help.fields import description_of


class Unfit(Exception):
    """A choice overrides a group that the command does not have."""


class Choices:
    """The groups of a primary configuration (`online`, `sft`, ...) and the choices in each that fit it.

    A choice fits if its content merges into the configuration's dataclass: every key is declared there, and an
    algorithm or data set is of the class that its field declares. Merging costs a tenth of a composition by Hydra.
    """

    def __init__(self, loader: ConfigLoader, config_name: str) -> None:
        composed = loader.load_configuration(config_name, [], run_mode=RunMode.RUN)
        self.loader = loader
        self.chosen: dict[str, str | None] = {
            str(group): name
            for group, name in composed.hydra.runtime.choices.items()
            if not str(group).startswith("hydra/")
        }
        """Default choice of each group."""
        self.schema = type_of(composed)
        self.empty = OmegaConf.structured(self.schema)
        self.files: dict[str, Any] = {}

    def fitting(self, group: str) -> list[str]:
        """Return the fitting names of a group in alphabetical order; none if the configuration has no such group."""
        if group not in self.chosen:
            return []
        return [name for name in sorted(self.loader.get_group_options(group)) if self.fits(group, name)]

    def own_class(self, group: str, composed: DictConfig) -> str | None:
        """Return the name of the user's own class that a composed configuration has in a group; None if it has none."""
        name = composed.hydra.runtime.choices.get(group)
        return name if name is not None and name not in self.loader.get_group_options(group) else None

    def fits(self, group: str, name: str) -> bool:
        """Return whether a choice, with its overrides of other groups, merges into this configuration."""
        chosen = {other: choice for other, choice in self.chosen.items() if other != group}
        try:
            own = list(self.layers(group, name, chosen))
            others = [layer for other, choice in chosen.items() if choice for layer in self.layers(other, choice, {})]
            OmegaConf.merge(self.empty, *others, *own)
        except (Unfit, OmegaConfBaseException):
            return False
        return True

    def layers(self, group: str, name: str, chosen: dict[str, str | None]) -> Iterator[DictConfig]:
        """Yield the content of a choice at its place in the configuration, after the files in its defaults; its
        overrides of groups are written to `chosen`."""
        loaded = self.loaded(group, name)
        for default in loaded.defaults_list or ():
            if isinstance(default, ConfigDefault) and not default.is_self():
                yield from self.layers(group, str(default.path), chosen)
            elif isinstance(default, GroupDefault):
                other = str(default.group).removeprefix("/")
                if default.is_override() and other not in chosen:
                    raise Unfit(other)
                chosen[other] = default.get_name()
        yield loaded.config if self.is_global(group, name) else OmegaConf.create({group: loaded.config})

    def loaded(self, group: str, name: str) -> Any:
        """Read a choice as Hydra does: `config`, `defaults_list` and `header`."""
        place = f"{group}/{name}"
        if place not in self.files:
            # Hydra has no public function that reads one file.
            self.files[place] = self.loader.repository.load_config(place)  # type: ignore[attr-defined]
        return self.files[place]

    def is_recipe(self, group: str) -> bool:
        """Return whether choices of a group set keys of the whole configuration."""
        return all(self.is_global(group, name) for name in self.loader.get_group_options(group))

    def is_global(self, group: str, name: str) -> bool:
        return bool(self.loaded(group, name).header.get("package") == "_global_")

    def description(self, group: str, name: str) -> str:
        """Return the comment at the top of a file up to its first full stop, or the docstring of a dataclass."""
        for place in self.loader.get_search_path().get_path():
            file = Path(place.path.removeprefix("file://"), group, f"{name}.yaml")
            if file.is_file():
                return first_comment(file.read_text(encoding="utf-8"))
        return description_of(type_of(self.loaded(group, name).config))


def type_of(composed: DictConfig) -> type[Any]:
    schema = OmegaConf.get_type(composed)
    assert schema is not None
    return schema


def first_comment(text: str) -> str:
    """Return the first sentence or sentences of a file's comment, to the end of a line; empty if it has none."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#") or (lines and lines[-1].endswith(".")):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def choices_at(error: BaseException) -> Choices | None:
    """Return the choices of the configuration whose composition failed; None if Hydra did not begin to compose one.

    Hydra's errors do not name the configuration, so it is read from the local variables in the traceback.
    """
    loader = name = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_locals.get("config_name") or name
        if isinstance(own := frame.f_locals.get("self"), ConfigLoader):
            loader = own
    return Choices(loader, re.sub(r"\.yaml$", "", name)) if loader is not None and name is not None else None
