"""Removal of the rows of users who were deleted or withdrew consent from exports: `python launch/forget.py url=...`."""

import sys

from rlhf.command_line import command_line


def main() -> None:
    from serve.feedback import forget

    forget.run(sys.argv[1:])


if __name__ == "__main__":
    command_line(main)
