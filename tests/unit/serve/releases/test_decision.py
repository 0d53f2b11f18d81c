"""Releases from start to end on simulated users and clock."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from serve.releases.config import GoalConfig, GuardrailConfig, ReleaseConfig
from serve.releases.config import Test as GoalTest
from serve.releases.decision import judge
from serve.releases.state import advance, start
from serve.store.records import Exposure, Feedback, FeedbackKind, ObservedRequest, Traffic
from serve.store.release_records import Experiment, Outcome

HOUR = 3600.0
GUARDRAILS = {
    "latency": GuardrailConfig(metric="latency_p95_s", at_most=3.0, min_samples=50),
    "errors": GuardrailConfig(metric="error_rate", at_most=0.05, min_samples=50),
    "edits": GuardrailConfig(metric="edits", worse_by=0.1, min_samples=50),
}
CONFIG = ReleaseConfig(
    shadow_requests=100,
    steps=[0.05, 0.5],
    interval_s=HOUR,
    min_step_s=2 * HOUR,
    max_step_s=48 * HOUR,
    observation_s=HOUR,
    retention_after_s=HOUR / 2,
    watch_s=0.0,
    goal=GoalConfig(min_users=50),
    guardrails=GUARDRAILS,
)


@dataclass(frozen=True)
class Model:
    """How users fare with a model."""

    thumbs_up: float | None = 0.5
    error_rate: float = 0.0
    latency_s: float = 1.0
    edits: float = 0.2


def simulate(experiment, models, *, hours, users_per_hour=1200, seed=0, weight=None):
    """The traffic of a step: every user comes once, in order of time, and says what they think soon after."""
    rng = np.random.default_rng(seed)
    exposures, requests, feedback = [], [], []
    weight = experiment.weight if weight is None else weight
    for number, at in enumerate(experiment.since + np.sort(rng.uniform(0, hours * HOUR, int(hours * users_per_hour)))):
        user, id = f"u{number}", f"q{number}"
        arm = "new" if rng.random() < weight else "old"
        exposures.append(
            Exposure(
                experiment=experiment.name,
                user=user,
                variant=arm,
                at=at,
                weights=experiment.weights,
                salt=experiment.salt,
            )
        )
        for variant in (arm, "new") if experiment.shadow else (arm,):
            model, shadow = models[variant], variant != arm
            requests.append(
                ObservedRequest(
                    id=f"{id}{'s' * shadow}",
                    user=user,
                    variant=variant,
                    at=at,
                    shadow_of=id if shadow else None,
                    conversation=id,
                    turn=1,
                    prompt_hash="h",
                    status=500 if rng.random() < model.error_rate else 200,
                    latency_s=rng.exponential(model.latency_s / 2),
                    first_token_s=None,
                    completion_tokens=9,
                )
            )
        said = {"request_id": id, "user": user, "at": at + 60}
        model = models[arm]
        if model.thumbs_up is not None:
            value = 1 if rng.random() < model.thumbs_up else -1
            feedback.append(Feedback(id=f"t{number}", kind=FeedbackKind.thumb, value=value, **said))
        if rng.random() < model.edits:
            feedback.append(Feedback(id=f"e{number}", kind=FeedbackKind.edit, **said))
    return Traffic(exposures=exposures, requests=requests, feedback=feedback)


def until(traffic, now):
    """What the store knows at a time."""
    return Traffic(
        exposures=[exposure for exposure in traffic.exposures if exposure.at <= now],
        requests=[request for request in traffic.requests if request.at + request.latency_s <= now],
        feedback=[event for event in traffic.feedback if event.at <= now],
    )


def run(models, config=CONFIG, *, users_per_hour=1200, hours=50, seed=0):
    """A release's states, one after each look, and its audit trail."""
    release = start("r1", "new", "old", config, 0.0, salt="s")
    trail, now, step, traffic = [], 0.0, None, None
    while release.experiment and release.phase != "paused" and now < 300 * HOUR:
        if release.experiment.name != step:
            step = release.experiment.name
            traffic = simulate(release.experiment, models, hours=hours, users_per_hour=users_per_hour, seed=seed)
        now += config.interval_s
        verdict = judge(config, release.experiment, until(traffic, now), now)
        release, transition = advance(release, verdict, now=now, unverified=None)
        trail += [transition] if transition else []
    json.dumps([transition.to_json() for transition in trail], allow_nan=False)
    return release, trail


def test_a_better_candidate_walks_to_production():
    release, trail = run({"old": Model(), "new": Model(thumbs_up=0.7)}, hours=8)
    assert [entry.after for entry in trail] == ["canary-5", "canary-50", "promoted"]
    assert "thumbs" in trail[-1].reason
    assert "significantly better" in trail[-1].reason
    goal = trail[-1].evidence["goal"]
    assert 0 < goal["low"] < goal["difference"] < goal["high"]
    assert goal["candidate"] - goal["predecessor"] == pytest.approx(0.2, abs=0.05)
    assert set(trail[-1].evidence["guardrails"]) == set(GUARDRAILS)
    assert release.weights == {"old": 0.0, "new": 1.0}


def test_a_worse_candidate_is_rolled_back_at_the_first_look_with_evidence():
    _, trail = run({"old": Model(), "new": Model(thumbs_up=0.2)}, hours=8)
    assert trail[-1].after == "rolled_back"
    # Values come an hour after users do: there are none at the step's first look, and enough at its second.
    assert trail[-1].at - trail[-1].evidence["since"] == 2 * HOUR
    assert "significantly worse" in trail[-1].reason
    assert trail[-1].evidence["goal"]["high"] < 0


def test_a_slow_candidate_is_seen_by_nobody():
    _, (entry,) = run({"old": Model(), "new": Model(latency_s=12.0)}, hours=3)
    assert (entry.before, entry.after, entry.at) == ("shadow", "rolled_back", HOUR)
    assert "guardrail latency: latency_p95_s is" in entry.reason
    assert "at_most=3" in entry.reason
    assert entry.evidence["guardrails"]["latency"]["candidate"] > 3.0


def test_a_candidate_that_becomes_slow_among_users_is_withdrawn():
    config = replace(CONFIG, shadow_fraction=0.0)
    _, (entry,) = run({"old": Model(), "new": Model(latency_s=12.0, thumbs_up=0.9)}, config, hours=3)
    assert (entry.before, entry.after, entry.at) == ("canary-5", "rolled_back", HOUR)


def test_a_candidate_that_errs_is_withdrawn():
    _, (entry,) = run({"old": Model(), "new": Model(error_rate=0.3)}, hours=3)
    assert (entry.before, entry.after) == ("shadow", "rolled_back")
    assert "guardrail errors: error_rate is" in entry.reason


def test_a_breach_outweighs_a_better_goal():
    _, trail = run({"old": Model(), "new": Model(thumbs_up=0.9, edits=0.8)}, hours=8)
    assert trail[-1].after == "rolled_back"
    assert "guardrail edits" in trail[-1].reason
    assert "above the limit" in trail[-1].reason
    assert "thumbs" not in trail[-1].reason


def test_without_feedback_a_candidate_is_held_and_then_a_person_is_asked():
    models = {"old": Model(thumbs_up=None), "new": Model(thumbs_up=None)}
    release, trail = run(models, replace(CONFIG, interval_s=4 * HOUR), users_per_hour=60)
    assert [entry.after for entry in trail] == ["canary-5", "paused"]
    assert "thumbs of 0 of 50 users of new" in trail[-1].reason
    assert trail[-1].at - release.since == 48 * HOUR


def experiment(weight=0.5, *, last=True):
    return Experiment(name="r1/x", candidate="new", predecessor="old", weight=weight, last=last, since=0.0, salt="s")


@pytest.mark.parametrize(("last", "outcome"), [(True, Outcome.hold), (False, Outcome.promote)])
def test_only_the_last_step_wants_the_goal_better(last, outcome):
    step = experiment(last=last)
    verdict = judge(CONFIG, step, simulate(step, {"old": Model(), "new": Model()}, hours=2), 3 * HOUR)
    assert verdict.outcome is outcome


def test_an_unreadable_split_neither_passes_nor_condemns():
    step = experiment()
    for thumbs_up in (0.9, 0.1):
        models = {"old": Model(), "new": Model(thumbs_up=thumbs_up)}
        skewed = simulate(step, models, hours=2, weight=0.4)
        verdict = judge(CONFIG, step, skewed, 3 * HOUR)
        assert verdict.outcome is Outcome.hold
        assert "sample-ratio mismatch" in verdict.reasons[0]
        assert verdict.evidence["split"]["mismatched"]
        assert judge(CONFIG, step, skewed, 48 * HOUR).outcome is Outcome.inconclusive


def test_an_unreadable_split_does_not_protect_a_candidate_that_breaks_things():
    step = experiment()
    skewed = simulate(step, {"old": Model(), "new": Model(error_rate=0.4)}, hours=2, weight=0.4)
    assert judge(CONFIG, step, skewed, 3 * HOUR).outcome is Outcome.roll_back


@pytest.mark.parametrize(
    ("config", "now", "reason"),
    [
        (CONFIG, HOUR, "the step has run 3600 of 7200 s"),
        (replace(CONFIG, goal=GoalConfig(min_users=5000)), 3 * HOUR, "of 5000 users of new"),
        (
            replace(CONFIG, guardrails={"first": GuardrailConfig(metric="first_token_p95_s", at_most=1.0)}),
            3 * HOUR,
            "guardrail first: first_token_p95_s has 0 of 100 users of the candidate",
        ),
        (
            replace(CONFIG, guardrails={"p99": GuardrailConfig(metric="latency_p99_s", at_most_ratio=2.0)}),
            1800.0,
            "too few requests of the predecessor",
        ),
    ],
)
def test_what_is_missing_holds_with_its_reason(config, now, reason):
    step = experiment()
    traffic = simulate(step, {"old": Model(), "new": Model(thumbs_up=0.8)}, hours=2)
    verdict = judge(config, step, until(traffic, now), now)
    assert verdict.outcome is Outcome.hold
    assert reason in "; ".join(verdict.reasons)


def test_the_shadow_step_wants_its_requests():
    step = experiment(0.0, last=False)
    traffic = simulate(step, {"old": Model(), "new": Model()}, hours=2, users_per_hour=40)
    verdict = judge(CONFIG, step, traffic, 3 * HOUR)
    assert (verdict.outcome, verdict.reasons) == (Outcome.hold, ("80 of 100 requests answered in the shadow",))


@pytest.mark.parametrize(
    ("kind", "limit", "latency_s", "breached"),
    [("at_most_ratio", 1.5, 1.0, False), ("at_most_ratio", 1.5, 4.0, True), ("worse_by", 1.0, 4.0, True)],
)
def test_a_quantile_is_held_against_the_predecessors(kind, limit, latency_s, breached):
    config = replace(CONFIG, guardrails={"p95": GuardrailConfig(metric="latency_p95_s", **{kind: limit})})
    step = experiment()
    traffic = simulate(step, {"old": Model(), "new": Model(latency_s=latency_s, thumbs_up=0.8)}, hours=2)
    verdict = judge(config, step, traffic, 3 * HOUR)
    assert verdict.outcome is (Outcome.roll_back if breached else Outcome.promote)


def test_fewer_edits_are_better_where_the_goal_says_so():
    config = replace(CONFIG, guardrails={}, goal=GoalConfig(metric="edits", higher_is_better=False, min_users=50))
    step = experiment()
    for edits, outcome in ((0.02, Outcome.promote), (0.5, Outcome.roll_back)):
        traffic = simulate(step, {"old": Model(), "new": Model(edits=edits)}, hours=2)
        assert judge(config, step, traffic, 3 * HOUR).outcome is outcome


def test_the_fixed_test_is_looked_at_once():
    step = experiment()
    config = replace(CONFIG, goal=GoalConfig(test=GoalTest.fixed, min_users=50, users_per_arm=500))
    better = simulate(step, {"old": Model(), "new": Model(thumbs_up=0.7)}, hours=2)
    early = judge(config, step, until(better, 1.3 * HOUR), 1.3 * HOUR)
    assert early.outcome is Outcome.hold
    assert "thumbs is not tested before 500 users" in "; ".join(early.reasons)
    first, later = (judge(config, step, better, now) for now in (3 * HOUR, 9 * HOUR))
    assert first.outcome is later.outcome is Outcome.promote
    assert first.evidence["goal"]["p_value"] == later.evidence["goal"]["p_value"]
    equal = simulate(step, {"old": Model(), "new": Model()}, hours=2)
    assert judge(config, step, equal, 3 * HOUR).outcome is Outcome.inconclusive


def test_evidence_is_in_the_metrics_own_unit():
    step = experiment()
    traffic = simulate(step, {"old": Model(), "new": Model(thumbs_up=0.8)}, hours=2)
    stars = [
        replace(event, kind=FeedbackKind.rating, value=5.0 if event.value == 1 else 1.0)
        for event in traffic.feedback
        if event.kind is FeedbackKind.thumb
    ]
    config = replace(CONFIG, guardrails={}, goal=GoalConfig(metric="rating", low=1.0, high=5.0, min_users=50))
    goal = judge(config, step, replace(traffic, feedback=stars), 3 * HOUR).evidence["goal"]
    assert goal["candidate"] == pytest.approx(4.2, abs=0.15)
    assert goal["predecessor"] == pytest.approx(3.0, abs=0.15)
    assert goal["low"] < 1.2 < goal["high"]


def test_a_worse_candidate_raises_an_alarm_in_its_watch():
    step = experiment(0.95, last=False)
    worse = simulate(step, {"old": Model(thumbs_up=0.7), "new": Model(thumbs_up=0.3)}, hours=2)
    verdict = judge(CONFIG, step, worse, 3 * HOUR)
    assert verdict.outcome is Outcome.roll_back
    assert "significantly worse" in verdict.reasons[0]


def test_false_withdrawals_are_shared_by_goal_guardrails_and_steps():
    # Shadow and two steps; two guardrails.
    two = {name: GUARDRAILS[name] for name in ("latency", "errors")}
    config = ReleaseConfig(steps=[0.1, 0.5], watch_s=0, false_withdrawals=0.06, guardrails=two)
    assert config.alpha_worse == pytest.approx(0.03 / 2)
    assert config.alpha_guardrail == pytest.approx(0.03 / (2 * 3))
    alone = ReleaseConfig(steps=[0.1, 0.5], false_withdrawals=0.06)
    assert alone.alpha_worse == pytest.approx(0.06 / 3)
    step = experiment()
    evidence = judge(config, step, simulate(step, {"old": Model(), "new": Model()}, hours=2), 3 * HOUR).evidence
    assert (evidence["goal"]["alpha_higher"], evidence["goal"]["alpha_lower"]) == (0.05, config.alpha_worse)
    assert evidence["guardrails"]["errors"]["alpha"] == config.alpha_guardrail


def test_what_users_who_answered_say_stands_beside_what_counts_for_all():
    step = experiment()
    traffic = simulate(step, {"old": Model(thumbs_up=0.3), "new": Model(thumbs_up=0.8)}, hours=2)
    some = [event for event in traffic.feedback if event.kind is not FeedbackKind.thumb or int(event.id[1:]) % 4 == 0]
    goal = judge(CONFIG, step, replace(traffic, feedback=some), 3 * HOUR).evidence["goal"]
    assert goal["unanswered"] == 0.5
    assert goal["difference"] == pytest.approx(0.5 / 4, abs=0.05)
    assert goal["responders"]["difference"] == pytest.approx(0.5, abs=0.15)
    assert goal["responders"]["response_rate"]["difference"] == pytest.approx(0.0, abs=0.05)
    assert goal["with_own_value"]["candidate"] == pytest.approx(goal["num_candidate"] / 4, rel=0.2)
