"""Metrics in Weights & Biases: in the run folder for `wandb sync`, or live if an account is configured."""

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
"""File in the run folder with the run's id in Weights & Biases, which a continued run keeps."""


class WandbLog:
    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, figures: Mapping[str, float]) -> None:
        # wandb refuses a step that the run has already; a resumed run repeats none.
        self.run.log(dict(figures), step=int(figures["step"]))


@contextmanager
def wandb_log(
    folder: Path, project: str, name: str, config: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> Iterator[WandbLog]:
    """Open the run `name` of a project, and finish it at the end, as failed if the block raises.

    `history` has the earlier steps of a resumed run. Offline, a run cannot be appended to: the steps are written again,
    into the only remaining folder `wandb/offline-run-*`. Raises RunError if wandb does not start.
    """
    # Turns wandb's error reports off, which it would send offline too; it reads this when it is imported.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Imported here, since most runs do not use it.
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
