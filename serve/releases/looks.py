"""Looks at a running step: each reads what is new since the last one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from sqlalchemy import Connection

from serve.releases.config import ReleaseConfig
from serve.releases.decision import decide
from serve.releases.progress import Progress
from serve.releases.verdict import Verdict
from serve.statistics.metrics import FEEDBACK_METRICS, OUTCOME, REQUEST_METRICS
from serve.store.database import Database
from serve.store.experiment_reader import ExperimentReader, num_exposures, num_requests
from serve.store.release_records import Experiment

LOG = logging.getLogger(__name__)
LAG_S = 2.0
"""Seconds by which a look lags behind the clock; a record that is not in the store by then counts as late."""
MARGIN_S = 60.0
"""Seconds after their time limit within which requests must be recorded."""
BEGINNING = -1e12
"""Unix seconds earlier than all records."""


class Looks:
    """Progress of a step, from which each look continues.

    The step is read completely again in another process, for another step, with another configuration, or if records
    of the past were removed (a user was deleted) or came late (the store was unavailable for a while). Such changes are
    detected by the number of records, which the database counts from an index.
    """

    def __init__(self, database: Database, config: ReleaseConfig, *, timeout_s: float) -> None:
        """`timeout_s`: longest duration of a request, in seconds."""
        self.database, self.config, self.longest_s = database, config, timeout_s + MARGIN_S
        self.key: tuple[Experiment, dict[str, Any]] | None = None
        self.progress: Progress | None = None
        """Progress of the running step; None before the first look, and after a failed look."""
        self.num_reads = 0
        """Number of complete reads of a step."""
        self.until = BEGINNING
        self.settled, self.recent = 0, np.zeros(0)
        """Requests that were read: the number that arrived at least `longest_s` ago, and the arrival times of the
        others."""

    def look(self, experiment: Experiment, now: float) -> Verdict:
        """Judge the step by its records up to `LAG_S` before now."""
        with snapshot(self.database) as connection:
            progress, self.progress = self.progress, None
            if progress is None or self.key != self.key_of(experiment) or not self.is_whole(connection, progress):
                progress = self.begin(experiment)
            self.read(connection, progress, max(self.until, now - LAG_S))
            self.progress = progress
        return decide(progress, now)

    def key_of(self, experiment: Experiment) -> tuple[Experiment, dict[str, Any]]:
        return experiment, asdict(self.config)

    def begin(self, experiment: Experiment) -> Progress:
        self.key, self.until = self.key_of(experiment), BEGINNING
        self.settled, self.recent = 0, np.zeros(0)
        self.num_reads += 1
        LOG.debug("experiment %s is read whole", experiment.name)
        return Progress(self.config, experiment)

    def is_whole(self, connection: Connection, progress: Progress) -> bool:
        """Return whether the store still has exactly the records read until the last look."""
        name = progress.experiment.name
        if num_exposures(connection, name, self.until) != progress.owners.num_users:
            return False
        # Later requests may have been unfinished.
        settled = self.until - self.longest_s
        return not self.reads_requests(progress) or num_requests(connection, name, settled) == self.settled

    def reads_requests(self, progress: Progress) -> bool:
        return progress.experiment.shadow or any(not is_of_feedback(metric) for metric in self.config.metrics)

    def read(self, connection: Connection, progress: Progress, until: float) -> None:
        config, step = self.config, progress.experiment
        reader = ExperimentReader(
            connection=connection,
            experiment=step.name,
            after=self.until,
            until=until,
            longest_s=self.longest_s,
            tokens="completion_tokens" in config.metrics,
        )
        for exposures in reader.exposures():
            progress.add_exposures(exposures)
        if not step.shadow:
            of_requests = any(not is_of_feedback(metric) for metric in config.metrics - REQUEST_METRICS.keys())
            for page in reader.users(config.observation_s, requests=of_requests):
                progress.add_users(progress.users_of(page, until))
        if self.reads_requests(progress):
            for page in reader.requests():
                self.recent = np.append(self.recent, [request.at for request in page.requests])
                progress.add_copies(page.requests)
                if not step.shadow:
                    progress.add_answers(progress.answers_of(page))
            for page in reader.pairs() if step.shadow else ():
                progress.add_answers(progress.answers_of(page))
            progress.end_answers(until)
        settled = self.recent <= until - self.longest_s
        self.settled, self.recent, self.until = self.settled + int(settled.sum()), self.recent[~settled], until


def is_of_feedback(metric: str) -> bool:
    return metric in FEEDBACK_METRICS or metric.startswith(OUTCOME)


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """Open a connection with snapshot isolation from its first statement, as SQLite's transactions have."""
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection
