"""Records of a step of a release between two times, page by page, in the order in which `Progress` takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Text, and_, case, cast, func, null, select, tuple_
from sqlalchemy.sql.selectable import FromClause

from serve.store.records import Exposure, Feedback, FeedbackKind, ObservedRequest, Traffic
from serve.store.tables import EXPOSURES, FEEDBACK, REQUESTS, RESPONSES

PAGE = 500
"""Users, or requests, in memory at once."""
OBSERVED_NAMES = (
    "id",
    "user",
    "variant",
    "at",
    "shadow_of",
    "conversation",
    "turn",
    "prompt_hash",
    "status",
    "latency_s",
    "first_token_s",
    "completion_tokens",
)
EXPOSURE_NAMES = tuple(column.name for column in EXPOSURES.c)
# Nearly all have the same weights, which are decoded once.
EXPOSURE_COLUMNS = [cast(column, Text) if column.name == "weights" else column for column in EXPOSURES.c]
FEEDBACK_NAMES = ("id", "request_id", "at", "kind", "choice", "value", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentReader:
    """An experiment's records of the times in (`after`, `until`], within one transaction."""

    connection: Connection
    experiment: str
    after: float
    until: float
    longest_s: float
    """No request takes longer, or it is found late (`num_requests`)."""
    tokens: bool
    """Count completion tokens."""

    def exposures(self) -> Iterator[list[Exposure]]:
        """Yield exposures in order of time."""
        yield from self._exposures(EXPOSURES.c.at > self.after, EXPOSURES.c.at <= self.until)

    def users(self, observation_s: float, *, requests: bool) -> Iterator[Traffic]:
        """Users whose observation ends in this time, in order of exposure, with all that they said, and their requests
        if wanted."""
        ended = EXPOSURES.c.at + observation_s
        # The index knows nothing of the sum, and the sum is what users are asked for: to a rounding error.
        near = (EXPOSURES.c.at > self.after - observation_s - 1, EXPOSURES.c.at < self.until - observation_s + 1)
        for exposures in self._exposures(*near, ended > self.after, ended <= self.until):
            # Not by the index of experiments, which would go through all requests for every page.
            own = (
                REQUESTS.c.user.in_([exposure.user for exposure in exposures]),
                func.coalesce(REQUESTS.c.experiment, "") == self.experiment,
            )
            yield Traffic(
                exposures=exposures,
                requests=self._requests_of(own) if requests else [],
                feedback=self._feedback_of(own),
            )

    def requests(self) -> Iterator[Traffic]:
        """Requests that ended in this time, in the order in which they did, and the exposures of their users."""
        ended = REQUESTS.c.at + REQUESTS.c.latency_s
        shown = and_(EXPOSURES.c.experiment == REQUESTS.c.experiment, EXPOSURES.c.user == REQUESTS.c.user)
        query = select(*observed_columns(REQUESTS, tokens=self.tokens), *EXPOSURE_COLUMNS).outerjoin_from(
            REQUESTS, EXPOSURES, shown
        )
        yield from self._pages(query.where(*self._ended(REQUESTS, ended)).order_by(ended, REQUESTS.c.id))

    def pairs(self) -> Iterator[Traffic]:
        """Requests and their copies in the shadow, pairs whose later one ended in this time, in that order."""
        asked, copy = REQUESTS.alias("asked"), REQUESTS.alias("copy")
        ends = (asked.c.at + asked.c.latency_s, copy.c.at + copy.c.latency_s)
        ended = case((ends[0] > ends[1], ends[0]), else_=ends[1])
        shown = and_(EXPOSURES.c.experiment == asked.c.experiment, EXPOSURES.c.user == asked.c.user)
        columns = (observed_columns(table, tokens=self.tokens) for table in (asked, copy))
        query = (
            select(*next(columns), *EXPOSURE_COLUMNS, *next(columns))
            .join_from(copy, asked, asked.c.id == copy.c.shadow_of)
            .outerjoin(EXPOSURES, shown)
            .where(asked.c.experiment == self.experiment, asked.c.shadow_of.is_(None))
        )
        yield from self._pages(query.where(*self._ended(copy, ended)).order_by(ended, copy.c.id))

    def _ended(self, table: FromClause, ended: ColumnElement[float]) -> tuple[ColumnElement[bool], ...]:
        at = table.c.at
        return (
            table.c.experiment == self.experiment,
            # Of a pair the other one may have been under way as long.
            at > self.after - 2 * self.longest_s,
            at <= self.until,
            ended > self.after,
            ended <= self.until,
        )

    def _exposures(self, *conditions: ColumnElement[bool]) -> Iterator[list[Exposure]]:
        page = (
            select(*EXPOSURE_COLUMNS)
            .where(EXPOSURES.c.experiment == self.experiment, *conditions)
            .order_by(EXPOSURES.c.at, EXPOSURES.c.user)
            .limit(PAGE)
        )
        place = tuple_(EXPOSURES.c.at, EXPOSURES.c.user)
        found = self._page_of_exposures(page)
        while found:
            yield found
            last = found[-1]
            found = self._page_of_exposures(page.where(EXPOSURES.c.at >= last.at, place > (last.at, last.user)))

    def _page_of_exposures(self, page: Select[Any]) -> list[Exposure]:
        return [exposure(row) for row in self.connection.execute(page)]

    def _requests_of(self, own: tuple[ColumnElement[bool], ...]) -> list[ObservedRequest]:
        query = select(*observed_columns(REQUESTS, tokens=False)).where(*own).order_by(REQUESTS.c.at, REQUESTS.c.id)
        return [observed(row) for row in self.connection.execute(query)]

    def _feedback_of(self, own: tuple[ColumnElement[bool], ...]) -> list[Feedback]:
        query = (
            select(*(FEEDBACK.c[name] for name in FEEDBACK_NAMES), REQUESTS.c.user)
            .join_from(REQUESTS, FEEDBACK, REQUESTS.c.id == FEEDBACK.c.request_id)
            .where(*own)
            .order_by(FEEDBACK.c.at, FEEDBACK.c.id)
        )
        return [
            Feedback(**{**row, "kind": FeedbackKind(row["kind"])}) for row in self.connection.execute(query).mappings()
        ]

    def _pages(self, query: Select[Any]) -> Iterator[Traffic]:
        first, second = len(OBSERVED_NAMES), len(OBSERVED_NAMES) + len(EXPOSURE_NAMES)
        for rows in self.connection.execute(query.execution_options(yield_per=PAGE)).partitions():
            shown = {row[first + 1]: row[first:second] for row in rows if row[first] is not None}
            requests = [observed(row[:first]) for row in rows]
            requests += [observed(row[second:]) for row in rows if len(row) > second]
            yield Traffic(exposures=[exposure(one) for one in shown.values()], requests=requests)


def observed_columns(requests: FromClause, *, tokens: bool = True) -> list[ColumnElement[Any]]:
    """Columns of `ObservedRequest`; without `tokens` None stands for completion tokens."""
    counted: ColumnElement[Any] = null().label(OBSERVED_NAMES[-1])
    if tokens:
        of_request = select(func.sum(RESPONSES.c.num_tokens)).where(RESPONSES.c.request_id == requests.c.id)
        counted = of_request.scalar_subquery().label(OBSERVED_NAMES[-1])
    return [*(requests.c[name] for name in OBSERVED_NAMES[:-1]), counted]


def exposure(row: Row[Any] | tuple[Any, ...]) -> Exposure:
    fields = dict(zip(EXPOSURE_NAMES, row, strict=True))
    return Exposure(**{**fields, "weights": decode_weights(fields["weights"])})


@lru_cache(maxsize=64)
def decode_weights(weights: str) -> Mapping[str, float]:
    found: Mapping[str, float] = json.loads(weights)
    return found


def observed(row: Row[Any] | tuple[Any, ...]) -> ObservedRequest:
    return ObservedRequest(**dict(zip(OBSERVED_NAMES, row, strict=True)))


def num_exposures(connection: Connection, experiment: str, until: float) -> int:
    known = (EXPOSURES.c.experiment == experiment, EXPOSURES.c.at <= until)
    return int(connection.execute(select(func.count()).select_from(EXPOSURES).where(*known)).scalar_one())


def num_requests(connection: Connection, experiment: str, until: float) -> int:
    """Requests that arrived until then."""
    known = (REQUESTS.c.experiment == experiment, REQUESTS.c.at <= until)
    return int(connection.execute(select(func.count()).select_from(REQUESTS).where(*known)).scalar_one())
