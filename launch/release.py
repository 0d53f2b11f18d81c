"""Releases from the command line: `python launch/release.py start|status|promote|rollback|power key=value ...`."""

import sys

from rlhf.command_line import command_line


def main() -> None:
    from serve import client

    client.run(sys.argv[1:])


if __name__ == "__main__":
    command_line(main)
