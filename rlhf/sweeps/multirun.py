"""`--multirun` of a launch script: every member in a folder of its own, one that fails stops no other, one report."""

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
from rlhf.sweeps.grid import grid
from rlhf.sweeps.record import State, open_sweep, read_sweep
from rlhf.sweeps.report import conclude_sweep
from rlhf.types import InputError, RunError, Stopped


class SweepCallback(Callback):
    """Callback of Hydra around a multirun; `conf/` names it. Hydra swallows exceptions of callbacks, not exits."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    @in_one_sentence
    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Name the members, and hold the sweep's folder while they run."""
        params: Mapping[str, Any] = config.hydra.sweeper.params or {}
        members = grid([*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task])
        self.stack.enter_context(open_sweep(expand_home("output", config.output), members))

    @in_one_sentence
    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        with self.stack:
            sweep = read_sweep(Path(expand_home("output", config.output)).resolve())
            # A script that trains nothing has members only in the grid.
            if sweep.having(State.waiting) != sweep.members:
                conclude_sweep(sweep)


def as_member(function: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """The function of a Hydra main that, in a multirun, works in its member's folder and leaves its errors there."""

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
            raise  # the sweep, not this member alone
        except Exception as error:  # noqa: BLE001  one member's bug or crash must not cost the others their run
            traceback.print_exc(file=sys.stderr)
            sweep.record(member, state=State.failed, error=f"{type(error).__name__}: {error}")
        else:
            sweep.record(member, state=State.done)

    return run
