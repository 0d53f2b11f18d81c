"""Lookup of what a configuration names: a function or class, of a module or of the user's own file, and its options."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf.paths import expand_home
from rlhf.types import InputError

USER_FILE = "user_file:"
"""Prefix of the names of modules that are files of the user's own; the resolved path follows."""
LOADING = threading.RLock()
"""Held while a file is loaded: another thread would otherwise see it half executed."""


def find_function(key: str, spec: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `/path/file.py:function` names. InputError with the `key`."""
    found: Callable[..., Any] = find_attribute(key, spec, "function")
    if not callable(found):
        place, _, attribute = spec.rpartition(":")
        raise InputError(f"{key} has '{spec}', but {attribute} is not callable in {place}: name one of its functions")
    return found


def find_named(key: str, spec: str, short_names: Mapping[str, str], refusal: str) -> tuple[str, Callable[..., Any]]:
    """Return the name of a function in options and sentences, which leaves out a file's folder, and the function, given
    by a short name of ours, a module or a file.

    Raises InputError with the `key`; for a name that is none of ours `refusal` opens the sentence, before what may be
    given.
    """
    place, _, attribute = short_names.get(spec, spec).rpartition(":")
    if not place or not attribute:
        known = ", ".join(short_names)
        raise InputError(f"{refusal} {known}, package.module:function or /path/file.py:function")
    return without_folder(spec), find_function(key, f"{place}:{attribute}")


def without_folder(spec: str) -> str:
    """Return `file.py:function` for `/path/file.py:function`; other names stay."""
    place, _, attribute = spec.rpartition(":")
    return f"{Path(place).name}:{attribute}" if place.endswith(".py") else spec


def find_attribute(key: str, spec: str, kind: str) -> Any:
    """Return what `package.module:name` or `/path/file.py:name` names. Raises InputError with the `key`; `kind` stands
    for the name in its sentences, as in `function`."""
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute:
        raise InputError(f"{key} has '{spec}': give package.module:{kind} or /path/file.py:{kind}")
    is_file = place.endswith(".py")
    with LOADING:
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


def with_absolute_path(spec: str) -> str:
    """Return the same name for processes that work in another folder."""
    place, _, attribute = spec.rpartition(":")
    return f"{Path(place).absolute()}:{attribute}" if place.endswith(".py") else spec


def _load_file(key: str, spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{key} has '{spec}', but there is no file {path.absolute()}: correct the path")
    name, state = f"{USER_FILE}{path.resolve()}", path.stat()
    stamp = (state.st_mtime_ns, state.st_size)
    known = sys.modules.get(name)
    # Once per process, as modules are: its classes and values are the same whatever names it, until it is edited.
    if known is not None and known.__spec__ is not None and known.__spec__.loader_state == stamp:
        return known
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None, path
    assert found.loader is not None, path
    found.loader_state = stamp
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


def bind_options(
    kind: str, name: str, function: Callable[..., Any], given: Sequence[str], key: str, options: Any
) -> Callable[..., Any]:
    """The function with its options, once it is sure that `function(*given, **options)` is a call it takes.

    A class is made with its options, once per process; its instance is then called with what is `given`. `kind`, `name`
    and the `key` of the options are for messages. Raises InputError.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"{key} is {options!r}: give keyword arguments, such as {{key: value}}")
    is_class = inspect.isclass(function)
    arguments = () if is_class else given
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise InputError(f"{kind} {name} has no signature ({error}): wrap it in a Python function") from error
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        accepted = ", ".join(list(signature.parameters)[len(arguments) :]) or "none"
        raise InputError(
            f"{kind} {name} cannot be called as {name}({', '.join([*arguments, f'**{key}'])}): {error}; "
            f"its options: {accepted}"
        ) from error
    return _make(kind, name, function, given, key, options) if is_class else partial(function, **options)


def _make(
    kind: str, name: str, made: Callable[..., Any], given: Sequence[str], key: str, options: Mapping[str, Any]
) -> Callable[..., Any]:
    """An instance of a class, which can be called with what is `given`."""
    try:
        instance = made(**options)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{kind} {name} cannot be made from {key}, {type(error).__name__}: {error}: correct them, or the class"
        ) from error
    call = f"__call__(self, {', '.join(given)})"
    if not callable(instance):
        raise InputError(f"{kind} {name} is a class without {call}: write that method")
    try:
        inspect.signature(instance).bind(*given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{kind} {name} is a class that lacks {call} ({error}): correct that method") from error
    return instance
