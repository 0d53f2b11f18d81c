"""Metrics in MLflow: on a tracking server, or in a folder without one. Needs the package mlflow-skinny."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.paths import is_uri
from rlhf.train.run_folder import flatten
from rlhf.train.tracking import LogConfig
from rlhf.types import RunError

RUN_ID = "mlflow_run_id"
"""File in the run folder with the run's id in MLflow, which a continued run keeps."""
REFUSED = re.compile(r"[^\w/. :-]")
"""Characters that MLflow's names may not have."""


class MlflowLog:
    """Metrics of one run. Steps that the server has already are not sent again; those that it did not take are sent
    with a later one, so that training does not end with the server."""

    def __init__(self, client: Any, run: Any, tell: Callable[[str], None]) -> None:
        self.client, self.run_id, self.tell = client, run.info.run_id, tell
        self.last_step = run.data.metrics.get("step", -1)
        self.unsent: list[Mapping[str, float | None]] = []

    def write(self, figures: Mapping[str, float | None]) -> None:
        from mlflow.exceptions import MlflowException

        if (step := figures["step"]) is None or step <= self.last_step:
            return
        self.unsent.append(figures)
        try:
            while self.unsent:
                self.send(self.unsent[0])
                self.unsent.pop(0)
        except MlflowException as error:
            if len(self.unsent) == 1:
                self.tell(f"log.mlflow: step {step:.0f} was not sent ({error}); it follows with a later one")

    def send(self, figures: Mapping[str, float | None]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        step = int(figures["step"] or 0)
        metrics = [Metric(name_of(name), value, now, step) for name, value in figures.items() if value is not None]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self, status: str) -> None:
        """Set the run's status, and tell what the server never took."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_terminated(self.run_id, status)
        except MlflowException as error:
            self.tell(f"log.mlflow: the run's status {status} was not sent ({error})")
        if self.unsent:
            self.tell(f"log.mlflow: {len(self.unsent)} steps were not sent; metrics.jsonl has them")


@contextmanager
def mlflow_log(
    folder: Path,
    log: LogConfig,
    name: str,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    tell: Callable[[str], None],
) -> Iterator[MlflowLog]:
    """Open the run `name` of the experiment, and end it with the block, as failed if the block raises.

    `history` has the earlier steps of a resumed run; those that MLflow lacks are sent. `tell` shows a sentence. Raises
    RunError if MLflow does not start.
    """
    # MLflow reports to its makers otherwise. A server that does not answer may hold up a step, but not for minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    # Imported here: it takes seconds, and most runs do not use it.
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    assert log.mlflow is not None
    try:
        client = MlflowClient(tracking_uri=tracking_uri(log.mlflow))
        run = open_run(client, folder / RUN_ID, log, name)
        log_params(client, run, config)
    except MlflowException as error:
        raise RunError(
            f"log.mlflow={log.mlflow}: MLflow did not start: {error}; correct the address or log.mlflow_experiment, or "
            "drop log.mlflow"
        ) from error
    status = "FAILED"
    opened = MlflowLog(client, run, tell)
    try:
        for figures in history:
            opened.write(figures)
        yield opened
        status = "FINISHED"
    finally:
        opened.close(status)


def tracking_uri(place: str) -> str:
    """Return a tracking URI, for a folder that of a database in it."""
    if is_uri(place):
        return place
    Path(place).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{place}/mlflow.db"


def open_run(client: Any, id_file: Path, log: LogConfig, name: str) -> Any:
    """Return the run whose id the file has, or a new one."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    if id_file.is_file():
        try:
            run = client.get_run(id_file.read_text(encoding="ascii"))
            client.update_run(run.info.run_id, status="RUNNING")
            return run
        except MlflowException as error:
            # The run began with another server or folder.
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
    run = client.create_run(experiment_id(client, log), run_name=name)
    id_file.write_text(run.info.run_id, encoding="ascii")
    return run


def experiment_id(client: Any, log: LogConfig) -> str:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    assert log.mlflow is not None
    artifacts = None if is_uri(log.mlflow) else Path(log.mlflow, "artifacts").as_uri()
    if (found := client.get_experiment_by_name(log.mlflow_experiment)) is None:
        try:
            return client.create_experiment(log.mlflow_experiment, artifact_location=artifacts)
        except MlflowException as error:
            # Another run made it in between.
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            found = client.get_experiment_by_name(log.mlflow_experiment)
    return found.experiment_id


def log_params(client: Any, run: Any, config: Mapping[str, Any]) -> None:
    """Send the configuration as parameters. MLflow never changes one: a continued run adds those that are new."""
    from mlflow.entities import Param
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

    values = {name_of(key): str(value)[:MAX_PARAM_VAL_LENGTH] for key, value in flatten(config).items()}
    new = [Param(key, value) for key, value in values.items() if key not in run.data.params]
    for start in range(0, len(new), MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run.info.run_id, params=new[start : start + MAX_PARAMS_TAGS_PER_BATCH])


def name_of(key: str) -> str:
    return REFUSED.sub("_", key)
