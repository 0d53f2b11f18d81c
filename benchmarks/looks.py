"""CPU seconds and memory of the release controller's looks at a running step: the first after a start, and later ones.

`python benchmarks/looks.py 150000 1000000` fills a SQLite store with 150,000, then 1,000,000 requests of three days, by
a fifth as many users, and looks at all of them, and again after 1,000 more requests by 200 new users.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from serve.config import ServeConfig
from serve.control.release_manager import ReleaseManager
from serve.releases import state
from serve.releases.config import GuardrailConfig, ReleaseConfig
from serve.store.database import migrate
from serve.store.release_records import Outcome, Transition
from serve.store.store import Store

DAYS = 3
START = 1_000_000.0
PER_USER = 5
MORE = 1000
LOOKS = 5
EXPERIMENT = "r1/canary-50"
WEIGHTS = json.dumps({"old": 0.5, "new": 0.5})
RELEASE = ReleaseConfig(
    steps=[0.5],
    shadow_fraction=0.0,
    min_step_s=30 * 86400.0,
    max_step_s=60 * 86400.0,
    guardrails={
        "errors": GuardrailConfig(metric="error_rate", at_most=0.05),
        "slow": GuardrailConfig(metric="latency_p95_s", at_most_ratio=1.5),
    },
)


def request(number: int, at: float) -> tuple[object, ...]:
    user = number // PER_USER
    return (
        f"chatcmpl-{number:032x}",
        f"shop/user-{user}",
        at,
        ("old", "new")[random.Random(user).random() < 0.5],
        f"{user:064d}",
        1 + number % PER_USER,
        f"{number % 9999:064d}",
        500 if random.random() < 0.01 else 200,
        random.lognormvariate(0, 0.5),
    )


def fill(store: Store, first: int, last: int, step_s: float) -> None:
    """Insert requests, exposures and thumbs in bulk."""
    moments = {number: START + number * step_s for number in range(first, last)}

    def exposures() -> Iterator[tuple[object, ...]]:
        for number in range(first, last, PER_USER):
            user = number // PER_USER
            arm = ("old", "new")[random.Random(user).random() < 0.5]
            yield EXPERIMENT, f"shop/user-{user}", arm, moments[number], WEIGHTS

    with store.database.writer.begin() as connection:
        cursor = connection.connection.cursor()
        cursor.executemany(
            "INSERT INTO requests (id, user, at, endpoint, variant, version, experiment, conversation, turn, "
            f"prompt_hash, sampling, status, latency_s) VALUES (?, ?, ?, 'chat', ?, 'v', '{EXPERIMENT}', ?, ?, ?, "
            "'{}', ?, ?)",
            (request(number, at) for number, at in moments.items()),
        )
        cursor.executemany(
            'INSERT INTO responses (request_id, "index", num_tokens) VALUES (?, 0, 9)',
            ((f"chatcmpl-{number:032x}",) for number in moments),
        )
        cursor.executemany(
            "INSERT INTO exposures (experiment, user, variant, at, weights, salt, owner) "
            "VALUES (?, ?, ?, ?, ?, 's', 'shop')",
            exposures(),
        )
        cursor.executemany(
            "INSERT INTO feedback (id, request_id, at, kind, choice, value) VALUES (?, ?, ?, 'thumb', 0, ?)",
            (
                (f"f{number}", f"chatcmpl-{number:032x}", at + 5, random.choice((1, -1)))
                for number, at in moments.items()
                if number % PER_USER == 0
            ),
        )


def begin(manager: ReleaseManager) -> None:
    """Start a release in its only step."""
    release = state.start("r1", "new", "old", RELEASE, START, salt="s")
    outcome = Outcome.hold
    manager.store.releases.save(
        release,
        Transition(release="r1", at=START, before="", after=release.state, outcome=outcome, by="op", reason="started"),
    )


def memory_mb(name: str) -> float:
    """Return `VmRSS` of this process, or `VmHWM` since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def look(manager: ReleaseManager, before: float) -> str:
    Path("/proc/self/clear_refs").write_text("5")
    started = time.process_time()
    manager.look()
    spent = time.process_time() - started
    assert manager.verdict is not None
    peak, held = (memory_mb(name) - before for name in ("VmHWM", "VmRSS"))
    return f"{spent:8.3f} CPU-s, peak +{peak:.0f} MB, held +{held:.0f} MB, {manager.verdict.outcome}"


def measure(num_requests: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.sqlite"
        migrate(url)
        store = Store(url)
        step_s = DAYS * 86400 / num_requests
        fill(store, 0, num_requests, step_s)
        end = num_requests
        config = ServeConfig(output=folder, production="old", release=RELEASE)
        manager = ReleaseManager(store, config, lambda: START + end * step_s)
        begin(manager)
        before = memory_mb("VmRSS")
        print(f"{num_requests} requests, first look: {look(manager, before)}", flush=True)
        for _ in range(LOOKS):
            fill(store, end, end + MORE, step_s)
            end += MORE
            print(f"{num_requests} requests, {MORE} more: {look(manager, before)}", flush=True)
        print(json.dumps({key: manager.verdict.evidence[key] for key in ("goal", "guardrails")}))
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_requests", type=int, nargs="*", default=[150_000, 1_000_000])
    for number in parser.parse_args().num_requests:
        random.seed(number)
        measure(number)


if __name__ == "__main__":
    main()
