"""A reward that holds a run in the middle, for as long as a test needs: what comes next is no race with its steps."""

from dataclasses import dataclass
from pathlib import Path

PASSED_STEPS = 2
LEAST_STEPS = PASSED_STEPS + 2
"""Steps of a run that is sure to be held before its end: prompts of the step after `PASSED_STEPS` may be scored before
the last passed one is written down. Rows of validations do not count."""
REWARDS = Path(__file__).parents[1] / "e2e" / "rewards.py"
SOURCE = """
import pathlib, runpy, time
ROWS, HELD, OPEN = pathlib.Path({rows!r}), pathlib.Path({held!r}), pathlib.Path({opened!r})
share = runpy.run_path({rewards!r})["digits"]

def digits(prompt, rollout):
    while ROWS.is_file() and ROWS.read_text().count('"reward":') >= {passed} and not OPEN.exists():
        HELD.touch()
        time.sleep(0.05)
    return share(prompt, rollout)
"""


@dataclass(frozen=True)
class Gate:
    """The reward of `SMALL_RUN`, which waits once a run has written its first steps, until the test opens it."""

    folder: Path
    """Made here, of this gate alone."""
    output: Path
    """The folder of the run that is held, which has `LEAST_STEPS` steps or more."""

    def __post_init__(self) -> None:
        self.folder.mkdir()
        source = SOURCE.format(rows=str(self.output / "metrics.jsonl"), held=str(self.folder / "held"),
                               opened=str(self.folder / "open"), rewards=str(REWARDS), passed=PASSED_STEPS)  # fmt: skip
        # Named as the reward is elsewhere: figures go by that name.
        (self.folder / REWARDS.name).write_text(source)

    @property
    def overrides(self) -> list[str]:
        return [f"reward.functions=[{self.folder / REWARDS.name}:digits]", "reward.timeout_s=1200"]

    def holds(self) -> bool:
        return (self.folder / "held").exists()

    def open(self) -> None:
        (self.folder / "open").touch()
