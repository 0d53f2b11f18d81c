import numpy as np
import pytest

from rlhf.types import InputError
from serve.releases.config import GoalConfig, GuardrailConfig, ReleaseConfig
from serve.releases.config import Test as GoalTest
from serve.statistics.metrics import observed_users, scale, trial, unanswered, user_value
from serve.store.records import Exposure, Feedback, FeedbackKind, ObservedRequest, Traffic
from serve.store.release_records import Experiment

DAY = 86400.0


def observed(id, user="ada", at=0.0, **fields):
    fields = {"variant": "new", "shadow_of": None, "conversation": id, "turn": 1, "prompt_hash": id} | fields
    fields = {"status": 200, "latency_s": 1.0, "first_token_s": None, "completion_tokens": 7} | fields
    return ObservedRequest(id=id, user=user, at=at, **fields)


def said(kind, value=None, user="ada", at=1.0, request="q", name=None):
    return Feedback(id=f"{user}{at}", request_id=request, user=user, at=at, kind=kind, value=value, name=name)


STEP = Experiment(name="r1/canary-5", candidate="new", predecessor="old", weight=0.05, last=False, since=0.0, salt="s")


def users(traffic, now=10 * DAY):
    return observed_users(traffic, STEP, observation_s=DAY, retention_after_s=3600.0, now=now)


def values(metric, traffic, now=10 * DAY):
    """Of the candidate's users, those who have one."""
    found = [user_value(metric, user) for user in users(traffic, now) if user.candidate]
    return [value for value in found if value is not None]


def shown(user, at, variant="new", weights=None):
    weights = STEP.weights if weights is None else weights
    return Exposure(experiment=STEP.name, user=user, variant=variant, at=at, weights=weights, salt="s")


def traffic(requests=(), feedback=(), exposures=(("ada", 0.0),)):
    return Traffic(exposures=[shown(*exposure) for exposure in exposures], requests=requests, feedback=feedback)


def test_a_user_counts_once_however_often_they_speak():
    thumbs = [said(FeedbackKind.thumb, value, at=at) for at, value in enumerate([1, 1, -1, 1])]
    flood = [said(FeedbackKind.thumb, -1, user="bob", at=at) for at in range(20)]
    seen = traffic(feedback=thumbs + flood, exposures=[("ada", 0.0), ("bob", 0.0), ("silent", 0.0)])
    assert values("thumbs", seen) == [0.75, 0.0]


def test_every_user_metric_by_hand():
    requests = [
        observed("a", conversation="c1", turn=1, prompt_hash="again"),
        observed("b", at=10.0, conversation="c1", turn=2),
        observed("c", at=20.0, conversation="c2", turn=4),
        observed("d", at=4000.0, conversation="c2", turn=5, prompt_hash="again"),
        observed("failed", at=30.0, status=500, conversation="c3", turn=9),
        observed("old", at=40.0, variant="old", turn=9),
        observed("hidden", at=50.0, shadow_of="a", turn=9),
    ]
    feedback = [
        said(FeedbackKind.edit, request="a"),
        said(FeedbackKind.edit, request="a", at=2.0),
        said(FeedbackKind.rating, 4.0),
        said(FeedbackKind.rating, 5.0),
        said(FeedbackKind.outcome, 30.0, name="sale"),
        said(FeedbackKind.outcome, 99.0, name="visit"),
    ]
    seen = traffic(requests, feedback)
    assert values("edits", seen) == [0.25]
    assert values("regenerations", seen) == [0.25]
    assert values("turns", seen) == [(2 + 5) / 2]
    assert values("retention", seen) == [1.0]
    assert values("rating", seen) == [4.5]
    assert values("outcome:sale", seen) == [30.0]
    assert values("outcome:none", seen) == []
    assert values("retention", traffic(requests[:3])) == [0.0]


def test_a_value_never_changes_after_the_user_entered():
    early = [said(FeedbackKind.thumb, 1, at=5.0)]
    late = [said(FeedbackKind.thumb, -1, at=DAY), said(FeedbackKind.thumb, -1, at=2 * DAY)]
    before = [said(FeedbackKind.thumb, -1, at=-1.0)]
    assert values("thumbs", traffic(feedback=early), now=DAY - 1) == []
    assert values("thumbs", traffic(feedback=early), now=DAY) == [1.0]
    assert values("thumbs", traffic(feedback=before + early + late)) == [1.0]


def test_a_trial_has_all_users_of_both_arms_in_order_of_exposure():
    exposures = [("ada", 40.0), ("cid", 45.0, "old"), ("bob", 50.0), ("dan", 60.0)]
    thumbs = [
        said(FeedbackKind.thumb, value, user=user, at=70.0) for user, value in (("ada", -1), ("bob", 1), ("cid", 1))
    ]
    found = trial("thumbs", users(traffic(feedback=thumbs, exposures=exposures)), 0.0, 2.0)
    assert list(found.candidate) == [True, False, True, True]
    assert list(found.probability) == [0.05] * 4
    assert found.values == pytest.approx([0.0, 0.5, 0.5, np.nan], nan_ok=True)


def test_who_was_not_drawn_is_in_no_trial():
    # In the shadow step everybody sees the predecessor; exposures from before probabilities were recorded have none.
    certain = [shown("ada", 0.0, "old", {"new": 0.0, "old": 1.0}), shown("bob", 0.0, "old", {})]
    assert users(Traffic(exposures=certain)) == []


def test_silence_has_a_value():
    assert unanswered("thumbs", 0.0, 1.0) == 0.5
    assert unanswered("rating", 1.0, 5.0) == 3.0
    assert unanswered("outcome:sale", 0.0, 10.0) == 5.0
    assert unanswered("edits", 0.0, 1.0) == 0.0
    assert unanswered("turns", 1.0, 9.0) == 1.0


def test_values_are_clipped_and_scaled():
    assert list(scale(np.array([0.0, 1.0, 3.0, 9.0]), 1.0, 5.0)) == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GoalConfig(metric="joy"), r"release.goal.metric='joy': name one of thumbs, .*outcome:NAME"),
        (lambda: GoalConfig(metric="error_rate"), r"release.goal.metric='error_rate': name one of"),
        (lambda: GoalConfig(metric="outcome:"), r"name one of"),
        (lambda: GoalConfig(metric="rating"), r"release.goal.high=1.0: every value of rating is at least 1"),
        (lambda: GoalConfig(low=1.0), r"low=1.0, high=1.0"),
        (lambda: GoalConfig(unanswered=2.0), r"release.goal.unanswered=2.0: give a value from low=0.0 to 1.0"),
        (lambda: GoalConfig(min_users=0), r"min_users=0"),
        (lambda: GoalConfig(test=GoalTest.fixed), r"users_per_arm=None: the fixed test needs its horizon"),
        (lambda: GuardrailConfig(at_most=1.0), r"release.guardrails.g.metric='': name one of .*error_rate"),
        (lambda: GuardrailConfig(metric="error_rate"), r"release.guardrails.g: set exactly one of .*, not none"),
        (lambda: GuardrailConfig(metric="edits", at_most=0.1, worse_by=0.1), r"not at_most, worse_by"),
        (lambda: GuardrailConfig(metric="latency_p95_s", at_most=float("nan")), r"at_most=nan: give a finite number"),
        (lambda: GuardrailConfig(metric="error_rate", at_most=1.0), r"could never breach it"),
        (lambda: GuardrailConfig(metric="latency_p95_s", worse_by=1.0, higher_is_better=True), r"leave it out"),
        (lambda: GuardrailConfig(metric="error_rate", at_most=0.1, min_samples=0), r"min_samples=0"),
    ],
)
def test_mistakes_in_goal_and_guardrails_are_one_sentence(make, sentence):
    part = make()
    with pytest.raises(InputError, match=sentence):
        ReleaseConfig(goal=part) if isinstance(part, GoalConfig) else ReleaseConfig(guardrails={"g": part})


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": []},
        {"steps": [0.5, 0.25]},
        {"steps": [0.5, 1.0]},
        {"shadow_fraction": 1.5},
        {"interval_s": 0.0},
        {"false_promotions": 0.0},
        {"false_withdrawals": 1.0},
        {"guardrail_window_s": 0.0},
        {"watch_s": -1.0},
        {"holdback": 0.0},
        {"guardrail_period_s": float("inf")},
        {"min_step_s": 10.0, "max_step_s": 5.0},
        {"allow": ["ada"], "deny": ["ada"]},
        {"goal": GoalConfig(metric="retention"), "retention_after_s": DAY},
    ],
)
def test_mistakes_in_steps_are_one_sentence(fields):
    with pytest.raises(InputError, match=r"release\."):
        ReleaseConfig(**fields)
