"""The goal metric of a release: its test, verdict and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from serve.releases.config import ReleaseConfig, Test
from serve.releases.guardrails import ARMS, Finding, format_value
from serve.statistics.metrics import User, trial, unanswered
from serve.statistics.responders import RespondersTest
from serve.statistics.sequential import Comparison, ComparisonTest, Trials
from serve.statistics.welch import least_users, sizes, stratified_welch, until_planned
from serve.store.release_records import Experiment


class Goal:
    """State of the goal's test in one step."""

    def __init__(self, config: ReleaseConfig, experiment: Experiment) -> None:
        self.config, self.goal, self.experiment = config, config.goal, experiment
        better, worse = config.false_promotions, config.alpha_worse
        self.direction = 1 if self.goal.higher_is_better else -1
        self.alphas = dict(zip(("alpha_higher", "alpha_lower"), (better, worse)[:: self.direction], strict=True))
        """Probabilities of falsely calling the candidate's mean higher, and lower."""
        self.sequential = ComparisonTest(**self.alphas) if self.goal.test is Test.sequential else None
        self.users = Trials()
        """Users of the fixed test."""
        self.fixed: tuple[Comparison, str | None] | None = None
        """Result of the fixed test, once it has all its users."""
        self.responders = RespondersTest(**self.alphas)
        self.totals, self.counts, self.own = (dict.fromkeys(ARMS, zero) for zero in (0.0, 0, 0))
        """Sum of the values, number of users, and number of users with a value, by arm."""

    @property
    def unanswered(self) -> float:
        """Value of a user without feedback, in the metric's own unit."""
        goal = self.goal
        return unanswered(goal.metric, goal.low, goal.high) if goal.unanswered is None else goal.unanswered

    def add(self, users: Sequence[User]) -> None:
        """Add users whose observation is over, in order of exposure."""
        goal = self.goal
        values = trial(goal.metric, users, goal.low, goal.high)
        counted = values.filled((self.unanswered - goal.low) / (goal.high - goal.low))
        self.responders.add(values)
        if self.sequential:
            self.sequential.add(counted)
        else:
            self.users.add(counted)
        for arm, known, filled in zip(ARMS, values.arms, counted.arms, strict=True):
            self.totals[arm] += float(filled.sum())
            self.counts[arm] += len(filled)
            self.own[arm] += int((~np.isnan(known)).sum())

    def finding(self) -> Finding:
        """Test whether users are better off. The last step is passed if so, earlier ones unless they are worse off."""
        goal = self.goal
        names = (self.experiment.candidate, self.experiment.predecessor)
        few = tuple(
            f"{goal.metric} of {count} of {goal.min_users} users of {name}"
            for name, count in zip(names, self.own.values(), strict=True)
            if count < goal.min_users
        )
        found, problem = self.result()
        better = self.direction * (found.decided if found and not problem else 0)
        sentence = f"{goal.metric} {self.in_words(found)}"
        if better > 0:
            verdict, undecided = "significantly better", None
        else:
            verdict, undecided = (
                "nothing speaks against it",
                "not significantly better" if self.experiment.last else None,
            )
        reason = problem or undecided
        return Finding(
            against=f"{sentence}: significantly worse" if better < 0 else None,
            passes=(f"{sentence}: {verdict}",),
            waits=few or ((f"{sentence}: {reason}",) if reason else ()),
            final=bool(problem) or (goal.test is Test.fixed and found is not None),
            evidence=self.evidence(found, better),
        )

    def result(self) -> tuple[Comparison | None, str | None]:
        """Return the comparison, None until the fixed test has its users; and the reason if it decides nothing."""
        if self.sequential:
            found = self.sequential.result()
            return found, None if found.readable else "no single difference fits all users, it changed over time"
        if self.fixed is None:
            self.fixed = self.fixed_result()
        return self.fixed or (None, None)

    def fixed_result(self) -> tuple[Comparison, str | None] | None:
        users_per_arm, share = self.goal.users_per_arm, self.experiment.weight
        assert users_per_arm is not None
        wanted = sizes(users_per_arm, share)
        if any(count < least for count, least in zip(self.counts.values(), wanted, strict=True)):
            return None
        planned = until_planned(self.users.whole, users_per_arm=users_per_arm, share=share)
        assert planned is not None
        least = least_users(planned.values)
        few = f"too lopsided for a t-test of fewer than {least} users in the smaller arm (users_per_arm)"
        return stratified_welch(planned, **self.alphas), few if users_per_arm < least else None

    def evidence(self, found: Comparison | None, better: int) -> dict[str, Any]:
        """Return the figures in the metric's own unit. `difference` and its bounds are for the tested users."""
        goal = self.goal
        evidence: dict[str, Any] = {
            "metric": goal.metric,
            "test": str(goal.test),
            **self.alphas,
            "higher_is_better": goal.higher_is_better,
            "unanswered": self.unanswered,
            **{arm: self.mean(arm) for arm in ARMS},
            **{f"num_{arm}": self.counts[arm] for arm in ARMS},
            "min_users": goal.min_users,
            "with_own_value": dict(self.own),
            "better": better,
        }
        if goal.users_per_arm is not None:
            evidence["horizon"] = sizes(goal.users_per_arm, self.experiment.weight)
        if found:
            evidence |= self.figures(found)
        if self.own != self.counts:
            readings = self.responders.result()
            evidence["responders"] = {**self.figures(readings.values), "response_rate": asdict(readings.rates)}
        return evidence

    def mean(self, arm: str) -> float | None:
        """Return the mean of an arm's users; None without any."""
        low, high = self.goal.low, self.goal.high
        return low + (high - low) * self.totals[arm] / self.counts[arm] if self.counts[arm] else None

    def figures(self, found: Comparison) -> dict[str, float | None]:
        span = self.goal.high - self.goal.low
        figures = {name: getattr(found, name) for name in ("difference", "low", "high")}
        scaled = {name: None if figure is None else figure * span for name, figure in figures.items()}
        return {**scaled, "p_value": found.p_value}

    def in_words(self, found: Comparison | None) -> str:
        if found is None:
            return f"is not tested before {self.goal.users_per_arm} users of the smaller arm"
        difference, low, high = (format_value(self.figures(found)[name]) for name in ("difference", "low", "high"))
        return f"differs by {difference} ({low} to {high})"
