"""Lookup of a function that a configuration names: one of a module, or of a file of the user's own."""

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


def find_function(key: str, spec: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `/path/file.py:function` names. InputError with the `key`."""
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute:
        raise InputError(f"{key} has '{spec}': give package.module:function or /path/file.py:function")
    is_file = place.endswith(".py")
    module = _load_file(key, spec, Path(expand_home(key, place))) if is_file else _load_module(key, spec, place)
    function = getattr(module, attribute, None)
    if not callable(function):
        problem = "is not callable" if hasattr(module, attribute) else "does not exist"
        raise InputError(f"{key} has '{spec}', but {attribute} {problem} in {place}: name one of its functions")
    found: Callable[..., Any] = function
    return found


def _load_file(key: str, spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{key} has '{spec}', but there is no file {path.absolute()}: correct the path")
    found = importlib.util.spec_from_file_location(f"user_file:{path.absolute()}", path)
    assert found is not None, path
    assert found.loader is not None, path
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
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
