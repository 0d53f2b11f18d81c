"""Add, list and remove API keys; the command is `launch/keys.py`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from omegaconf import MISSING

from rlhf.config import from_words
from rlhf.types import InputError
from serve.gateway.auth import hash_key, make_key
from serve.store.keys import Keys
from serve.store.records import Key, Role
from serve.store.store import Store

SHOWN = 12
"""Characters of a key's hash that name it."""


@dataclass(kw_only=True, slots=True)
class ListConfig:
    """Keys of the service, listed: `launch/keys.py list`."""

    url: str = "sqlite:///outputs/serve/store.sqlite"
    """SQLAlchemy URL of the store."""


@dataclass(kw_only=True, slots=True)
class AddConfig(ListConfig):
    """A new API key: `launch/keys.py add`."""

    owner: str = MISSING
    """Owner of the key, and of the users that it names."""
    role: Role = Role.user
    """`user` or `operator`."""
    users: int | None = None
    """Most users named by this owner who take part in one step of a release; further ones get the model in production.
    None: all, for a service that speaks for its users. Give 1 to a person or a script."""

    def __post_init__(self) -> None:
        if self.users is not None and self.users < 0:
            raise InputError(f"users={self.users}: give 0 or more, or leave it out")
        # Users are identified as OWNER/USER.
        if not self.owner or "/" in self.owner:
            raise InputError(f"owner={self.owner}: give a name without a slash, as in owner=ann")


@dataclass(kw_only=True, slots=True)
class RemoveConfig(ListConfig):
    """Removal of an API key: `launch/keys.py remove`."""

    hash: str = MISSING
    """Beginning of the hash of the key to remove, as `list` shows it."""


COMMANDS: dict[str, type[ListConfig]] = {"add": AddConfig, "list": ListConfig, "remove": RemoveConfig}


def run(words: list[str]) -> None:
    """Run one of `COMMANDS` with its keys. Raises InputError for an unknown command or key."""
    if not words or words[0] not in COMMANDS:
        raise InputError(f"say what to do, one of {', '.join(COMMANDS)}: python launch/keys.py list")
    config = from_words(words[1:], COMMANDS[words[0]])
    store = Store(config.url)
    try:
        sys.stdout.write(execute(store.keys, config))
    finally:
        store.close()


def execute(keys: Keys, config: ListConfig) -> str:
    """Run the command; return what to print. Raises InputError unless exactly one key is named."""
    if isinstance(config, AddConfig):
        key = make_key()
        keys.add(hash_key(key), config.role, config.owner, time.time(), config.users)
        return f"{key}\nIt is shown this once: the store keeps its hash alone.\n"
    known = keys.all()
    if isinstance(config, RemoveConfig):
        found = [key.hash for key in known if key.hash.startswith(config.hash)]
        if len(found) != 1:
            raise InputError(f"hash={config.hash}: {len(found)} keys begin like this; give one as `list` shows it")
        keys.remove(found[0])
        return ""
    return "".join(f"{key.hash[:SHOWN]} {key.role} {key.owner}{limit(key)}\n" for key in known)


def limit(key: Key) -> str:
    return "" if key.users is None else f" at most {key.users} users"
