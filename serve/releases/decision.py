"""The verdict on a step of a release. Pure: the same traffic and time give the same verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from serve.releases.config import ReleaseConfig
from serve.releases.guardrails import Finding
from serve.releases.progress import Progress
from serve.releases.verdict import Verdict
from serve.statistics.sample_ratio import ALPHA
from serve.store.records import Traffic
from serve.store.release_records import Experiment, Outcome


def judge(config: ReleaseConfig, experiment: Experiment, traffic: Traffic, now: float) -> Verdict:
    """Decide on all records of a step until `now`."""
    progress = Progress(config, experiment)
    progress.add_traffic(traffic, now)
    return decide(progress, now)


def decide(progress: Progress, now: float) -> Verdict:
    """Pass a step (promote), wait (hold), end the release (roll_back) or leave it to a person (inconclusive).

    A breached guardrail always withdraws the candidate: that is the safe direction. A worse goal does so too, unless
    the split is wrong, which makes all results invalid. No step is passed with missing values: every guardrail needs
    its samples, the goal its users, the shadow its requests, the step its duration.
    """
    look = StepLook(progress=progress, now=now)
    guardrails = {name: guardrail.finding() for name, guardrail in progress.guardrails.items()}
    duration, split = look.duration(), look.split()
    aim = look.shadow() if progress.experiment.shadow else progress.goal.finding()
    evidence = {
        "experiment": progress.experiment.name,
        "at": now,
        **duration.evidence,
        **split.evidence,
        **look.aim_evidence(aim),
        "guardrails": {name: finding.evidence for name, finding in guardrails.items()},
    }
    left_out = (sentence,) if (sentence := progress.owners.sentence) else ()
    against = tuple(finding.against for finding in guardrails.values() if finding.against)
    if not against and aim.against and not split.waits:
        against = (aim.against,)
    if against:
        return Verdict(outcome=Outcome.roll_back, reasons=against + left_out, evidence=evidence)
    findings = [split] if split.waits else [duration, aim, *guardrails.values()]
    waits = tuple(reason for finding in findings for reason in finding.waits)
    if not waits:
        return Verdict(outcome=Outcome.promote, reasons=aim.passes + left_out, evidence=evidence)
    vain = look.over or (waits == aim.waits and aim.final)
    outcome = Outcome.inconclusive if vain else Outcome.hold
    return Verdict(outcome=outcome, reasons=waits + left_out, evidence=evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLook:
    """One look at one step."""

    progress: Progress
    now: float

    @property
    def passed_s(self) -> float:
        return self.now - self.progress.experiment.since

    @property
    def over(self) -> bool:
        """True once the step has run for `max_step_s`."""
        return self.passed_s >= self.progress.config.max_step_s

    def duration(self) -> Finding:
        least = self.progress.config.min_step_s
        waits = (f"the step has run {self.passed_s:.0f} of {least:g} s",) if self.passed_s < least else ()
        return Finding(waits=waits, evidence={"since": self.progress.experiment.since, "min_step_s": least})

    def split(self) -> Finding:
        """Check the sample ratio of the arms. The shadow step has one arm."""
        if self.progress.experiment.shadow:
            return Finding(evidence={"split": None})
        found = self.progress.arms.result()
        waits: tuple[str, ...] = ()
        if found.mismatched:
            waits = (
                f"sample-ratio mismatch: users {dict(found.counts)} where {round_values(found.expected)} were expected "
                f"(p={found.p_value:.2g}), so the result is invalid",
            )
        return Finding(waits=waits, evidence={"split": {**asdict(found), "alpha": ALPHA}})

    def shadow(self) -> Finding:
        """Check that the candidate has answered enough shadow requests."""
        count, wanted = self.progress.num_copies, self.progress.config.shadow_requests
        return Finding(
            passes=(f"{count} requests answered in the shadow, no guardrail breached",),
            waits=(f"{count} of {wanted} requests answered in the shadow",) if count < wanted else (),
            evidence={"num_requests": count, "wanted": wanted},
        )

    def aim_evidence(self, aim: Finding) -> dict[str, Any]:
        """Return the evidence of the goal or the shadow, and of users who are left out."""
        owners = self.progress.owners
        counted = {"num_exposed": owners.num_users, "most_users_of_an_owner": owners.largest}
        name = "shadow" if self.progress.experiment.shadow else "goal"
        return {
            name: aim.evidence if name == "shadow" else {**aim.evidence, **counted},
            "left_out": {"num_users": sum(owners.left_out.values()), "by_owner": owners.left_out},
        }


def round_values(numbers: Any) -> dict[str, float]:
    return {name: round(number, 1) for name, number in numbers.items()}
