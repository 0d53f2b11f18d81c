"""API keys: `python serve/keys.py add|list|remove url=sqlite:///outputs/serve/store.sqlite owner=... role=user`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from omegaconf import MISSING

from rlhf.command_line import command_line
from rlhf.config import from_words
from rlhf.types import InputError
from serve.doors import Role, hash_key, make_key
from serve.store import Store

COMMANDS = ("add", "list", "remove")
SHOWN = 12
"""Characters of a key's hash that name it."""


@dataclass(kw_only=True, slots=True)
class KeysConfig:
    """The command line."""

    url: str = "sqlite:///outputs/serve/store.sqlite"
    """SQLAlchemy URL of the store."""
    owner: str = MISSING
    """Whose key it is: users whom it names are its owner's."""
    role: Role = Role.user
    """`user` or `operator`."""
    hash: str = MISSING
    """Beginning of the hash of the key to remove, as `list` shows it."""


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        raise InputError(f"say what to do, one of {', '.join(COMMANDS)}: python serve/keys.py list")
    config = from_words(sys.argv[2:], KeysConfig)
    store = Store(config.url)
    if sys.argv[1] == "add":
        key = make_key()
        store.add_key(hash_key(key), config.role, config.owner, time.time())
        sys.stdout.write(f"{key}\nIt is shown this once: the store keeps its hash alone.\n")
    elif sys.argv[1] == "list":
        for known in store.all_keys():
            sys.stdout.write(f"{known.hash[:SHOWN]} {known.role} {known.owner}\n")
    else:
        found = [known.hash for known in store.all_keys() if known.hash.startswith(config.hash)]
        if len(found) != 1:
            raise InputError(f"hash={config.hash}: {len(found)} keys begin like this; give one as `list` shows it")
        store.remove_key(found[0])
    store.close()


if __name__ == "__main__":
    command_line(main)
