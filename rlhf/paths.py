"""Which keys of a configuration are paths, and the home directory in them."""

from __future__ import annotations

from pathlib import Path

from rlhf.types import InputError

PATHS = ("model", "data.path", "data.general_path", "held_out.path", "critic.model", "reward.model", "reference.model",
         "chat_template")  # fmt: skip
"""Keys whose values are folders or files that are read."""
NAMED_PATHS = ("held_out.others.", "policies.", "models.")
"""Those below are, by names of the user's own."""
FUNCTIONS = ("reward.functions", "function")
"""Keys whose values may name a Python file: `/path/file.py:function`."""
PATH_LISTS = ("reward.ensemble",)
WRITTEN = ("output",)


def expand_home(key: str, path: str) -> str:
    """The path with the home directory in place of a `~` or `~user` that it begins with. Raises InputError."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise InputError(
            f"{key}={path}: there is no such home directory (HOME is not set, or no such user); write the path out"
        ) from None


def is_path(key: str) -> bool:
    """Whether the value of a configuration's key is a path, or a list of them."""
    return key in (*PATHS, *WRITTEN, *FUNCTIONS, *PATH_LISTS) or key.startswith(NAMED_PATHS)
