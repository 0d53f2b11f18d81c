"""Unknown keys, and suggestions for the keys that may be meant."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

ELSEWHERE = {"learning_rate": "lr", "lr_scheduler_type": "schedule", "max_grad_norm": "gradient_clipping",
             "max_steps": "num_steps"}  # fmt: skip
"""Names of keys in other libraries; docs/coming_from.md has them all."""
MOST_HINTS = 3


def unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, type[Any]]]:
    """Yield keys that no dataclass declares, each with the dataclass of its place; `+key=value` adds them silently."""
    schema = OmegaConf.get_type(node)
    # A dict takes any key; its values may be dataclasses.
    known = names_of(schema) if schema is not None and dataclasses.is_dataclass(schema) else None
    for key in map(str, node):
        if known is not None and schema is not None and key not in known:
            yield f"{prefix}{key}", schema
        elif not OmegaConf.is_missing(node, str(key)) and isinstance(node[key], DictConfig):
            yield from unknown_keys(node[key], f"{prefix}{key}.")


def unknown_key(key: str, schema: type[Any] | None) -> str:
    """Return the sentence about a key that `schema` does not have."""
    parent, dot, name = key.rpartition(".")
    if schema is None:
        return f"{key}: there is no such key"
    known, name = names_of(schema), ELSEWHERE.get(name, name)
    meant = [name] if name in known else below(schema, name) or difflib.get_close_matches(name, known, n=1)
    paths = [f"{parent}{dot}{path}" for path in meant[:MOST_HINTS]]
    return f"{key}: there is no such key; " + (
        f"did you mean {' or '.join(paths)}?" if paths else f"known are {', '.join(known)}"
    )


def below(schema: type[Any], name: str) -> list[str]:
    """Find a name below a dataclass; return the dotted paths of the smallest depth."""
    nested = [(f"{key}.", hint) for key, hint in get_type_hints(schema).items() if dataclasses.is_dataclass(hint)]
    while nested:
        if found := [f"{prefix}{name}" for prefix, hint in nested if name in names_of(hint)]:
            return found
        nested = [
            (f"{prefix}{key}.", inner)
            for prefix, hint in nested
            for key, inner in get_type_hints(hint).items()
            if dataclasses.is_dataclass(inner)
        ]
    return []


def names_of(schema: Any) -> list[str]:
    return [declared.name for declared in dataclasses.fields(schema)]
