"""No owner of keys decides alone about a candidate."""

from dataclasses import replace

import numpy as np
import pytest

from rlhf.types import InputError
from serve.releases.config import GoalConfig, GuardrailConfig, ReleaseConfig
from serve.releases.decision import judge
from serve.releases.owner_shares import OwnerShares
from serve.store.records import Exposure, Feedback, FeedbackKind, ObservedRequest, Traffic
from serve.store.release_records import Experiment, Outcome
from tests.unit.serve.samples import exposed, false_alarms_are_at_most, generator

HOUR = 3600.0
STEP = Experiment(name="r1/x", candidate="new", predecessor="old", weight=0.5, last=False, since=0.0, salt="s")
CONFIG = ReleaseConfig(
    observation_s=HOUR,
    min_step_s=0.0,
    goal=GoalConfig(min_users=50),
    guardrails={"errors": GuardrailConfig(metric="error_rate", at_most=0.1, min_samples=50)},
)


def admitted(owners, share=0.1, services=()):
    shares = OwnerShares(share, services)
    return [
        shares.admit(exposed(f"{owner}/{n}", "new", float(n), owner=owner)) for n, owner in enumerate(owners)
    ], shares


def test_users_beyond_a_share_are_left_out_in_order_of_exposure():
    owners = ["", "", "", "bot", "bot", "bot", "", "", "", "bot", "bot"]
    found, shares = admitted(owners, share=0.25, services=["shop"])
    # One beside three others is a quarter; two need six.
    assert found == [True, True, True, True, False, False, True, True, True, True, False]
    assert shares.left_out == {"bot": 3}
    assert shares.outside == {"bot/4", "bot/5", "bot/10"}
    assert shares.largest == {"owner": "bot", "num_users": 5}
    assert shares.sentence == (
        "left out: 3 users of bot, beyond release.max_owner_share=0.25 of 11 users "
        "(release.services names owners without a limit)"
    )


def test_a_flood_of_any_size_is_a_share_of_the_others():
    persons = [f"person{number}" for number in range(900)]
    for num in (400, 5000):
        names = [*persons, *["bot"] * num]
        generator(num).shuffle(names[20:])
        shares = admitted(names, services=["shop"])[1]
        assert shares.counted["bot"] == 100
        assert all(shares.counted[person] == 1 for person in persons)


def test_owners_alike_are_not_in_each_others_way():
    shares = admitted([f"owner{number % 10}" for number in range(1000)])[1]
    assert sum(shares.left_out.values()) <= 20
    assert all(admitted([*"ab"] * 2, share=0.25)[0]), "too few to compare"


def test_who_speaks_for_users_and_who_has_no_owner_is_not_limited():
    assert all(admitted(["shop"] * 100)[0]), "the only service"
    assert all(admitted([""] * 100, services=["shop"])[0])
    for services in (["shop"], []):  # named, or with more than half of the users
        shares = admitted(["shop", "shop", "shop", "", "bot"] * 100, services=services)[1]
        assert shares.counted["bot"] == pytest.approx(400 / 9, abs=1)
        assert shares.left_out == {"bot": 100 - shares.counted["bot"]}
    assert all(admitted(["shop", "bot"] * 100, share=1.0, services=["shop"])[0])


def test_others_are_summed_up():
    shares = admitted([*"abcd", *"a" * 9, *"b" * 5, *"c" * 4], share=0.05, services=["shop"])[1]
    assert shares.sentence.startswith("left out: 9 users of a and 9 of 2 other owners, beyond")


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_is_above_0(share):
    with pytest.raises(InputError, match=r"release.max_owner_share=.*: give a share above 0"):
        ReleaseConfig(max_owner_share=share)


def traffic(owners, *, thumbs, failing=(), seed=0):
    """Each user comes once, is answered, and says what the owner's users say of the arm (probability of a thumb up)."""
    random = generator(seed)
    exposures, requests, feedback = [], [], []
    for number, (owner, at) in enumerate(zip(owners, np.sort(random.uniform(0, 9 * HOUR, len(owners))), strict=True)):
        arm = ("old", "new")[random.random() < STEP.weight]
        user, id, at = f"{owner}/{number}", f"q{number}", float(at)
        place = Exposure(
            experiment=STEP.name, user=user, variant=arm, at=at, weights=STEP.weights, salt="s", owner=owner
        )
        exposures.append(place)
        status = 504 if owner in failing else 200
        requests.append(
            ObservedRequest(
                id=id,
                user=user,
                variant=arm,
                at=at,
                shadow_of=None,
                conversation=id,
                turn=1,
                prompt_hash="h",
                status=status,
                latency_s=1.0,
                first_token_s=None,
                completion_tokens=3,
            )
        )
        up = random.random() < thumbs(owner, arm)
        said = Feedback(id=id, request_id=id, user=user, at=at + 9, kind=FeedbackKind.thumb, value=1 if up else -1)
        feedback.append(said)
    return Traffic(exposures=exposures, requests=requests, feedback=feedback)


def flood(of_bot, of_others):
    """400 users that one key invents, among 2,000 others."""
    names = np.array(["bot"] * 400 + [of_others(number) for number in range(2000)])
    generator(1).shuffle(names)
    thumbs = {"bot": of_bot}
    return names.tolist(), lambda owner, arm: thumbs.get(owner, {"new": 0.62, "old": 0.5})[arm]


@pytest.mark.parametrize(
    ("others", "config"),
    [
        (lambda number: f"person{number}", CONFIG),
        (lambda number: "shop", replace(CONFIG, services=["shop"])),
        (lambda number: "shop", CONFIG),
    ],
    ids=["each with a key", "of a service that is named", "of one service"],
)
def test_400_invented_users_of_one_key_do_not_outvote_2000_others(others, config):
    # They do what they can against the candidate, and all their requests time out.
    owners, thumbs = flood({"new": 0.0, "old": 1.0}, others)
    step = replace(STEP, last=True)
    seen = traffic(owners, thumbs=thumbs, failing={"bot"})
    alone = [(owner, place) for owner, place in zip(owners, seen.exposures, strict=True) if owner != "bot"]
    without = replace(seen, exposures=[place for _, place in alone])
    assert judge(config, step, without, 11 * HOUR).outcome is Outcome.promote
    unlimited = judge(replace(config, max_owner_share=1.0), step, seen, 11 * HOUR)
    assert unlimited.outcome is Outcome.roll_back
    limited = replace(config, max_owner_share=0.02)
    verdict = judge(limited, step, seen, 11 * HOUR)
    assert verdict.outcome is Outcome.promote
    assert verdict.reasons[-1].startswith("left out: 3")
    assert "users of bot, beyond release.max_owner_share=0.02 of 2400 users" in verdict.reasons[-1]
    left_out = verdict.evidence["left_out"]
    assert left_out["by_owner"] == {"bot": left_out["num_users"]}
    assert verdict.evidence["goal"]["num_exposed"] == 2400
    # At the default share, too, they are too few to withdraw it.
    assert judge(replace(config, guardrails={}), step, seen, 11 * HOUR).outcome is not Outcome.roll_back


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_equal_candidates_are_not_withdrawn_more_often_where_users_are_left_out(share):
    config = replace(
        CONFIG, max_owner_share=share, guardrails={}, watch_s=0.0, steps=[0.5], goal=GoalConfig(min_users=1)
    )
    withdrawn, better = 0, 0
    for seed in range(40):
        owners = generator(seed).choice(["bot", *"abcdefghijk"], 600, p=[0.45, *[0.05] * 11]).tolist()
        # Owners differ, and the bot's users think otherwise when fewer of them come.
        seen = traffic(owners, thumbs=lambda owner, arm: {"bot": 0.95, "a": 0.1}.get(owner, 0.5), seed=seed)
        goal = judge(config, STEP, seen, 11 * HOUR).evidence["goal"]
        withdrawn += goal["better"] < 0
        better += goal["better"] > 0
    assert false_alarms_are_at_most(config.alpha_worse, withdrawn, 40)
    assert false_alarms_are_at_most(config.false_promotions, better, 40)
