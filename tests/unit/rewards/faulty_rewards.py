"""A user's file of rewards, most of them bad. What each does stands in the prompt's meta."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rlhf.types import Prompt, Rollout, Score

NOT_CALLABLE = 1


@dataclass
class Settings:
    """Annotations as strings make dataclasses look this module up, so loading must have registered it."""

    scale: float = 1.0


def junk(prompt: Prompt, rollout: Rollout) -> object:
    return prompt.meta["junk"]


def raising(prompt: Prompt, rollout: Rollout) -> float:
    return 1 / 0


def several(prompt: Prompt, rollout: Rollout, *, scale: float = Settings().scale) -> Score:
    return Score(value=3.0 * scale, parts={"style": 1.0, "facts": 2.0})


def needs_option(prompt: Prompt, rollout: Rollout, *, required: int) -> float:
    return float(required)


def flaky(prompt: Prompt, rollout: Rollout) -> float:
    """Fails the first time, for each file that it is given to remember by."""
    memory = Path(prompt.meta["memory"])
    if not memory.exists():
        memory.touch()
        prompt.meta["how"] == "die" and os._exit(3)
        raise ConnectionError("the judge is away")
    return 1.0


def count(prompt: Prompt, rollout: Rollout) -> object:
    """Notes each call in a file, then returns what it is told to."""
    with open(prompt.meta["log"], "a") as log:
        log.write("x")
    return prompt.meta["junk"]


def fault(prompt: Prompt, rollout: Rollout) -> float:
    """The prompt's value, unless the prompt has a fault."""
    match prompt.meta.get("fault"):
        case "sleep":
            time.sleep(1000)
        case "loop":
            while True:
                pass
        case "c sleep holding the GIL":
            ctypes.PyDLL(None).sleep(1000)
        case "grandchild":
            subprocess.run(["sleep", "1000.25"], check=True)
        case "os._exit":
            os._exit(7)
        case "sys.exit":
            sys.exit(5)
        case "segfault":
            ctypes.string_at(0)
        case "fork":
            os.fork()
        case "close":
            os.closerange(3, 100)
        case "print":
            print('{"number": 1, "value": 99.0, "parts": {}}', flush=True)
            sys.stdout.write("\x00" * 100_000)
            os.write(1, b"\n\n}{\n")
        case "stdin":
            assert sys.stdin.read() == ""
    return prompt.meta["value"]


def slow(prompt: Prompt, rollout: Rollout) -> float:
    time.sleep(0.1)
    return 1.0


class Counting:
    def __init__(self, *, start: object) -> None:
        self.count = int(start)

    def __call__(self, prompt: Prompt, rollout: Rollout) -> int:
        self.count += 1
        return self.count


class NoCall:
    """Cannot be called."""
