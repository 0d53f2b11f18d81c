"""All that an experiment has seen, read at once: what looks that go on are held against."""

from sqlalchemy import select

from serve.store.experiment_reader import observed_columns
from serve.store.records import Exposure, Feedback, FeedbackKind, ObservedRequest, Traffic
from serve.store.store import Store
from serve.store.tables import EXPOSURES, FEEDBACK, REQUESTS


def traffic(store: Store, experiment: str, now: float) -> Traffic:
    """What it has seen until `now`."""
    said = [column for column in FEEDBACK.c if column.name != "text"]
    feedback = (
        select(*said, REQUESTS.c.user)
        .join(REQUESTS, REQUESTS.c.id == FEEDBACK.c.request_id)
        .where(REQUESTS.c.experiment == experiment, FEEDBACK.c.at <= now)
        .order_by(FEEDBACK.c.at, FEEDBACK.c.id)
    )
    exposures = (
        select(EXPOSURES)
        .where(EXPOSURES.c.experiment == experiment, EXPOSURES.c.at <= now)
        .order_by(EXPOSURES.c.at, EXPOSURES.c.user)
    )
    requests = (
        select(*observed_columns(REQUESTS))
        .where(REQUESTS.c.experiment == experiment, REQUESTS.c.at <= now)
        .order_by(REQUESTS.c.at, REQUESTS.c.id)
    )
    with store.database.engine.connect() as connection:
        return Traffic(
            exposures=[Exposure(**row) for row in connection.execute(exposures).mappings()],
            requests=[ObservedRequest(**row) for row in connection.execute(requests).mappings()],
            feedback=[
                Feedback(**{**row, "kind": FeedbackKind(row["kind"])})
                for row in connection.execute(feedback).mappings()
            ],
        )
