"""Looks that go on from the last one say what a look from scratch says, on SQLite and on PostgreSQL."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError

from serve.releases.config import GoalConfig, GuardrailConfig, ReleaseConfig
from serve.releases.config import Test as GoalTest
from serve.releases.decision import judge
from serve.releases.looks import LAG_S, Looks
from serve.store.records import Exposure, Traffic
from serve.store.release_records import Experiment
from serve.store.store import Store
from serve.store.tables import EXPOSURES, FEEDBACK
from tests.oracles.traffic import traffic as traffic_of
from tests.unit.serve.samples import asked, generator, said

HOUR = 3600.0
STEP = Experiment(name="r1/x", candidate="new", predecessor="old", weight=0.4, last=True, since=0.0, salt="s")
SHADOW = replace(STEP, name="r1/shadow", weight=0.0, last=False)
GUARDRAILS = {
    "errors": GuardrailConfig(metric="error_rate", at_most=0.05),
    "more": GuardrailConfig(metric="error_rate", at_most_ratio=1.5),
    "slow": GuardrailConfig(metric="latency_p95_s", at_most_ratio=1.2),
    "slowest": GuardrailConfig(metric="latency_p99_s", at_most=30.0),
    "long": GuardrailConfig(metric="completion_tokens", worse_by=1.0, high=20.0),
    "edits": GuardrailConfig(metric="edits", worse_by=0.1),
    "back": GuardrailConfig(metric="retention", at_least=0.1),
}
CONFIG = ReleaseConfig(
    observation_s=2 * HOUR,
    retention_after_s=HOUR,
    guardrail_period_s=4 * HOUR,
    guardrail_window_s=600.0,
    max_owner_share=0.3,
    goal=GoalConfig(metric="rating", low=1.0, high=5.0),
    guardrails=GUARDRAILS,
)
FIXED = replace(CONFIG, goal=GoalConfig(metric="edits", test=GoalTest.fixed, min_users=40, users_per_arm=40))


def records(step, *, num=150, hours=12.0, seed=0):
    """Exposures, requests with their copies, and feedback, each with the time at which it is in the store."""
    random = generator(seed)
    found = []
    for number, first in enumerate(np.sort(random.uniform(0, hours * HOUR, num)).tolist()):
        owner = ("shop", "bot", "ann", "")[int(random.choice(4, p=[0.2, 0.4, 0.2, 0.2]))]
        user = f"{owner}/u{number}"
        arm = "new" if random.random() < step.weight else "old"
        exposure = Exposure(
            experiment=step.name, user=user, variant=arm, at=first, weights=step.weights, salt="s", owner=owner
        )
        found.append((first + float(random.uniform(0, LAG_S)), exposure))
        for turn in range(int(random.integers(1, 5))):
            at = first + turn * float(random.exponential(HOUR))
            request = asked(
                "q",
                user=user,
                at=at,
                id=f"{user}-{turn}",
                variant=arm,
                experiment=step.name,
                turn=turn + 1,
                prompt_hash=str(random.integers(3)),
                status=500 if random.random() < 0.05 else 200,
                latency_s=float(random.lognormal(1, 1)),
            )
            found.append((end(request), request))
            if step.shadow:
                copy = replace(request, id=f"{request.id}c", variant="new", shadow_of=request.id, at=at + 0.5)
                copy = replace(copy, latency_s=float(random.lognormal(1, 1)))
                found.append((end(copy), copy))
            if random.random() < 0.5:
                rating = said(request, "rating", int(random.integers(1, 6)), at=end(request) + random.exponential(HOUR))
                found.append((rating.at, rating))
            if random.random() < 0.2:
                edit = said(request, "edit", text="x", at=end(request) + 5)
                found.append((edit.at, edit))
    return sorted(found, key=lambda one: one[0])


def end(request):
    return request.at + request.latency_s


def keep(store, found):
    """As gateways do, in one transaction each."""
    store.requests.record([one for one in found if hasattr(one, "latency_s")])
    exposures = [asdict(one) for one in found if isinstance(one, Exposure)]
    events = [asdict(one) for one in found if hasattr(one, "kind")]
    with store.database.writer.begin() as connection:
        for table, rows in ((EXPOSURES, exposures), (FEEDBACK, events)):
            if rows:
                connection.execute(insert(table), [{k: v for k, v in row.items() if k in table.c} for row in rows])


def from_scratch(store, config, step, now):
    seen = traffic_of(store, step.name, now - LAG_S)
    ended = [request for request in seen.requests if end(request) <= now - LAG_S]
    # Passed and decided at `now`, on what was known somewhat earlier.
    known = Traffic(exposures=seen.exposures, requests=ended, feedback=seen.feedback)
    return judge(config, step, known, now - LAG_S)


def figures(evidence):
    """All numbers by their path, but for the moment of the look."""
    if isinstance(evidence, dict):
        return {(key, *path): number for key, part in evidence.items() for path, number in figures(part).items()}
    return {(): evidence}


def assert_equal(verdict, other):
    ours, theirs = figures(verdict.evidence), figures(other.evidence)
    assert ours.keys() == theirs.keys()
    for path in ours.keys() - {("at",)}:
        assert ours[path] == (pytest.approx(theirs[path], abs=1e-9) if path[-1] != "horizon" else theirs[path]), path
    assert verdict.outcome == other.outcome
    json.dumps(verdict.evidence, allow_nan=False)


@pytest.mark.parametrize(
    ("step", "config"), [(STEP, CONFIG), (STEP, FIXED), (SHADOW, CONFIG)], ids=["sequential", "fixed", "shadow"]
)
def test_looks_in_random_chunks_say_what_a_look_from_scratch_says(store, step, config):
    found, random = records(step), generator(7)
    looks = Looks(store.database, config, timeout_s=300.0)
    done, now = 0, 0.0
    while done < len(found):
        now += float(random.exponential(2 * HOUR))
        until = done + sum(moment <= now for moment, _ in found[done:])
        keep(store, [record for _, record in found[done:until]])
        done = until
        assert_equal(looks.look(step, now), from_scratch(store, config, step, now))
    assert looks.num_reads == 1
    assert_equal(Looks(store.database, config, timeout_s=300.0).look(step, now), looks.look(step, now))


@pytest.fixture
def running(store):
    """A step of twelve hours, looked at after ten."""
    found = records(STEP)
    keep(store, [record for moment, record in found if moment <= 10 * HOUR])
    looks = Looks(store.database, CONFIG, timeout_s=300.0)
    looks.look(STEP, 10 * HOUR)
    return looks, [record for moment, record in found if moment > 10 * HOUR]


def test_a_deleted_user_leaves_the_next_look(store: Store, running):
    looks, _ = running
    before = looks.look(STEP, 10 * HOUR).evidence["goal"]["num_exposed"]
    gone = traffic_of(store, STEP.name, HOUR).exposures[0].user
    store.people.delete(gone)
    verdict = looks.look(STEP, 10 * HOUR)
    assert verdict.evidence["goal"]["num_exposed"] == before - 1
    assert looks.num_reads == 2
    assert_equal(verdict, from_scratch(store, CONFIG, STEP, 10 * HOUR))


def test_records_that_come_late_are_counted(store, running):
    looks, rest = running
    looks.look(STEP, 11 * HOUR)  # the store took nothing for an hour
    keep(store, rest)
    assert_equal(looks.look(STEP, 13 * HOUR), from_scratch(store, CONFIG, STEP, 13 * HOUR))
    assert looks.num_reads == 2
    request = next(one for one in rest if hasattr(one, "latency_s"))
    keep(store, [replace(request, id="later", at=12.9 * HOUR)])
    looks.look(STEP, 14 * HOUR)
    keep(store, [replace(request, id="late", at=12.9 * HOUR)])
    assert_equal(looks.look(STEP, 15 * HOUR), from_scratch(store, CONFIG, STEP, 15 * HOUR))


def test_another_step_or_configuration_begins_anew(store, running):
    looks, _ = running
    config = looks.config
    config.guardrails = {"errors": config.guardrails["errors"]}
    assert set(looks.look(STEP, 10 * HOUR).evidence["guardrails"]) == {"errors"}
    assert looks.num_reads == 2
    other = replace(STEP, name="r1/y", since=9 * HOUR)
    assert looks.look(other, 11 * HOUR).evidence["goal"]["num_exposed"] == 0
    config.guardrails = GUARDRAILS


def test_a_look_that_fails_half_way_is_made_again_whole(sqlite_url):
    store = Store(sqlite_url)
    keep(store, [record for _, record in records(STEP)])
    looks = Looks(store.database, CONFIG, timeout_s=300.0)
    looks.look(STEP, 10 * HOUR)
    with store.database.writer.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE feedback RENAME TO elsewhere")
    with pytest.raises(DBAPIError):
        looks.look(STEP, 13 * HOUR)
    with store.database.writer.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO feedback")
    assert_equal(looks.look(STEP, 13 * HOUR), from_scratch(store, CONFIG, STEP, 13 * HOUR))
    store.close()
