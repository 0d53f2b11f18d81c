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
"""Seconds by which a look is behind: a record is in the store by then, or it comes late."""
MARGIN_S = 60.0
"""Seconds over their limit that requests may take to be recorded."""
BEGINNING = -1e12
"""Unix seconds before all records."""


class Looks:
    """Keeps what a step has seen so far, and goes on from there.

    Read whole again where that cannot be: by another process, for another step, with another configuration, or where
    records of the past have gone (a user was deleted) or came late (the store did not take them for a while). Those are
    found by their number: counting reads an index alone.
    """

    def __init__(self, database: Database, config: ReleaseConfig, *, timeout_s: float) -> None:
        """`timeout_s`: longest that a request takes."""
        self.database, self.config, self.longest_s = database, config, timeout_s + MARGIN_S
        self.key: tuple[Experiment, dict[str, Any]] | None = None
        self.progress: Progress | None = None
        """Progress of the running step; None before the first look, and after one that failed."""
        self.num_reads = 0
        """Number of times that a step was read whole."""
        self.until = BEGINNING
        self.settled, self.recent = 0, np.zeros(0)
        """Requests that were read: the number of those that arrived `longest_s` before, and when the others did."""

    def look(self, experiment: Experiment, now: float) -> Verdict:
        """Judge what the step has seen until `LAG_S` before now."""
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
        """Return whether the store still has exactly what was read until the last look."""
        name = progress.experiment.name
        if num_exposures(connection, name, self.until) != progress.owners.num_users:
            return False
        # Later ones may have been under way.
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
    """A connection to which the store stays as it is at its first statement, as SQLite's transactions do."""
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection
