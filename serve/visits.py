"""What guardrails count: users, each once in a period, however many requests they send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from serve.metrics import REQUEST_METRICS, User, exposed_users, user_value
from serve.records import Observed, Traffic
from serve.verdict import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Values of one user by arm, in the metric's own unit: of one arm among users, of both in the shadow."""

    candidate: Sequence[float] | None = None
    """None: the user was not answered by it. Empty: nothing to measure, as of requests that failed."""
    predecessor: Sequence[float] | None = None
    """As `candidate`."""
    probability: float = 0.5
    """Probability of the candidate's arm; unused in the shadow."""

    @property
    def both(self) -> bool:
        """Whether both arms answered, as in the shadow."""
        return self.candidate is not None and self.predecessor is not None


@dataclass(slots=True, kw_only=True)
class Visit:
    """Requests of one user that ended within a short time of the first that did."""

    period: int
    entered: float
    """Unix seconds at which the first one ended."""
    user: User | None
    """None in the shadow, where everybody sees the predecessor."""
    requests: list[Observed] = field(default_factory=list)
    copies: list[Observed] = field(default_factory=list)
    """The candidate's answers to `requests` in the shadow."""

    def unit(self, metric: str) -> Unit:
        """Values of one request metric."""
        seen = values(metric, self.requests)
        if self.user is None:
            return Unit(candidate=values(metric, self.copies), predecessor=seen)
        if self.user.candidate:
            return Unit(candidate=seen, probability=self.user.probability)
        return Unit(predecessor=seen, probability=self.user.probability)


def values(metric: str, requests: Sequence[Observed]) -> list[float]:
    found = (REQUEST_METRICS[metric](request) for request in requests)
    return [value for value in found if value is not None]


def unit_of(metric: str, user: User) -> Unit:
    """Value of one user metric."""
    value = user_value(metric, user)
    known = [] if value is None else [value]
    if user.candidate:
        return Unit(candidate=known, probability=user.probability)
    return Unit(predecessor=known, probability=user.probability)


def visits(
    traffic: Traffic, experiment: Experiment, *, period_s: float, window_s: float, now: float
) -> list[list[Visit]]:
    """Visits by period, those whose window is over, in the order in which their first request ended.

    A user is alike from request to request and keeps the arm, so that a second visit in one test would count one
    chance twice. Later requests never change a visit whose window is over.
    """
    latest: dict[str, Visit] = {}
    found: list[Visit] = []
    for name, user, ended, request, copy in sorted(answers(traffic, experiment), key=lambda answer: answer[2]):
        period = max(0, int((ended - experiment.since) // period_s))
        visit = latest.get(name)
        if visit is None or (ended >= visit.entered + window_s and period != visit.period):
            visit = latest[name] = Visit(period=period, entered=ended, user=user)
            found.append(visit)
        if ended < visit.entered + window_s:
            visit.requests.append(request)
            visit.copies += [copy] if copy else []
    over = [visit for visit in found if visit.entered + window_s <= now]
    periods = max((visit.period for visit in over), default=0) + 1
    return [[visit for visit in over if visit.period == number] for number in range(periods)]


def answers(
    traffic: Traffic, experiment: Experiment
) -> Iterator[tuple[str, User | None, float, Observed, Observed | None]]:
    """Each request with the unit it counts for, its user, the time at which it ended, and its copy in the shadow."""
    if experiment.shadow:
        named = {exposure.user for exposure in traffic.exposures}
        seen = {request.id: request for request in traffic.requests if request.shadow_of is None}
        for copy in traffic.requests:
            if copy.shadow_of is not None and (request := seen.get(copy.shadow_of)):
                # Requests that name no user are alike within a conversation at most.
                unit = request.user if request.user in named else f"conversation {request.conversation}"
                yield unit, None, max(end(request), end(copy)), request, copy
        return
    users = exposed_users(traffic, experiment)
    for request in traffic.requests:
        user = users.get(request.user)
        if user and request.shadow_of is None and (request.variant == experiment.candidate) is user.candidate:
            yield request.user, user, end(request), request, None


def end(request: Observed) -> float:
    return request.at + request.latency_s
