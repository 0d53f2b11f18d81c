"""Progress of a step of a release: a few numbers per user, and sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter, itemgetter

from serve.releases.config import ReleaseConfig
from serve.releases.goal import Goal
from serve.releases.guardrails import Guardrail
from serve.releases.owner_shares import OwnerShares
from serve.statistics.metrics import REQUEST_METRICS, User, observed_users
from serve.statistics.sample_ratio import ArmCounts
from serve.statistics.visits import Answer, Visits, answers, unit_of
from serve.store.records import Exposure, ObservedRequest, Traffic
from serve.store.release_records import Experiment


class Progress:
    """State of a step, to which final records are added once each, in order, in any number of parts.

    Exposures are added in order of time, users in order of exposure once their observation is over, answers in the
    order of their ends.
    """

    def __init__(self, config: ReleaseConfig, experiment: Experiment) -> None:
        self.config, self.experiment = config, experiment
        self.owners = OwnerShares(config.max_owner_share, config.services)
        self.arms = ArmCounts(experiment.weights)
        self.goal = Goal(config, experiment)
        self.visits = Visits(experiment, period_s=config.guardrail_period_s, window_s=config.guardrail_window_s)
        # Users do not see the shadow, so its guardrails have no user metrics.
        self.guardrails = {
            name: Guardrail(name, guardrail, alpha=config.alpha_guardrail)
            for name, guardrail in config.guardrails.items()
            if guardrail.metric in REQUEST_METRICS or not experiment.shadow
        }
        self.num_copies = 0
        """Number of requests that the candidate answered in the shadow."""

    def add_exposures(self, exposures: Sequence[Exposure]) -> None:
        self.arms.add([exposure.variant for exposure in exposures if self.owners.admit(exposure)])

    def add_users(self, users: Sequence[User]) -> None:
        if not self.experiment.shadow:
            self.goal.add(users)
        for guardrail in self.guardrails.values():
            metric = guardrail.config.metric
            if metric not in REQUEST_METRICS:
                guardrail.add(0, [unit_of(metric, user) for user in users])

    def add_answers(self, answers: Sequence[Answer]) -> None:
        self.visits.add(answers)
        if answers:
            self.end_answers(until=answers[-1][2])

    def end_answers(self, until: float) -> None:
        """Mark the answers as complete up to `until`."""
        for period, over in groupby(self.visits.over(until), key=attrgetter("period")):
            visits = list(over)
            for guardrail in self.guardrails.values():
                metric = guardrail.config.metric
                if metric in REQUEST_METRICS:
                    guardrail.add(period, [visit.unit(metric) for visit in visits])

    def add_copies(self, requests: Iterable[ObservedRequest]) -> None:
        candidate = self.experiment.candidate
        self.num_copies += sum(request.shadow_of is not None and request.variant == candidate for request in requests)

    def admitted(self, traffic: Traffic) -> Traffic:
        """Return the traffic without users who do not count; in the shadow also without their requests."""
        outside = self.owners.outside
        return replace(
            traffic,
            exposures=[exposure for exposure in traffic.exposures if exposure.user not in outside],
            requests=[request for request in traffic.requests if request.user not in outside],
        )

    def users_of(self, traffic: Traffic, now: float) -> list[User]:
        """Return the users who count and whose observation is over."""
        config = self.config
        return observed_users(
            self.admitted(traffic),
            self.experiment,
            observation_s=config.observation_s,
            retention_after_s=config.retention_after_s,
            now=now,
        )

    def answers_of(self, traffic: Traffic) -> list[Answer]:
        """Return the requests that guardrails count, in the order of their ends."""
        return sorted(answers(self.admitted(traffic), self.experiment), key=itemgetter(2))

    def add_traffic(self, traffic: Traffic, now: float) -> None:
        """Add all records of the step until `now`."""
        self.add_exposures(traffic.exposures)
        self.add_users(self.users_of(traffic, now))
        self.add_copies(traffic.requests)
        self.add_answers(self.answers_of(traffic))
        self.end_answers(now)
