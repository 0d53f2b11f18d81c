"""The ancestry of a model, back to the feedback that it was trained on: `python launch/lineage.py FOLDER`."""

import sys

from rlhf.command_line import command_line


def main() -> None:
    from serve.feedback import lineage

    lineage.run(sys.argv[1:])


if __name__ == "__main__":
    command_line(main)
