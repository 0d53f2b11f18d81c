"""The child's side of a reward process: reads requests, and writes one JSON line per answer, in order.

It uses two pipes. User code has the standard streams: input is empty, output goes to the error stream.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import struct
import sys
from typing import Any, BinaryIO

from rlhf.rewards.base import load_reward
from rlhf.types import InputError, Score

HEADER = struct.Struct(">QI")
"""Header of a request: its number, and the size of the following pickle in bytes."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(requests_fd: int, answers_fd: int) -> None:
    """Serve requests until the parent closes its end."""
    # The parent's death closes the pipes too, but a reward that hangs would not notice.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_inheritable(requests_fd, False)
    os.set_inheritable(answers_fd, False)
    # closefd=False: only the end of the process closes the pipes, so the parent that sees it can read the exit code.
    with open(requests_fd, "rb", closefd=False) as requests, open(answers_fd, "wb", closefd=False) as answers:
        serve(requests, answers)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests: the first is (import path, config), all others are (prompt, rollout)."""

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    first = _read(requests)
    if first is None:
        return
    _, (sys.path[:], config) = first
    try:
        score = load_reward(config)
    except InputError as error:
        answer({"error": str(error)})
        return
    answer({"error": None})
    while request := _read(requests):
        number, (prompt, rollout) = request
        result = score(prompt, rollout)
        if isinstance(result, Score):
            answer({"number": number, "value": result.value, "parts": dict(result.parts)})
        else:
            answer({"number": number, "kind": result.kind, "message": result.message})


def _read(requests: BinaryIO) -> tuple[int, Any] | None:
    header = requests.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    number, size = HEADER.unpack(header)
    return number, pickle.loads(requests.read(size))  # noqa: S301  written by our parent


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
