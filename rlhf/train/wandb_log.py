"""Figures to Weights & Biases: in the run folder for `wandb sync`, or live where an account is configured."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.types import RunError

RUN_ID = "wandb_run_id"
"""Name of the file in the run folder: a continued run is the same run there."""


class WandbLog:
    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, figures: Mapping[str, float]) -> None:
        # Given a step, wandb refuses one that a run has already: a resumed run repeats none.
        self.run.log(dict(figures), step=int(figures["step"]))


@contextmanager
def wandb_log(
    folder: Path, project: str, name: str, config: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> Iterator[WandbLog]:
    """The run `name` of a project, finished at the end, as failed where the block raises.

    `history` are the steps a resumed run has behind it. Offline there is no run to append to: they are written again,
    into the one folder `wandb/offline-run-*` that is left. Raises RunError where wandb does not start.
    """
    # It would report to its makers how it is used, offline too; it reads this when it is imported.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Imported here: most runs do without.
    import wandb

    offline = not {"WANDB_API_KEY", "WANDB_MODE"} & set(os.environ)
    run_id = stored_run_id(folder)
    for earlier in (folder / "wandb").glob("offline-run-*"):
        shutil.rmtree(earlier)
    try:
        run = wandb.init(
            project=project,
            name=name,
            id=run_id,
            dir=str(folder),
            config=dict(config),
            mode="offline" if offline else None,
            resume=None if offline else "allow",
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        raise RunError(
            f"log.wandb_project={project}: wandb did not start: {error}; correct WANDB_API_KEY, or set "
            "WANDB_MODE=offline and sync later"
        ) from error
    exit_code = 1
    try:
        log = WandbLog(run)
        for figures in history if run.offline else ():
            log.write(figures)
        yield log
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)


def stored_run_id(folder: Path) -> str:
    file = folder / RUN_ID
    if not file.is_file():
        file.write_text(uuid.uuid4().hex, encoding="ascii")
    return file.read_text(encoding="ascii")
