"""Units of guardrails: users, each counted once per period regardless of the number of requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from serve.statistics.metrics import REQUEST_METRICS, User, end, exposed_users, user_value
from serve.store.records import ObservedRequest, Traffic
from serve.store.release_records import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Values of one user by arm, in the metric's own unit: one arm in a canary step, both arms in the shadow."""

    candidate: Sequence[float] | None = None
    """Values of the candidate's answers. None: the candidate did not answer. Empty: all requests failed."""
    predecessor: Sequence[float] | None = None
    """Values of the predecessor's answers, as `candidate`."""
    probability: float = 0.5
    """Probability of the candidate's arm; unused in the shadow."""

    @property
    def both(self) -> bool:
        """True if both arms answered, as in the shadow."""
        return self.candidate is not None and self.predecessor is not None


@dataclass(slots=True, kw_only=True)
class Visit:
    """Requests of one user that ended within a short time after the first one ended."""

    period: int
    entered: float
    """Unix seconds at which the first request ended."""
    user: User | None
    """The user; None in the shadow, where all users see the predecessor."""
    requests: list[ObservedRequest] = field(default_factory=list)
    copies: list[ObservedRequest] = field(default_factory=list)
    """The candidate's answers to `requests` in the shadow."""

    def unit(self, metric: str) -> Unit:
        """Return the visit's values of a request metric."""
        seen = values(metric, self.requests)
        if self.user is None:
            return Unit(candidate=values(metric, self.copies), predecessor=seen)
        if self.user.candidate:
            return Unit(candidate=seen, probability=self.user.probability)
        return Unit(predecessor=seen, probability=self.user.probability)


def values(metric: str, requests: Sequence[ObservedRequest]) -> list[float]:
    found = (REQUEST_METRICS[metric](request) for request in requests)
    return [value for value in found if value is not None]


def unit_of(metric: str, user: User) -> Unit:
    """Return the user's value of a user metric."""
    value = user_value(metric, user)
    known = [] if value is None else [value]
    if user.candidate:
        return Unit(candidate=known, probability=user.probability)
    return Unit(predecessor=known, probability=user.probability)


Answer = tuple[str, User | None, float, ObservedRequest, ObservedRequest | None]
"""Name of the unit, user, time of the end, request, and its copy in the shadow."""


class Visits:
    """Visits in the order in which their first request ended.

    Requests of a user are correlated and stay in one arm, so a second visit in the same test would not be independent.
    Later requests never change a visit whose window is over.
    """

    def __init__(self, experiment: Experiment, *, period_s: float, window_s: float) -> None:
        self.since, self.period_s, self.window_s = experiment.since, period_s, window_s
        self.open: dict[str, Visit] = {}
        """Visits by unit whose window may still be open."""
        self.queue: deque[tuple[str, Visit]] = deque()
        """The open visits in order."""
        self.period = 0
        self.counted: set[int] = set()
        """Hashes of the names of the units with a visit in the latest period; hashes take less memory than names."""

    def add(self, answers: Iterable[Answer]) -> None:
        """Add answers in the order in which they ended, none of which ended before those added earlier."""
        for name, user, ended, request, copy in answers:
            visit = self.open.get(name)
            if visit is None or ended >= visit.entered + self.window_s:
                visit = self.enter(name, user, ended)
            if visit:
                visit.requests.append(request)
                visit.copies += [copy] if copy else []

    def enter(self, name: str, user: User | None, ended: float) -> Visit | None:
        """Begin a visit; return None if the unit has had its visit of the period."""
        period = max(0, int((ended - self.since) // self.period_s))
        if period != self.period:
            self.period = period
            self.counted.clear()
        if hash(name) in self.counted:
            return None
        self.counted.add(hash(name))
        visit = self.open[name] = Visit(period=period, entered=ended, user=user)
        self.queue.append((name, visit))
        return visit

    def over(self, now: float) -> Iterator[Visit]:
        """Remove and yield the visits whose window is over."""
        while self.queue and self.queue[0][1].entered + self.window_s <= now:
            name, visit = self.queue.popleft()
            if self.open[name] is visit:
                del self.open[name]
            yield visit


def visits(
    traffic: Traffic, experiment: Experiment, *, period_s: float, window_s: float, now: float
) -> list[list[Visit]]:
    """Return the visits whose window is over, by period."""
    found = Visits(experiment, period_s=period_s, window_s=window_s)
    found.add(sorted(answers(traffic, experiment), key=itemgetter(2)))
    over = list(found.over(now))
    periods = max((visit.period for visit in over), default=0) + 1
    return [[visit for visit in over if visit.period == number] for number in range(periods)]


def answers(traffic: Traffic, experiment: Experiment) -> Iterator[Answer]:
    """Yield the requests that guardrails count."""
    if experiment.shadow:
        named = {exposure.user for exposure in traffic.exposures}
        seen = {request.id: request for request in traffic.requests if request.shadow_of is None}
        for copy in traffic.requests:
            if copy.shadow_of is not None and (request := seen.get(copy.shadow_of)):
                # Requests without a user are correlated within a conversation at most.
                unit = request.user if request.user in named else f"conversation {request.conversation}"
                yield unit, None, max(end(request), end(copy)), request, copy
        return
    users = exposed_users(traffic, experiment)
    for request in traffic.requests:
        user = users.get(request.user)
        if user and request.shadow_of is None and (request.variant == experiment.candidate) is user.candidate:
            yield request.user, user, end(request), request, None
