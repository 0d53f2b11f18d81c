"""What guardrails count, by hand."""

from serve.statistics.visits import Unit, visits
from serve.store.records import Exposure, ObservedRequest, Traffic
from serve.store.release_records import Experiment

CANARY = Experiment(name="r1/x", candidate="new", predecessor="old", weight=0.25, last=True, since=100.0, salt="s")
SHADOW = Experiment(name="r1/s", candidate="new", predecessor="old", weight=0.0, last=False, since=100.0, salt="s")


def observed(id, user, at, variant="new", latency_s=1.0, status=200, shadow_of=None, conversation="c"):
    return ObservedRequest(
        id=id,
        user=user,
        variant=variant,
        at=at,
        shadow_of=shadow_of,
        conversation=conversation,
        turn=1,
        prompt_hash="h",
        status=status,
        latency_s=latency_s,
        first_token_s=None,
        completion_tokens=3,
    )


def shown(user, variant, step=CANARY):
    return Exposure(experiment=step.name, user=user, variant=variant, at=100.0, weights=step.weights, salt="s")


def units(metric, requests, exposures, *, step=CANARY, now=10_000.0):
    found = visits(Traffic(exposures=exposures, requests=requests), step, period_s=1000.0, window_s=60.0, now=now)
    return [[visit.unit(metric) for visit in period] for period in found]


def test_a_user_counts_once_in_a_period_by_the_requests_of_the_first_minute():
    flood = [observed(f"f{i}", "ada", 110.0 + i, latency_s=2.0) for i in range(100)]
    again = [observed("later", "ada", 1200.0, latency_s=7.0), observed("bob", "bob", 105.0, "old", latency_s=3.0)]
    exposures = [shown("ada", "new"), shown("bob", "old")]
    first, second = units("latency_p95_s", flood + again, exposures)
    assert first == [
        Unit(predecessor=[3.0], probability=0.25),
        Unit(candidate=[2.0] * 60, probability=0.25),
    ]
    assert second == [Unit(candidate=[7.0], probability=0.25)]


def test_a_visit_enters_when_its_window_is_over_and_never_changes():
    requests = [observed("a", "ada", 110.0), observed("b", "ada", 120.0), observed("c", "ada", 180.0)]
    assert units("latency_p95_s", requests, [shown("ada", "new")], now=170.0) == [[]]
    one = [[Unit(candidate=[1.0, 1.0], probability=0.25)]]
    assert units("latency_p95_s", requests[:2], [shown("ada", "new")], now=171.0) == one
    assert units("latency_p95_s", requests, [shown("ada", "new")], now=900.0) == one


def test_failed_requests_are_errors_without_latency():
    requests = [observed("a", "ada", 110.0, status=503), observed("b", "ada", 111.0)]
    assert units("error_rate", requests, [shown("ada", "new")])[0][0].candidate == [1.0, 0.0]
    assert units("latency_p95_s", requests[:1], [shown("ada", "new")])[0][0].candidate == []


def test_who_was_not_drawn_or_saw_another_arm_is_left_out():
    requests = [observed("a", "ada", 110.0, "old"), observed("b", "bob", 110.0)]
    assert units("error_rate", requests, [shown("ada", "new")]) == [[]]


def test_in_the_shadow_both_arms_of_a_user_are_beside_each_other():
    named = [observed("a", "ada", 110.0, "old"), observed("A", "ada", 110.0, latency_s=5.0, shadow_of="a")]
    nobody = [
        one
        for talk in ("c1", "c2")
        for one in (
            observed(talk, "nobody", 120.0, "old", conversation=talk),
            observed(f"copy {talk}", "nobody", 120.0, latency_s=9.0, shadow_of=talk, conversation=talk),
        )
    ]
    alone = [observed("x", "ada", 111.0, "old"), observed("Y", "ada", 111.0, shadow_of="not recorded")]
    found = units("latency_p95_s", named + nobody + alone, [shown("ada", "old", SHADOW)], step=SHADOW)
    assert found == [
        [
            Unit(candidate=[5.0], predecessor=[1.0]),
            Unit(candidate=[9.0], predecessor=[1.0]),
            Unit(candidate=[9.0], predecessor=[1.0]),
        ]
    ]
    assert found[0][0].both
