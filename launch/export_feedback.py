"""Feedback as training data: `python launch/export_feedback.py pairs|labelled|sft url=... output=FOLDER`."""

import sys

from rlhf.command_line import command_line


def main() -> None:
    from serve.feedback import export

    export.run(sys.argv[1:])


if __name__ == "__main__":
    command_line(main)
