"""`--multirun` of a launch script: a folder for every member, one report; a failed member does not stop the others."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlhf.command_line import explain, in_one_sentence, refuse
from rlhf.paths import expand_home
from rlhf.stages.console import CONSOLE
from rlhf.sweeps.grid import by_key, grid, parse
from rlhf.sweeps.record import State, open_sweep, read_sweep
from rlhf.sweeps.report import conclude_sweep
from rlhf.types import InputError, RunError, Stopped


class SweepCallback(Callback):
    """Hydra callback around a multirun, named in `conf/`. Hydra swallows exceptions of callbacks, not SystemExit."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    @in_one_sentence
    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Name the members, and lock the sweep's folder while they run."""
        params: Mapping[str, Any] = config.hydra.sweeper.params or {}
        overrides = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
        members = grid(by_key(parse(overrides)))
        self.stack.enter_context(open_sweep(expand_home("output", config.output), members))

    @in_one_sentence
    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        with self.stack:
            sweep = read_sweep(Path(expand_home("output", config.output)).resolve())
            # A script that does not train records no members, so the grid's are used.
            if sweep.having(State.waiting) != sweep.members:
                conclude_sweep(sweep)


def as_member(function: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Wrap the function of a Hydra main: in a multirun it runs in its member's folder, and its errors are recorded."""

    @functools.wraps(function)
    def run(composed: DictConfig) -> None:
        hydra = HydraConfig.get()
        if hydra.mode is not RunMode.MULTIRUN:
            return function(composed)
        composed.output = expand_home("output", composed.output)
        sweep = read_sweep(Path(composed.output).resolve())
        overrides = set(hydra.overrides.task)
        member = next(member for member in sweep.members if set(member.overrides) == overrides)
        composed.output = str(Path(composed.output) / member.name)
        CONSOLE.rule(f"{sweep.members.index(member) + 1} of {len(sweep.members)}: {member.name}", align="left")
        sweep.record(member, state=State.running)
        try:
            function(composed)
        except (InputError, RunError, OmegaConfBaseException) as error:
            sentence = explain(error) if isinstance(error, OmegaConfBaseException) else str(error)
            refuse(sentence, 4)
            sweep.record(member, state=State.failed, error=sentence)
        except Stopped:
            raise  # ends the whole sweep, not only this member
        except Exception as error:  # noqa: BLE001  a member's crash must not stop the others
            traceback.print_exc(file=sys.stderr)
            sweep.record(member, state=State.failed, error=f"{type(error).__name__}: {error}")
        else:
            sweep.record(member, state=State.done)

    return run
