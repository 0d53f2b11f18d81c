"""Keys of a configuration that are paths, and the home directory in them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from rlhf.types import InputError

MODELS = ("model", "teacher.model", "critic.model", "reward.model", "reference.model")
"""Keys whose values are model folders, or ids of models on the Hub."""
DATA = ("data.path", "data.general_path", "held_out.path", "validation.path")
"""Keys whose values are files or folders of rows, or ids of data sets on the Hub."""
PATHS = (*MODELS, *DATA, "chat_template", "baseline")
"""Keys whose values are folders or files that are read."""
SETS = "data.sets."
"""Beginning of the keys of a prompt set; the set's name follows, then `path`, `reader` and others."""
SUITES, SUITE_FILES = "suite.", ("path", "shots_path", "joined")
"""Beginning of the keys of a suite, whose name follows, and their ends where the value is data."""
NAMED_MODELS, NAMED_DATA = ("policies.", "models."), ("held_out.others.", "validation.texts.")
NAMED_PATHS = (*NAMED_MODELS, *NAMED_DATA)
"""Keys whose entries, by names of the user's choice, are all paths."""
FUNCTIONS = (
    "reward.functions", "environment", "data.reader", "weight_sync.transport", "sampler.engine", "function",
)  # fmt: skip
"""Keys whose values may name a Python file: `/path/file.py:function`."""
PATH_LISTS = ("reward.ensemble",)
ROOTS = ("suite_root",)
"""Keys whose values are folders below which other paths lie."""
WRITTEN = ("output", "answers", "log.mlflow")


def expand_home(key: str, path: str) -> str:
    """Replace a leading `~` or `~user` of a path by the home directory. Raises InputError."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise InputError(
            f"{key}={path}: there is no such home directory (HOME is not set, or no such user); set an absolute path"
        ) from None


def repo_type_of(key: str) -> str | None:
    """Return the kind of Hub repository that a key's value, or an item of it, may name: `model` or `dataset`."""
    if key in MODELS or key.startswith((*NAMED_MODELS, *(f"{name}." for name in PATH_LISTS))):
        return "model"
    return "dataset" if key in DATA or key.startswith(NAMED_DATA) or is_set_path(key) else None


def is_path(key: str) -> bool:
    """Return whether the value of a configuration's key is a path, or a list of them."""
    named = key.startswith(NAMED_PATHS) or is_set_path(key) or is_suite_path(key)
    return key in (*PATHS, *ROOTS, *WRITTEN, *PATH_LISTS) or named or is_function(key)


def is_set_path(key: str) -> bool:
    """Return whether a key is the path of a prompt set, as `data.sets.math.path`."""
    return is_set_key(key, "path")


def is_suite_path(key: str) -> bool:
    """Return whether a key is the data of a suite, as `suite.gsm8k.path`."""
    return key.startswith(SUITES) and key.count(".") == 2 and key.rpartition(".")[2] in SUITE_FILES


def is_function(key: str) -> bool:
    """Return whether the value of a key, or its items, may name a Python file: `/path/file.py:function`."""
    return key in FUNCTIONS or is_set_key(key, "reader")


def is_set_key(key: str, name: str) -> bool:
    return key.startswith(SETS) and key.endswith(f".{name}") and key.count(".") == SETS.count(".") + 1


def is_uri(place: str) -> bool:
    """Return whether a text names a server or database, as `http://host:5000` does, and not a folder."""
    return "://" in place


def is_http(url: str) -> bool:
    """Return whether a text is an address of a web server: http or https, a host, and a port that exists if any."""
    try:
        parts = urlsplit(str(url))
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an unclosed bracket
        return False
