"""Lookup of what a configuration names: a function or a class of a module, or of a file of the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf.paths import expand_home
from rlhf.types import InputError

USER_FILE = "user_file:"
"""Prefix of the names of modules that are files of the user's own; the resolved path follows."""


def find_function(key: str, spec: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `/path/file.py:function` names. InputError with the `key`."""
    found: Callable[..., Any] = find_attribute(key, spec, "function")
    if not callable(found):
        place, _, attribute = spec.rpartition(":")
        raise InputError(f"{key} has '{spec}', but {attribute} is not callable in {place}: name one of its functions")
    return found


def find_attribute(key: str, spec: str, kind: str) -> Any:
    """Return what `package.module:name` or `/path/file.py:name` names. Raises InputError with the `key`; `kind` stands
    for the name in its sentences, as in `function`."""
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute:
        raise InputError(f"{key} has '{spec}': give package.module:{kind} or /path/file.py:{kind}")
    is_file = place.endswith(".py")
    module = _load_file(key, spec, Path(expand_home(key, place))) if is_file else _load_module(key, spec, place)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise InputError(
            f"{key} has '{spec}', but {attribute} does not exist in {place}: name one of its {kind.lower()}s"
        ) from None


def user_files() -> list[ModuleType]:
    """The files of the user's own that this process has loaded: no other process can import them by their name."""
    return [module for name, module in list(sys.modules.items()) if name.startswith(USER_FILE)]


def spec_of(named: type[Any]) -> str:
    """The text by which `find_attribute` finds a class, with an absolute path where it is in a file."""
    return f"{named.__module__.removeprefix(USER_FILE)}:{named.__qualname__}"


def _load_file(key: str, spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{key} has '{spec}', but there is no file {path.absolute()}: correct the path")
    name = f"{USER_FILE}{path.resolve()}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None, path
    assert found.loader is not None, path
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _not_importable(key, spec, error) from error
    return module


def _load_module(key: str, spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _not_importable(key, spec, error) from error


def _not_importable(key: str, spec: str, error: Exception) -> InputError:
    return InputError(
        f"{key} has '{spec}', whose import raises {type(error).__name__}: {error}: "
        "correct it, or install what it needs on every machine"
    )
