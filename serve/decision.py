"""What follows from what a step of a release has seen. Pure: the same traffic and time give the same verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from serve.fixed import sizes, welch
from serve.guardrails import Finding, inspect_guardrail, shown
from serve.metrics import REQUEST_METRICS, User, observed_users, request_values, scale, user_values
from serve.mismatch import ALPHA, mismatch
from serve.records import Traffic
from serve.release_settings import ReleaseConfig, Test
from serve.sequential import Comparison, compare
from serve.verdict import Experiment, Outcome, Verdict


def judge(config: ReleaseConfig, experiment: Experiment, traffic: Traffic, now: float) -> Verdict:
    """Whether a step is passed (promote), waits (hold), ends the release (roll_back), or needs a person (inconclusive).

    A breached guardrail withdraws the candidate whatever else is the case: that is the safe direction. A goal that got
    worse does so too, unless the split is wrong, for then no result can be read. Nothing is passed on missing values:
    every guardrail has its samples, the goal its users, the shadow its requests, the step its duration.
    """
    look = Look(config=config, experiment=experiment, traffic=traffic, now=now)
    guardrails = look.guardrails()
    duration, split = look.duration(), look.split()
    aim = look.shadow() if experiment.shadow else look.goal()
    evidence = {
        "experiment": experiment.name,
        "at": now,
        **duration.evidence,
        **split.evidence,
        **aim.evidence,
        "guardrails": {name: finding.evidence for name, finding in guardrails.items()},
    }
    against = tuple(finding.against for finding in guardrails.values() if finding.against)
    if not against and aim.against and not split.waits:
        against = (aim.against,)
    if against:
        return Verdict(outcome=Outcome.roll_back, reasons=against, evidence=evidence)
    findings = [split] if split.waits else [duration, aim, *guardrails.values()]
    waits = tuple(reason for finding in findings for reason in finding.waits)
    if not waits:
        return Verdict(outcome=Outcome.promote, reasons=aim.passes, evidence=evidence)
    vain = look.over or (waits == aim.waits and aim.final)
    return Verdict(outcome=Outcome.inconclusive if vain else Outcome.hold, reasons=waits, evidence=evidence)


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at one step."""

    config: ReleaseConfig
    experiment: Experiment
    traffic: Traffic
    now: float

    @cached_property
    def users(self) -> tuple[list[User], list[User]]:
        """Of the candidate and of the predecessor, those whose observation is over."""
        candidate, predecessor = (
            observed_users(
                self.traffic,
                variant,
                observation_s=self.config.observation_s,
                retention_after_s=self.config.retention_after_s,
                now=self.now,
            )
            for variant in (self.experiment.candidate, self.experiment.predecessor)
        )
        return candidate, predecessor

    def values(self, metric: str) -> tuple[np.ndarray, np.ndarray]:  # [num_candidate], [num_predecessor]
        """Of the candidate and of the predecessor, in the metric's own unit, in order of entry."""
        step = self.experiment
        if metric in REQUEST_METRICS:
            return (
                request_values(metric, self.traffic, step.candidate, shadow=step.shadow),
                request_values(metric, self.traffic, step.predecessor, shadow=False),
            )
        candidate, predecessor = self.users
        return user_values(metric, candidate), user_values(metric, predecessor)

    @property
    def passed_s(self) -> float:
        return self.now - self.experiment.since

    @property
    def over(self) -> bool:
        """Whether the step has had its time."""
        return self.passed_s >= self.config.max_step_s

    @property
    def share(self) -> float:
        """The candidate's part of what both arms get; in the shadow of the requests answered by both."""
        copied = self.config.shadow_fraction
        return copied / (1 + copied) if self.experiment.shadow else self.experiment.weight

    def duration(self) -> Finding:
        least = self.config.min_step_s
        waits = (f"the step has run {self.passed_s:.0f} of {least:g} s",) if self.passed_s < least else ()
        return Finding(waits=waits, evidence={"since": self.experiment.since, "min_step_s": least})

    def guardrails(self) -> dict[str, Finding]:
        """By name. Nobody sees the shadow, so no user metric is asked for there."""
        return {
            name: inspect_guardrail(name, guardrail, *self.values(guardrail.metric), share=self.share)
            for name, guardrail in self.config.guardrails.items()
            if guardrail.metric in REQUEST_METRICS or not self.experiment.shadow
        }

    def split(self) -> Finding:
        """Whether both arms got the users they were to get. In the shadow step there is one arm."""
        if self.experiment.shadow:
            return Finding(evidence={"split": None})
        found = mismatch([exposure.variant for exposure in self.traffic.exposures], self.experiment.weights)
        waits: tuple[str, ...] = ()
        if found.mismatched:
            waits = (
                f"sample-ratio mismatch: users {dict(found.counts)} where {rounded(found.expected)} were expected "
                f"(p={found.p_value:.2g}), so the result cannot be read",
            )
        return Finding(waits=waits, evidence={"split": {**asdict(found), "alpha": ALPHA}})

    def shadow(self) -> Finding:
        """Whether the candidate has answered enough where nobody saw it."""
        step, wanted = self.experiment, self.config.shadow_requests
        count = sum(request.shadow and request.variant == step.candidate for request in self.traffic.requests)
        return Finding(
            passes=(f"{count} requests answered in the shadow, no guardrail breached",),
            waits=(f"{count} of {wanted} requests answered in the shadow",) if count < wanted else (),
            evidence={"shadow": {"num_requests": count, "wanted": wanted}},
        )

    def goal(self) -> Finding:
        """Whether users are better off. The last step is passed if so, earlier ones unless they are worse off."""
        goal, arms = self.config.goal, self.values(self.config.goal.metric)
        names = (self.experiment.candidate, self.experiment.predecessor)
        few = tuple(
            f"{goal.metric} of {len(values)} of {goal.min_users} users of {name}"
            for name, values in zip(names, arms, strict=True)
            if len(values) < goal.min_users
        )
        found = self.compared(*arms)
        better = (1 if goal.higher_is_better else -1) * (found.decided if found else 0)
        sentence = f"{goal.metric} {self.told(found)}"
        undecided = () if better > 0 or not self.experiment.last else (f"{sentence}: not significantly better",)
        return Finding(
            against=f"{sentence}: significantly worse" if better < 0 else None,
            passes=(f"{sentence}: significantly better" if better > 0 else f"{sentence}: nothing speaks against it",),
            waits=few or undecided,
            final=goal.test is Test.fixed and found is not None,
            evidence={"goal": self.goal_evidence(arms, found, better)},
        )

    def compared(self, ours: np.ndarray, theirs: np.ndarray) -> Comparison | None:
        """The goal's test in [0, 1]; None while the fixed test's users are not there."""
        goal = self.config.goal
        ours, theirs = (scale(values, goal.low, goal.high) for values in (ours, theirs))
        if goal.test is Test.sequential:
            return compare(ours, theirs, share=self.share, alpha=goal.alpha)
        assert goal.users_per_arm is not None
        return welch(ours, theirs, users_per_arm=goal.users_per_arm, share=self.share, alpha=goal.alpha)

    def goal_evidence(
        self, arms: tuple[np.ndarray, np.ndarray], found: Comparison | None, better: int
    ) -> dict[str, Any]:
        """In the metric's own unit. `difference` and its bounds are of the users the test compared."""
        goal, (ours, theirs) = self.config.goal, arms
        evidence: dict[str, Any] = {
            "metric": goal.metric,
            "test": str(goal.test),
            "alpha": goal.alpha,
            "higher_is_better": goal.higher_is_better,
            "candidate": clipped_mean(ours, goal.low, goal.high),
            "predecessor": clipped_mean(theirs, goal.low, goal.high),
            "num_candidate": len(ours),
            "num_predecessor": len(theirs),
            "min_users": goal.min_users,
            "num_exposed": len(self.traffic.exposures),
            "num_observed": {"candidate": len(self.users[0]), "predecessor": len(self.users[1])},
            "better": better,
        }
        if goal.users_per_arm is not None:
            evidence["horizon"] = sizes(goal.users_per_arm, self.share)
        if found:
            evidence |= {name: self.in_unit(getattr(found, name)) for name in ("difference", "low", "high")}
            evidence["p_value"] = found.p_value
        return evidence

    def told(self, found: Comparison | None) -> str:
        if found is None:
            return f"is not tested before {self.config.goal.users_per_arm} users of the smaller arm"
        difference, low, high = (shown(self.in_unit(value)) for value in (found.difference, found.low, found.high))
        return f"differs by {difference} ({low} to {high})"

    def in_unit(self, difference: float | None) -> float | None:
        return None if difference is None else difference * (self.config.goal.high - self.config.goal.low)


def clipped_mean(values: np.ndarray, low: float, high: float) -> float | None:
    return float(np.clip(values, low, high).mean()) if len(values) else None


def rounded(numbers: Any) -> dict[str, float]:
    return {name: round(number, 1) for name, number in numbers.items()}
