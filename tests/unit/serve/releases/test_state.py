import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.types import InputError
from serve.releases.config import ReleaseConfig
from serve.releases.state import advance, promote, roll_back, start, would_promote
from serve.releases.verdict import Verdict
from serve.store.release_records import Outcome, Phase, Release

CONFIG = ReleaseConfig(watch_s=10.0, holdback=0.1)
UNWATCHED = ReleaseConfig(watch_s=0.0)
NUM_STEPS = 5
LAWFUL = {
    ("shadow", "canary-1"),
    ("canary-1", "canary-5"),
    ("canary-5", "canary-25"),
    ("canary-25", "canary-50"),
    ("canary-50", "watched"),
    ("watched", "alarm"),
    ("watched", "promoted"),
    *((state, end) for state in ("shadow", "canary-1", "canary-5", "canary-25", "canary-50") for end in ("paused",)),
    *(
        (state, "rolled_back")
        for state in ("shadow", "canary-1", "canary-5", "canary-25", "canary-50", "paused", "watched", "promoted")
    ),
}
BROKEN = "model.safetensors is not what was written"


def verdict(outcome: Outcome) -> Verdict:
    return Verdict(outcome=outcome, reasons=(f"because of {outcome}",), evidence={"num_users": 3})


def begin(config: ReleaseConfig = CONFIG) -> Release:
    return start("r1", "new", "old", config, 100.0, salt="salt")


def walk(release, looks):
    """All releases and transitions that these verdicts, with what verification says, lead to."""
    releases, transitions = [release], []
    for now, (outcome, unverified) in enumerate(looks, 101):
        after, transition = advance(releases[-1], verdict(outcome), now=float(now), unverified=unverified)
        releases.append(after)
        transitions += [transition] if transition else []
    return releases, transitions


LOOKS = st.lists(st.tuples(st.sampled_from(Outcome), st.sampled_from([None, None, BROKEN])), max_size=30)
# Promotions are rare among uniformly drawn verdicts, so some sequences favour them.
HOPEFUL = st.lists(
    st.tuples(st.sampled_from([Outcome.promote] * 6 + list(Outcome)), st.sampled_from([None, BROKEN])), max_size=12
)


@settings(max_examples=80, deadline=None)
@given(st.one_of(LOOKS, HOPEFUL))
def test_only_lawful_transitions_whatever_the_verdicts(looks):
    releases, transitions = walk(begin(), looks)
    path = [(before.state, after.state) for before, after in itertools.pairwise(releases)]
    assert {step for step in path if step[0] != step[1]} <= LAWFUL
    assert [(t.before, t.after) for t in transitions] == [step for step in path if step[0] != step[1]]
    for release in releases:
        assert sum(release.weights.values()) == pytest.approx(1)
        assert (release.experiment is None) == (release.state in ("promoted", "rolled_back"))


@settings(max_examples=80, deadline=None)
@given(st.one_of(LOOKS, HOPEFUL))
def test_production_takes_every_step_and_a_verified_way_back(looks):
    releases, transitions = walk(begin(), looks)
    if releases[-1].phase is Phase.promoted:
        taken = transitions[:NUM_STEPS]
        assert [t.outcome for t in taken] == [Outcome.promote] * NUM_STEPS
        assert [t.after for t in taken] == ["canary-1", "canary-5", "canary-25", "canary-50", "watched"]
        index = next(i for i, release in enumerate(releases) if release.phase is Phase.promoted)
        assert looks[index - 1] == (Outcome.promote, None)


@settings(max_examples=50, deadline=None)
@given(st.one_of(LOOKS, HOPEFUL), st.integers(0, 30))
def test_a_release_saved_and_loaded_goes_on_the_same(looks, cut):
    whole, _ = walk(begin(), looks)
    first, _ = walk(begin(), looks[:cut])
    loaded = Release.from_json(json.loads(json.dumps(first[-1].to_json())))
    assert loaded == first[-1]
    for now, (outcome, unverified) in enumerate(looks[cut:], 101 + cut):
        loaded, _ = advance(loaded, verdict(outcome), now=float(now), unverified=unverified)
    assert loaded == whole[-1]


def test_each_step_is_an_experiment_of_its_own_with_a_growing_weight():
    releases, _ = walk(begin(UNWATCHED), [(Outcome.promote, None)] * NUM_STEPS)
    experiments = [release.experiment for release in releases]
    assert [step.name for step in experiments[:-1]] == [
        "r1/shadow",
        "r1/canary-1",
        "r1/canary-5",
        "r1/canary-25",
        "r1/canary-50",
    ]
    assert [step.last for step in experiments[:-1]] == [False] * 4 + [True]
    assert [step.since for step in experiments[:-1]] == [100.0, 101.0, 102.0, 103.0, 104.0]
    assert [release.weights["new"] for release in releases] == [0.0, 0.01, 0.05, 0.25, 0.5, 1.0]
    assert experiments[-1] is None


def test_no_shadow_step_where_nothing_is_mirrored():
    assert begin(ReleaseConfig(shadow_fraction=0)).state == "canary-1"


def test_a_running_release_keeps_its_plan_when_the_settings_change():
    released = Release.from_json(begin(ReleaseConfig(steps=[0.1, 0.2])).to_json())
    assert released.plan == (0.0, 0.1, 0.2)


def test_a_pause_keeps_users_and_data_and_a_breach_still_ends_it():
    (*_, canary), _ = walk(begin(), [(Outcome.promote, None)] * 2)
    paused, transition = advance(canary, verdict(Outcome.inconclusive), now=500.0, unverified=None)
    assert (transition.before, transition.after, transition.by) == ("canary-5", "paused", "controller")
    assert (paused.weights, paused.experiment) == (canary.weights, canary.experiment)
    for outcome in (Outcome.promote, Outcome.hold, Outcome.inconclusive):
        assert advance(paused, verdict(outcome), now=600.0, unverified=None) == (paused, None)
    ended, transition = advance(paused, verdict(Outcome.roll_back), now=600.0, unverified=None)
    assert (ended.phase, ended.weights) == (Phase.rolled_back, {"old": 1.0, "new": 0.0})
    assert transition.evidence == {"num_users": 3}


def test_without_a_way_back_nothing_becomes_production():
    (*_, last), _ = walk(begin(), [(Outcome.promote, None)] * 4)
    assert would_promote(last, verdict(Outcome.promote))
    assert not would_promote(last, verdict(Outcome.hold))
    paused, transition = advance(last, verdict(Outcome.promote), now=900.0, unverified=BROKEN)
    assert paused.phase is Phase.paused
    assert BROKEN in transition.reason
    assert paused.reason == transition.reason
    assert transition.outcome is Outcome.inconclusive

    refused, _ = promote(last, by="ada", reason="good enough", now=901.0, unverified=BROKEN)
    assert refused.phase is Phase.paused
    promoted, transition = promote(refused, by="ada", reason="file restored", now=902.0, unverified=None)
    assert promoted.phase is Phase.promoted
    assert (transition.by, transition.reason, transition.before) == ("ada", "file restored", "paused")


def test_an_operator_returns_to_the_predecessor_even_after_promotion():
    promoted, _ = promote(begin(UNWATCHED), by="ada", reason="tried elsewhere", now=200.0, unverified=None)
    assert promoted.weights == {"old": 0.0, "new": 1.0}
    back, transition = roll_back(promoted, by="bob", reason="complaints", now=300.0)
    assert back.weights == {"old": 1.0, "new": 0.0}
    assert (transition.before, transition.after, transition.by) == ("promoted", "rolled_back", "bob")
    json.dumps(transition.to_json())


def test_rolled_back_is_final():
    back, _ = roll_back(begin(), by="bob", reason="typo in its prompt", now=200.0)
    for outcome in Outcome:
        assert advance(back, verdict(outcome), now=300.0, unverified=None) == (back, None)
    with pytest.raises(InputError, match="r1 is rolled_back already: typo in its prompt"):
        roll_back(back, by="bob", reason="again", now=300.0)
    with pytest.raises(InputError, match="r1 is rolled_back and cannot be promoted"):
        promote(back, by="bob", reason="after all", now=300.0, unverified=None)


def test_production_is_not_promoted_twice():
    promoted, _ = promote(begin(UNWATCHED), by="ada", reason="tried elsewhere", now=200.0, unverified=None)
    with pytest.raises(InputError, match="r1 is promoted and cannot be promoted"):
        promote(promoted, by="ada", reason="again", now=300.0, unverified=None)


def test_a_promoted_candidate_is_watched_beside_users_who_keep_the_predecessor():
    (*_, watched), _ = walk(begin(), [(Outcome.promote, None)] * NUM_STEPS)
    assert (watched.phase, watched.state, watched.since) == (Phase.promoted, "watched", 105.0)
    assert watched.weights == pytest.approx({"old": 0.1, "new": 0.9})
    assert watched.experiment.name == "r1/watch"
    assert watched.experiment.since == 105.0
    assert not would_promote(watched, verdict(Outcome.promote))
    for outcome in (Outcome.promote, Outcome.hold, Outcome.inconclusive):
        assert advance(watched, verdict(outcome), now=114.0, unverified=None) == (watched, None)
        over, transition = advance(watched, verdict(outcome), now=115.0, unverified=None)
        assert (over.state, over.since, over.experiment) == ("promoted", 105.0, None)
        assert (transition.before, transition.after, transition.reason) == ("watched", "promoted", "watched for 10 s")


def test_a_breach_in_the_watch_is_an_alarm_and_a_person_decides():
    (*_, watched), _ = walk(begin(), [(Outcome.promote, None)] * NUM_STEPS)
    alarmed, transition = advance(watched, verdict(Outcome.roll_back), now=110.0, unverified=None)
    assert (alarmed.phase, alarmed.state, alarmed.weights) == (Phase.promoted, "alarm", watched.weights)
    assert (transition.before, transition.after, transition.outcome) == ("watched", "alarm", Outcome.roll_back)
    assert alarmed.reason == transition.reason == "because of roll_back"
    for outcome in Outcome:
        assert advance(alarmed, verdict(outcome), now=900.0, unverified=None) == (alarmed, None)
    kept, _ = promote(alarmed, by="ada", reason="a false alarm", now=901.0, unverified=None)
    assert (kept.state, kept.weights) == ("promoted", {"old": 0.0, "new": 1.0})
    back, _ = roll_back(alarmed, by="ada", reason="it is worse", now=901.0)
    assert (back.state, back.weights) == ("rolled_back", {"old": 1.0, "new": 0.0})


def test_a_model_is_not_compared_with_itself():
    with pytest.raises(InputError, match="in production already"):
        start("r1", "old", "old", CONFIG, 0.0, salt="salt")


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "canary"},
        {"step": 5},
        {"plan": [0.0, 0.5, 0.25]},
        {"candidate": "old"},
        {"plan": []},
        {"watch": "alarm"},
    ],
)
def test_a_state_that_cannot_be_is_not_loaded(change):
    with pytest.raises(AssertionError):
        Release.from_json({**begin().to_json(), **change})


def test_each_step_draws_its_users_afresh_with_a_salt_that_nobody_knows_beforehand():
    (first, second, *_), _ = walk(begin(), [(Outcome.promote, None)] * 2)
    assert first.experiment.salt != second.experiment.salt
    assert first.experiment.salt.startswith(first.salt)


def test_a_release_saved_before_salts_were_recorded_draws_with_its_id():
    saved = begin().to_json()
    del saved["salt"]
    assert Release.from_json(saved).salt == "r1"
