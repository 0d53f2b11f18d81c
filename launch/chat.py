"""Chat with a model: `python launch/chat.py FOLDER`; an empty line ends the chat."""

import sys

from rlhf.command_line import command_line
from rlhf.types import InputError


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("give one model, a folder or an id of the Hub: python launch/chat.py FOLDER")
    from rlhf.stages import chat

    chat.run(sys.argv[1])


if __name__ == "__main__":
    command_line(main)
