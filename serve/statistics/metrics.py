"""Metrics of users and of single requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from serve.statistics.sequential import Trial
from serve.store.records import Feedback, FeedbackKind, ObservedRequest, Traffic
from serve.store.release_records import Experiment

ERROR = 500
"""Lowest HTTP status of the service's own failures."""
FAILED = 400
"""Lowest HTTP status of a request without an answer."""
OUTCOME = "outcome:"


@dataclass(slots=True, kw_only=True)
class User:
    """Actions of one user from the first exposure until `observation_s` later."""

    candidate: bool
    """True if the candidate answers this user."""
    probability: float
    """Probability of the candidate's arm when the user was exposed."""
    exposure_s: float
    """Unix seconds of the first exposure."""
    requests: dict[str, ObservedRequest] = field(default_factory=dict)
    """Requests by id."""
    feedback: list[Feedback] = field(default_factory=list)
    retained: bool = False
    """True if a request came at least `retention_after_s` after the exposure."""

    @property
    def answered_requests(self) -> list[ObservedRequest]:
        return [request for request in self.requests.values() if request.status < FAILED]

    def feedback_values(self, kind: FeedbackKind, name: str | None = None) -> list[float]:
        """Return the values of feedback of this kind; for outcomes, only those with this name."""
        return [
            event.value
            for event in self.feedback
            if event.kind is kind and event.name == name and event.value is not None
        ]


def exposed_users(traffic: Traffic, experiment: Experiment) -> dict[str, User]:
    """Return the users drawn at random into one of the experiment's two arms, in order of exposure."""
    return {
        exposure.user: User(
            candidate=exposure.variant == experiment.candidate,
            probability=exposure.weights[experiment.candidate],
            exposure_s=exposure.at,
        )
        for exposure in traffic.exposures
        if 0 < exposure.weights.get(experiment.candidate, 0.0) < 1
    }


def observed_users(
    traffic: Traffic, experiment: Experiment, *, observation_s: float, retention_after_s: float, now: float
) -> list[User]:
    """Return the users whose observation time is over, in order of exposure.

    Requests in progress at its end do not count, since they are not recorded yet. So later events never change a user,
    and a test may be looked at after each user.
    """
    users = {
        name: user
        for name, user in exposed_users(traffic, experiment).items()
        if user.exposure_s + observation_s <= now
    }

    def within(user: str, at: float) -> User | None:
        found = users.get(user)
        return found if found and 0 <= at - found.exposure_s < observation_s else None

    for request in traffic.requests:
        user = within(request.user, request.at) and within(request.user, end(request))
        if user and request.shadow_of is None and (request.variant == experiment.candidate) is user.candidate:
            user.requests[request.id] = request
            user.retained |= request.at - user.exposure_s >= retention_after_s
    for event in traffic.feedback:
        if user := within(event.user, event.at):
            user.feedback.append(event)
    return list(users.values())


def end(request: ObservedRequest) -> float:
    return request.at + request.latency_s


def mean(values: Iterable[float]) -> float | None:
    """Mean; None if empty."""
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def thumbs(user: User) -> float | None:
    """Share of a user's thumbs that are up."""
    return mean(value > 0 for value in user.feedback_values(FeedbackKind.thumb))


def rating(user: User) -> float | None:
    return mean(user.feedback_values(FeedbackKind.rating))


def edits(user: User) -> float | None:
    """Share of a user's answers that the user edited."""
    edited = {event.request_id for event in user.feedback if event.kind is FeedbackKind.edit}
    return mean(request.id in edited for request in user.answered_requests)


def regenerations(user: User) -> float | None:
    """Share of a user's answers that the user regenerated."""
    prompts = [request.prompt_hash for request in user.answered_requests]
    return mean(prompt in prompts[i + 1 :] for i, prompt in enumerate(prompts))


def turns(user: User) -> float | None:
    """Mean over a user's conversations of the number of turns reached."""
    last: dict[str, int] = {}
    for request in user.answered_requests:
        last[request.conversation] = max(request.turn, last.get(request.conversation, 0))
    return mean(last.values())


def retention(user: User) -> float:
    return float(user.retained)


USER_METRICS: dict[str, Callable[[User], float | None]] = {
    "thumbs": thumbs,
    "rating": rating,
    "edits": edits,
    "regenerations": regenerations,
    "turns": turns,
    "retention": retention,
}
FEEDBACK_METRICS = ("thumbs", "rating")
"""Metrics, besides outcomes, that read only feedback; the other user metrics read requests."""
REQUEST_METRICS: dict[str, Callable[[ObservedRequest], float | None]] = {
    "error_rate": lambda request: float(request.status >= ERROR),
    "latency_p95_s": lambda request: request.latency_s if request.status < FAILED else None,
    "latency_p99_s": lambda request: request.latency_s if request.status < FAILED else None,
    "first_token_p95_s": lambda request: request.first_token_s if request.status < FAILED else None,
    "completion_tokens": lambda request: request.completion_tokens if request.status < FAILED else None,
}
QUANTILES = {"latency_p95_s": 0.95, "latency_p99_s": 0.99, "first_token_p95_s": 0.95}
"""Metrics that are a quantile of their values; the others are the mean."""
MINIMA = {"rating": 1.0, "turns": 1.0, "completion_tokens": 1.0}
"""Smallest possible values, if not 0."""


def is_user_metric(metric: str) -> bool:
    return metric in USER_METRICS or (metric.startswith(OUTCOME) and metric != OUTCOME)


OPINIONS = ("thumbs", "rating")
"""Metrics, besides outcomes, for which missing feedback is neither good nor bad."""


def unanswered(metric: str, low: float, high: float) -> float:
    """Return the value of a user without feedback: the middle for an opinion, the lowest for a count."""
    return (low + high) / 2 if metric in OPINIONS or metric.startswith(OUTCOME) else low


def user_value(metric: str, user: User) -> float | None:
    """Return a user's value in the metric's own unit; None if the user has no value."""
    if metric.startswith(OUTCOME):
        return mean(user.feedback_values(FeedbackKind.outcome, metric.removeprefix(OUTCOME)))
    return USER_METRICS[metric](user)


def trial(metric: str, users: Sequence[User], low: float, high: float) -> Trial:
    """Return the values of users of both arms, clipped to [low, high] and scaled to [0, 1]; NaN for users without a
    value."""
    values = [user_value(metric, user) for user in users]
    return Trial(
        candidate=np.array([user.candidate for user in users], bool),
        probability=np.array([user.probability for user in users], float),
        values=scale(np.array([np.nan if value is None else value for value in values], float), low, high),
    )


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:  # both [n]
    """Clip values to [low, high] and scale them to [0, 1]."""
    return (np.clip(values, low, high) - low) / (high - low)


def metric_names(*, of_requests: bool) -> str:
    """List the metrics' names, for a message."""
    names = [*USER_METRICS, f"{OUTCOME}NAME", *(REQUEST_METRICS if of_requests else ())]
    return ", ".join(names)
