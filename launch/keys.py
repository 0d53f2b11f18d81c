"""API keys: `python launch/keys.py add|list|remove url=sqlite:///outputs/serve/store.sqlite owner=... role=user`."""

import sys

from rlhf.command_line import command_line


def main() -> None:
    from serve.gateway import api_keys

    api_keys.run(sys.argv[1:])


if __name__ == "__main__":
    command_line(main)
