"""Sentences about values of a wrong type: the key, the value given, the type wanted, and an example."""

from __future__ import annotations

import dataclasses
import re
import shlex
import traceback
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigIndexError,
    ConfigTypeError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from rlhf.causes import causes
from rlhf.help.fields import ANY_NAME, plain, shown

SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Any: "a value"}
PLURALS = {bool: "booleans", int: "whole numbers", float: "numbers", str: "texts", Any: "values"}
SAMPLES = {bool: "true", int: "1", float: "0.5", str: "...", Any: "..."}


def explain_type(error: BaseException) -> str | None:
    """Explain a value of a wrong type, in one sentence; None for any other error.

    Hydra's and OmegaConf's errors name neither the type nor always the key, so the word or the file that was being
    merged is read from the local variables in the traceback.
    """
    cause = next((cause for cause in causes(error) if isinstance(cause, OmegaConfBaseException)), None)
    local = {frame.f_code.co_name: frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)}
    composed = local.get("resolve", {}).get("composed")
    if isinstance(composed, DictConfig) and (key := nested_item(composed)) is not None:
        return about_value(composed, key)
    is_appended = str(error).startswith("Could not append to config")
    if cause is None and isinstance(error, HydraException) and not is_appended:
        return None
    if cause is not None and not is_type_error(cause):
        return None
    key = str(cause.full_key) if cause is not None else None
    word, file = local.get("_apply_overrides_to_config", {}), local.get("_compose_config_from_defaults_list", {})
    if "override" in word:
        return about_word(word["override"], word["cfg"], key, is_certain=not is_appended)
    if "loaded" in file:
        key = key or value_for_keys(file["loaded"].config, file["cfg"])
        return about_file(file["default"].config_path, file["loaded"].config, file["cfg"], key) if key else None
    if isinstance(composed, DictConfig) and key:
        return about_value(composed, key)
    given = local.get("from_words", {}).get("given", {})
    return about_field(cause.object_type, key, given) if cause is not None and key else None


def is_type_error(error: OmegaConfBaseException) -> bool:
    if isinstance(error, InterpolationResolutionError):
        return False
    other = "Could not create instance", "does not support deletion"
    is_of_type = isinstance(error, ValidationError | ConfigTypeError | ConfigIndexError)
    return is_of_type and not any(text in str(error) for text in other)


def about_word(override: Override, config: DictConfig, key: str | None, *, is_certain: bool) -> str | None:
    """Explain a word of a command line, or of a stage's or a sweep's overrides. `is_certain`: its type is wrong."""
    own, word, value = override.key_or_group, str(override.input_line), override.value()
    # OmegaConf may give the place of an item in a list, or nothing, for the key.
    is_below = key is not None and key.startswith((f"{own}.", f"{own}["))
    found = field_at(config, key if key is not None and is_below else own)
    if found is None:
        return None
    key, hint = found
    if not is_certain and (not is_dict(hint) or isinstance(value, dict)):
        return f"{word}: {own} exists already; leave the plus sign out, as in {shlex.quote(word.lstrip('+'))}"
    if key == own:
        return f"{word}: give {wanted(hint)}, as in {example(key, hint, value, default_at(config, key))}"
    for name in key.removeprefix(f"{own}.").split(".") if is_below else ():
        value = value.get(name) if isinstance(value, dict) else None
    given = value if is_below else None
    return f"{word}: {key} takes {wanted(hint)}, as in {example(key, hint, given, default_at(config, key))}"


def about_file(name: str, content: DictConfig, config: DictConfig, key: str) -> str | None:
    """Explain a value in a file of `conf/` or of the user's own, such as `experiment/mine`."""
    found = field_at(config, key)
    if found is None:
        return None
    key, hint = found
    value = default_at(content, key)
    if dataclasses.is_dataclass(hint) and isinstance(value, DictConfig):
        return None  # a choice for another command, such as the algorithm of one
    return f"{name} has {key}={shown(value)}: give {wanted(hint)}, as in {example(key, hint, value)}"


def about_value(config: DictConfig, key: str) -> str | None:
    """Explain a value of a composed configuration, which may come from an interpolation."""
    found = field_at(config, key)
    if found is None:
        return None
    key, hint = found
    parent, _, name = key.rpartition(".")
    value = plain(OmegaConf.select(config, parent) if parent else config)[name]
    return f"{key}={shown(value)}: give {wanted(hint)}, as in {example(key, hint, default_at(config, key))}"


def nested_item(config: DictConfig, prefix: str = "") -> str | None:
    """Return the first key whose list has a list or a dict for an item although its type has not: OmegaConf accepts
    them. None if there is no such key."""
    schema = OmegaConf.get_type(config)
    hints = get_type_hints(schema) if schema is not None and dataclasses.is_dataclass(schema) else {}
    for name, hint in hints.items():
        value, own = default_at(config, name), without_null(hint)
        if isinstance(value, DictConfig) and (found := nested_item(value, f"{prefix}{name}.")):
            return found
        items = value if isinstance(value, ListConfig) and is_list(own) and get_args(own)[0] in SCALARS else ()
        if any(isinstance(item, DictConfig | ListConfig) for item in items):
            return f"{prefix}{name}"
    return None


def about_field(schema: Any, key: str, words: Mapping[str, Any]) -> str | None:
    """Explain a value of a configuration that is composed without Hydra, from `words` or from an object."""
    hints = get_type_hints(schema) if isinstance(schema, type) and dataclasses.is_dataclass(schema) else {}
    hint = hints.get(key.rpartition(".")[2])
    given = f"{key}={words[key]}" if key in words else key
    return f"{given}: give {wanted(hint)}, as in {example(key, hint)}" if hint is not None else None


def value_for_keys(content: DictConfig, config: DictConfig, prefix: str = "") -> str | None:
    """Return the first key in a file that has a value although it has keys of its own, which OmegaConf does not name;
    None if there is no such key."""
    for name in map(str, content):
        value, own = default_at(content, name), default_at(config, name)
        if isinstance(own, DictConfig) and not isinstance(value, DictConfig):
            return f"{prefix}{name}"
        if isinstance(own, DictConfig) and (found := value_for_keys(value, own, f"{prefix}{name}.")):
            return found
    return None


def field_at(config: DictConfig, key: str) -> tuple[str, Any] | None:
    """Return the deepest declared key on the way to a key, and its type; None if no dataclass declares it."""
    node: Any = config
    path: list[str] = []
    hint: Any = None
    for name in re.split(r"[.\[]", key.replace("]", "")):
        schema = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
        if schema is not None and dataclasses.is_dataclass(schema):
            hint = get_type_hints(schema).get(name)
            if hint is None:
                return None
        elif is_dict(hint):
            entry = get_args(without_null(hint))[1]
            if dataclasses.is_dataclass(entry) and default_at(node, name) is None:
                break
            hint = entry
        else:
            break
        path.append(name)
        node = default_at(node, name) if isinstance(node, DictConfig) else None
    return ".".join(path), hint


def default_at(config: DictConfig, key: str) -> Any:
    """Return the value of a key, unresolved; None if it has none."""
    node: Any = config
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node.keys():  # noqa: SIM118  `in` is false for `???`
            return None
        if OmegaConf.is_missing(node, name):
            return MISSING
        if OmegaConf.is_interpolation(node, name):
            return None
        node = node[name]
    return node


def without_null(hint: Any) -> Any:
    """Return the first type of a union other than null's."""
    if get_origin(hint) in (types.UnionType, Union):
        return next(choice for choice in get_args(hint) if choice is not type(None))
    return hint


def is_dict(hint: Any) -> bool:
    return get_origin(without_null(hint)) is dict


def is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, tuple)


def wanted(hint: Any) -> str:
    """Return the values that a type takes, in words: `a whole number or null`, `a list of texts`."""
    if get_origin(hint) in (types.UnionType, Union):
        return " or ".join(map(wanted, get_args(hint)))
    if hint is type(None):
        return "null"
    if is_list(hint):
        number = f"{len(get_args(hint))} " if get_origin(hint) is tuple and ... not in get_args(hint) else ""
        return f"a list of {number}{several(get_args(hint)[0])}"
    if is_dict(hint):
        return "entries by name"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(choice.name for choice in hint)
    return "its keys" if dataclasses.is_dataclass(hint) else SCALARS[hint]


def several(hint: Any) -> str:
    """Return the items of a list, in words."""
    if is_list(hint):
        return f"lists of {several(get_args(hint)[0])}"
    return PLURALS.get(hint) or wanted(hint)


def example(key: str, hint: Any, given: Any = None, default: Any = None) -> str:
    """Return a word that sets a key rightly: from the value given if it only lacks brackets, else from the default."""
    plus, key, value = sample(key, without_null(hint), given, default)
    return shlex.quote(f"{plus}{key}={value}")


def sample(key: str, hint: Any, given: Any, default: Any) -> tuple[str, str, str]:
    """Return a plus sign if one is needed, a key at or below `key`, and a value for it."""
    if is_dict(hint):
        entry, place = without_null(get_args(hint)[1]), f"{key}.{ANY_NAME}"
        _, below, value = sample(place, entry, None, None)
        if below == place:
            return "+", place, value
        # OmegaConf makes entries of a dataclass from the whole dict alone.
        return "+", key, f"{{{ANY_NAME}: {{{below.removeprefix(f'{place}.')}: {value}}}}}"
    if dataclasses.is_dataclass(hint):
        # The class of the choice, such as the algorithm's, has more keys than that of the field.
        schema: Any = OmegaConf.get_type(default) if isinstance(default, DictConfig) else hint
        first = next(iter(dataclasses.fields(schema)), None)
        if first is None:
            return "", key, "{}"
        inner = default_at(default, first.name) if isinstance(default, DictConfig) else first.default
        own = without_null(get_type_hints(schema)[first.name])
        return sample(f"{key}.{first.name}", own, None, None if inner is dataclasses.MISSING else inner)
    if is_list(hint) and is_item(given, get_args(hint)[0]):
        return "", key, shown([given])
    if default is not None and default not in (MISSING, "", []):
        plain = OmegaConf.to_container(default) if isinstance(default, ListConfig) else default
        return "", key, shown(plain.name if isinstance(plain, Enum) else plain)
    if is_list(hint):
        items = get_args(hint) if get_origin(hint) is tuple else get_args(hint)[:1]
        return "", key, f"[{','.join(sample(key, item, None, None)[2] for item in items if item is not ...)}]"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "", key, next(iter(hint)).name
    return "", key, SAMPLES[hint]


def is_item(value: Any, hint: Any) -> bool:
    """Return whether a value without brackets is an item of a list."""
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return hint in (int, str) and type(value) is hint
