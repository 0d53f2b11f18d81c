"""The keys of a configuration, each with the docstring under its field in the source."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from rlhf.overrides import as_value

ANY_NAME = "NAME"
"""Placeholder in a key for the names that a user gives to the entries of a dict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as it is set on the command line."""

    path: str
    type: str
    default: str | None
    """The value in the syntax of an override; None if the key must be set."""
    sentence: str
    """Documentation, on one line."""
    is_section: bool = False
    """True for a key with subkeys, which follow it."""


def keys_of(schema: type[Any], node: DictConfig, prefix: str = "") -> Iterator[Key]:
    """Yield all keys of a dataclass, with their values in `node`, depth first; entries of dicts are called NAME."""
    hints, sentences = get_type_hints(schema), sentences_of(schema)
    values = plain(node)
    for name in (declared.name for declared in dataclasses.fields(schema)):
        path, hint, nested = f"{prefix}{name}", hints[name], None
        if dataclasses.is_dataclass(hint) and not OmegaConf.is_missing(node, name):
            nested = OmegaConf.get_type(node, name)
        value = values.get(name, MISSING)
        yield Key(path=path, type=type_name(hint), default=None if value == MISSING else shown(value),
                  sentence=sentences.get(name, ""), is_section=nested is not None)  # fmt: skip
        entry = get_args(hint)[1] if get_origin(hint) is dict else None
        if nested is not None:
            yield from keys_of(nested, node[name], f"{path}.")
        elif dataclasses.is_dataclass(entry) and isinstance(entry, type):
            yield from keys_of(entry, OmegaConf.structured(entry), f"{path}.{ANY_NAME}.")


def plain(node: DictConfig) -> Mapping[str, Any]:
    values = OmegaConf.to_container(node, resolve=False, enum_to_str=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def shown(value: Any) -> str:
    """Return a value in the syntax of an override."""
    if isinstance(value, Mapping):
        entries = ((str(key).replace(":", "\\:"), shown(entry)) for key, entry in value.items())
        return f"{{{','.join(f'{key}: {entry}' for key, entry in entries)}}}"
    return as_value(value)


def type_name(hint: Any) -> str:
    """Return a type in words: `int`, `fp32 or bf16`, `list of str`, `float or null`."""
    if get_origin(hint) in (types.UnionType, Union):
        return " or ".join(type_name(choice) for choice in get_args(hint))
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(choice.name for choice in hint)
    if get_origin(hint) in (list, tuple):
        return f"list of {type_name(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return f"dict of {type_name(get_args(hint)[1])}"
    if dataclasses.is_dataclass(hint):
        return "keys"
    return "any" if hint is Any else str(hint.__name__)


def sentences_of(schema: type[Any]) -> dict[str, str]:
    """Return the string literal under each field of a dataclass, on one line; a class overrides its bases."""
    sentences: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if dataclasses.is_dataclass(base):
            sentences |= literals_in(base)
    return sentences


def literals_in(schema: type[Any]) -> dict[str, str]:
    body = classes_in(inspect.getfile(schema))[schema.__name__].body
    return {
        node.target.id: " ".join(below.value.value.split())
        for node, below in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def description_of(schema: type[Any]) -> str:
    """Return the first paragraph of the module's docstring if the module has one and a single configuration, else of
    the class's."""
    file = inspect.getfile(schema)
    is_alone = [name for name in classes_in(file) if name.endswith("Config")] == [schema.__name__]
    text = (ast.get_docstring(parsed(file)) if is_alone else None) or ast.get_docstring(
        classes_in(file)[schema.__name__]
    )
    return " ".join((text or "").partition("\n\n")[0].split())


def classes_in(file: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in parsed(file).body if isinstance(node, ast.ClassDef)}


@functools.cache
def parsed(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding="utf-8"), file)
