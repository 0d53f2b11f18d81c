"""Choices of a group that are config classes outside the repository: `algorithm=/path/file.py:MyConfig`.

Hydra asks its sources for each choice by name, on a command line, in a recipe and in a sweep alike; one of them imports
it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from rlhf.lookup import find_attribute
from rlhf.types import InputError

OPEN_GROUPS: dict[str, tuple[type[Any], ...]] = {}
"""Groups that take such classes, with the classes from one of which they must derive."""
FORM = "package.module:Config or /path/file.py:Config"
SCHEME = "class"
LOADED: list[type[Any]] = []
"""Classes that were chosen in this process, the newest first."""


class ClassSource(ConfigSource):
    """The source of choices whose names have a colon, or end in `.py`, in a group that takes classes."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.partition("/")
        return group in OPEN_GROUPS and (":" in name or name.endswith(".py"))

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, name = config_path.partition("/")
        schema = find_config_class(group, name)
        LOADED.insert(0, schema)
        node = OmegaConf.structured(schema)
        return ConfigResult(provider=self.provider, path=self.full_path(), config=node, header={"package": None})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


class ClassSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("rlhf", f"{SCHEME}://")


Plugins.instance().register(ClassSource)
Plugins.instance().register(ClassSearchPath)


def find_config_class(group: str, spec: str) -> type[Any]:
    """The config class that `package.module:Config` or `/path/file.py:Config` names.

    Raises InputError unless it is a dataclass of one of the group's classes whose every key has a type Hydra knows.
    """
    schema, has = find_attribute(group, spec, "Config"), f"{group} has '{spec}'"
    bases = OPEN_GROUPS[group]
    if not (inspect.isclass(schema) and issubclass(schema, bases)):
        known = " or ".join(base.__name__ for base in bases)
        raise InputError(f"{has}, which is no subclass of {known}: name the config class, and derive it from one")
    if "." in schema.__qualname__:
        raise InputError(
            f"{has}, which is {schema.__qualname__}: define it at the top of its module, where sweeps and other "
            "processes find it"
        )
    if "__dataclass_fields__" not in vars(schema):
        raise InputError(f"{has}, which is no dataclass: write @dataclass(kw_only=True, slots=True) above it")
    try:
        without_type = list(untyped(schema))
    except OSError as error:
        raise InputError(f"{has}, whose source cannot be read ({error}): write it as a class in a file") from error
    if without_type:
        name = without_type[0]
        raise InputError(f"{has}, where {name} has no type, so that it is no key: write {name}: TYPE = VALUE")
    try:
        OmegaConf.structured(schema)
    except Exception as error:
        reason, key = str(error).partition("\n")[0], getattr(error, "full_key", None) or "a field"
        raise InputError(
            f"{has}, where {key} cannot be a key ({reason}): give it the type bool, int, float, str, an Enum, a "
            "dataclass, or a list or dict of these, with `| None` where null is allowed, and a value of that type"
        ) from error
    return schema


def untyped(schema: type[Any]) -> Iterator[str]:
    """Names that a class assigns without a type, of which a dataclass makes no field, or keeps the default of a base.

    Class variables that a base declares take a value without one. Raises OSError if a class has no source.
    """
    # With slots, a dataclass forgets such a value of a field that a base declares: only the source still has it.
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    assert isinstance(definition, ast.ClassDef)
    assigned = [target for node in definition.body if isinstance(node, ast.Assign) for target in node.targets]
    fields = {declared.name for declared in dataclasses.fields(schema)}
    for name in (target.id for target in assigned if isinstance(target, ast.Name)):
        is_class_variable = name not in fields and any(name in vars(base) for base in schema.__mro__[1:])
        if not (name.startswith("_") or is_class_variable or hasattr(type(vars(schema).get(name)), "__get__")):
            yield name
