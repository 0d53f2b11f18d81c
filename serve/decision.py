"""What follows from what a step of a release has seen. Pure: the same traffic and time give the same verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from serve.guardrails import Finding, inspect_guardrail, shown
from serve.metrics import REQUEST_METRICS, User, observed_users, trial, unanswered
from serve.records import Traffic
from serve.release_settings import ReleaseConfig, Test
from serve.stats.fixed import least_users, sizes, stratified, until_planned
from serve.stats.mismatch import ALPHA, mismatch
from serve.stats.responders import responders
from serve.stats.sequential import Comparison, Trial, compare
from serve.verdict import Experiment, Outcome, Verdict
from serve.visits import Unit, Visit, unit_of, visits


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
    def users(self) -> list[User]:
        """Users of both arms whose observation is over, in order of exposure."""
        return observed_users(
            self.traffic,
            self.experiment,
            observation_s=self.config.observation_s,
            retention_after_s=self.config.retention_after_s,
            now=self.now,
        )

    @cached_property
    def visits(self) -> list[list[Visit]]:
        """Requests as guardrails count them, by period."""
        config = self.config
        return visits(
            self.traffic,
            self.experiment,
            period_s=config.guardrail_period_s,
            window_s=config.guardrail_window_s,
            now=self.now,
        )

    def units(self, metric: str) -> list[list[Unit]]:
        """Values of a guardrail's metric by period; of user metrics there is one."""
        if metric in REQUEST_METRICS:
            return [[visit.unit(metric) for visit in period] for period in self.visits]
        return [[unit_of(metric, user) for user in self.users]]

    @property
    def passed_s(self) -> float:
        return self.now - self.experiment.since

    @property
    def over(self) -> bool:
        """Whether the step has had its time."""
        return self.passed_s >= self.config.max_step_s

    def duration(self) -> Finding:
        least = self.config.min_step_s
        waits = (f"the step has run {self.passed_s:.0f} of {least:g} s",) if self.passed_s < least else ()
        return Finding(waits=waits, evidence={"since": self.experiment.since, "min_step_s": least})

    def guardrails(self) -> dict[str, Finding]:
        """By name. Nobody sees the shadow, so no user metric is asked for there."""
        return {
            name: inspect_guardrail(name, guardrail, self.units(guardrail.metric), alpha=self.config.alpha_guardrail)
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
        count = sum(
            request.shadow_of is not None and request.variant == step.candidate for request in self.traffic.requests
        )
        return Finding(
            passes=(f"{count} requests answered in the shadow, no guardrail breached",),
            waits=(f"{count} of {wanted} requests answered in the shadow",) if count < wanted else (),
            evidence={"shadow": {"num_requests": count, "wanted": wanted}},
        )

    def goal(self) -> Finding:
        """Whether users are better off. The last step is passed if so, earlier ones unless they are worse off."""
        goal, values = self.config.goal, self.values
        names = (self.experiment.candidate, self.experiment.predecessor)
        few = tuple(
            f"{goal.metric} of {count} of {goal.min_users} users of {name}"
            for name, count in zip(names, own_values(values), strict=True)
            if count < goal.min_users
        )
        found, problem = self.compared(self.counted)
        better = self.direction * (found.decided if found and not problem else 0)
        sentence = f"{goal.metric} {self.told(found)}"
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
            evidence={"goal": self.goal_evidence(values, found, better)},
        )

    @cached_property
    def values(self) -> Trial:
        """The goal's values in [0, 1]; NaN where a user has none."""
        goal = self.config.goal
        return trial(goal.metric, self.users, goal.low, goal.high)

    @cached_property
    def counted(self) -> Trial:
        """The goal's values, of users without one the value of silence."""
        return self.values.filled(self.in_unit_interval(self.unanswered))

    @property
    def unanswered(self) -> float:
        """Value of a user without one, in the metric's own unit."""
        goal = self.config.goal
        return unanswered(goal.metric, goal.low, goal.high) if goal.unanswered is None else goal.unanswered

    @property
    def direction(self) -> int:
        return 1 if self.config.goal.higher_is_better else -1

    @property
    def alphas(self) -> dict[str, float]:
        """Probabilities of calling the candidate's mean higher, and lower, where it is not."""
        better, worse = self.config.false_promotions, self.config.alpha_worse
        return dict(zip(("alpha_higher", "alpha_lower"), (better, worse)[:: self.direction], strict=True))

    def compared(self, values: Trial) -> tuple[Comparison | None, str | None]:
        """The goal's test, and why it says nothing; None while the fixed test's users have not come."""
        goal = self.config.goal
        if goal.test is Test.sequential:
            found = compare(values, **self.alphas)
            return found, None if found.readable else "no one difference fits all users, it changed over time"
        assert goal.users_per_arm is not None
        planned = until_planned(values, users_per_arm=goal.users_per_arm, share=self.experiment.weight)
        if planned is None:
            return None, None
        least = least_users(planned.values)
        few = f"too lopsided for a t-test of fewer than {least} users in the smaller arm (users_per_arm)"
        return stratified(planned, **self.alphas), few if goal.users_per_arm < least else None

    def goal_evidence(self, values: Trial, found: Comparison | None, better: int) -> dict[str, Any]:
        """Figures in the metric's own unit. `difference` and its bounds are of the users the test compared."""
        goal, counted = self.config.goal, self.counted
        means = (None if not len(arm) else self.from_unit_interval(float(arm.mean())) for arm in counted.arms)
        arms = ("candidate", "predecessor")
        evidence: dict[str, Any] = {
            "metric": goal.metric,
            "test": str(goal.test),
            **self.alphas,
            "higher_is_better": goal.higher_is_better,
            "unanswered": self.unanswered,
            **dict(zip(arms, means, strict=True)),
            "num_candidate": len(counted.arms[0]),
            "num_predecessor": len(counted.arms[1]),
            "min_users": goal.min_users,
            "num_exposed": len(self.traffic.exposures),
            "most_users_of_an_owner": self.largest_owner(),
            "with_own_value": dict(zip(arms, own_values(values), strict=True)),
            "better": better,
        }
        if goal.users_per_arm is not None:
            evidence["horizon"] = sizes(goal.users_per_arm, self.experiment.weight)
        if found:
            evidence |= self.figures(found)
        if len(values) and np.isnan(values.values).any():
            readings = responders(values, **self.alphas)
            rates = asdict(readings.rates)
            evidence["responders"] = {**self.figures(readings.values), "response_rate": rates}
        return evidence

    def largest_owner(self) -> dict[str, Any] | None:
        """The owner whose keys named most of the users, and how many; None without keys."""
        owners = Counter(exposure.owner for exposure in self.traffic.exposures if exposure.owner)
        return dict(zip(("owner", "num_users"), owners.most_common(1)[0], strict=True)) if owners else None

    def figures(self, found: Comparison) -> dict[str, float | None]:
        span = self.config.goal.high - self.config.goal.low
        figures = {name: getattr(found, name) for name in ("difference", "low", "high")}
        scaled = {name: None if figure is None else figure * span for name, figure in figures.items()}
        return {**scaled, "p_value": found.p_value}

    def told(self, found: Comparison | None) -> str:
        if found is None:
            return f"is not tested before {self.config.goal.users_per_arm} users of the smaller arm"
        difference, low, high = (shown(self.figures(found)[name]) for name in ("difference", "low", "high"))
        return f"differs by {difference} ({low} to {high})"

    def in_unit_interval(self, value: float) -> float:
        goal = self.config.goal
        return (value - goal.low) / (goal.high - goal.low)

    def from_unit_interval(self, value: float) -> float:
        goal = self.config.goal
        return goal.low + value * (goal.high - goal.low)


def own_values(values: Trial) -> tuple[int, int]:
    """Users of candidate and predecessor who have a value of their own."""
    own = ~np.isnan(values.values)
    return int((own & values.candidate).sum()), int((own & ~values.candidate).sum())


def rounded(numbers: Any) -> dict[str, float]:
    return {name: round(number, 1) for name, number in numbers.items()}
