"""One round of the closed loop, as a stage of a pipeline: serve, release, collect feedback, export it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from rlhf.config import compose
from rlhf.types import RunError
from serve.app import CONF, OPERATOR_KEY
from serve.client import ClientConfig, StartConfig, ask
from serve.config import ServeConfig
from serve.feedback.export import ExportConfig, RowKind, export
from serve.local import serving
from serve.loop.simulated_users import SimulatedUsers, read_questions
from serve.store.release_records import UNDER_WAY, Phase
from serve.store.store import Store

MODEL, PAIRS, STORE, ROUND = "model", "pairs", "store.sqlite", "round.json"
"""Names of a round's files."""
MANY = 1_000_000
MOST_OF_ONE_USER = 0.05


def run_round(
    folder: Path,
    *,
    number: int,
    production: str,
    questions: str,
    candidate: str | None = None,
    num_users: int = 300,
    overrides: list[str] | None = None,
    decide_s: float = 300.0,
) -> None:
    """Serve `production`; release `candidate` to simulated users until it is decided; then run more users.

    Args:
        folder: Output folder: the winning model, pairs from the users' feedback, the store, and `round.json` with the
            audit trail.
        number: Number of the round; each round has other users.
        production: Folder of the model in production.
        questions: JSONL file with `prompt` and `answer`: the users' questions, and the right answers.
        candidate: Folder of the model that may replace it. None: nothing is released.
        num_users: Number of users after the decision.
        overrides: Overrides of the service's configuration.
        decide_s: Seconds that the release may take; an undecided candidate is rolled back.
    """
    store_url, name = f"sqlite:///{folder / STORE}", name_before(number)
    with tempfile.TemporaryDirectory() as scratch:
        words = [f"+models.{name}={production}", f"production={name}", f"output={scratch}"]
        config = compose(CONF, "serve", [*(overrides or []), *words, f"store.url={store_url}"], ServeConfig)
        crowd = SimulatedUsers(
            url=f"http://{config.http.host}:{config.http.port}",
            model=config.name,
            questions=read_questions(questions),
            max_tokens=config.limits.max_tokens,
            seed=number,
        )
        key = str(Path(scratch) / OPERATOR_KEY)
        with serving(config):
            ended = None
            if candidate is not None:
                client = StartConfig(url=crowd.url, key=key, name=f"round_{number}", folder=candidate)
                ended = asyncio.run(release(crowd, client, decide_s))
            crowd.right = {True: 0, False: 0}
            asyncio.run(crowd.run(num_users))
    winner = Path(candidate if candidate is not None and ended and ended["phase"] == Phase.promoted else production)
    store = Store(store_url)
    export(store, RowKind.pairs, folder / PAIRS, ExportConfig(max_user_share=MOST_OF_ONE_USER))
    store.close()
    write_report(folder / ROUND, number, winner, crowd, ended)
    link(winner, folder / MODEL)


def write_report(file: Path, number: int, winner: Path, crowd: SimulatedUsers, ended: dict[str, Any] | None) -> None:
    """Write the result of the round, for readers and for the next stage."""
    num_answers = sum(crowd.right.values())
    report = {
        "round": number,
        "model": str(winner.resolve()),
        "users": crowd.came,
        "statuses": crowd.statuses,
        "right_after": crowd.right[True] / num_answers if num_answers else None,
        "release": ended,
    }
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")


def name_before(number: int) -> str:
    """Return the name of the model in production when a round begins."""
    return f"round_{number - 1}" if number else "start"


async def release(crowd: SimulatedUsers, client: StartConfig, decide_s: float) -> dict[str, Any]:
    """Release the candidate while simulated users send requests; return the ended release with its audit trail."""
    await asyncio.to_thread(ask, "start", client)
    decided, deadline = asyncio.Event(), time.monotonic() + decide_s
    users = asyncio.create_task(crowd.run(MANY, decided))
    plain = ClientConfig(url=client.url, key=client.key, reason=f"undecided after {decide_s:g} s")
    try:
        while True:
            status = await asyncio.to_thread(ask, "status", plain)
            found: dict[str, Any] = status["release"]
            if found["phase"] not in UNDER_WAY:
                return found
            if users.done():
                await users
                raise RunError(f"the users have stopped and release {found['id']} is {found['state']}")
            if found["phase"] == "paused" or time.monotonic() > deadline:
                return (await asyncio.to_thread(ask, "rollback", plain))["release"]
            await asyncio.sleep(1)
    finally:
        decided.set()
        await users


def link(source: Path, target: Path) -> None:
    """Copy a folder, with hard links if the file system supports them."""

    def one(from_: str, to: str) -> str:
        try:
            os.link(from_, to)
        except OSError:
            shutil.copy2(from_, to)
        return to

    shutil.copytree(source.resolve(), target, copy_function=one)
