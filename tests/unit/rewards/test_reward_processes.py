"""Rewards in processes: a fault costs the rollout it befell, within a bounded time, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop
from reward_samples import FAULTY, prompt, rollout

from rlhf.rewards.base import RewardConfig
from rlhf.rewards.processes import RewardProcesses
from rlhf.types import Failure, Prompt, RunError, Score

NAME = "faulty_rewards.py:fault"


def children() -> list[psutil.Process]:
    """Processes that this one started, zombies included: those of other tests, as a database, are among them."""
    return psutil.Process().children()


def started_since(before: list[psutil.Process]) -> list[psutil.Process]:
    """Processes that were started after `before` was taken, with all that they started."""
    return [one for child in children() if child not in before for one in (child, *child.children(recursive=True))]


@contextlib.asynccontextmanager
async def scoring(function: str = "fault", **settings: Any) -> AsyncIterator[RewardProcesses]:
    before, config = children(), {"timeout_s": 0.4, "max_attempts": 1} | settings
    processes = RewardProcesses(RewardConfig(functions=[f"{FAULTY}:{function}"], **config))
    try:
        await processes.start()
        yield processes
    finally:
        await processes.close()
        assert started_since(before) == []


def faulty(number: int, fault: str | None = None) -> Prompt:
    return prompt(id=f"p{number}", value=float(number), fault=fault)


def right(number: int) -> Score:
    return Score(value=float(number), parts={NAME: float(number)})


async def score_all(processes: RewardProcesses, prompts: list[Prompt]) -> list[Score | Failure]:
    return await asyncio.gather(*(processes.score(prompt, rollout()) for prompt in prompts))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("num_processes", [1, 3])
async def test_each_rollout_gets_its_own_score(num_processes: int) -> None:
    async with scoring(num_processes=num_processes) as processes:
        assert await score_all(processes, [faulty(i) for i in range(300)]) == [right(i) for i in range(300)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["sleep", "loop", "c sleep holding the GIL", "grandchild"])
async def test_one_of_eight_hangs_and_the_others_are_right(fault: str) -> None:
    async with scoring() as processes:
        started = time.monotonic()
        results = await score_all(processes, [faulty(i, fault if i == 3 else None) for i in range(8)])
        took_s = time.monotonic() - started
    assert results[3] == Failure(
        kind="reward_timeout",
        message=f"reward {NAME}: no score for prompt 'p3' within 0.4 s, so its process was killed; "
        "make it faster or raise reward.timeout_s",
    )
    assert results[:3] + results[4:] == [right(i) for i in range(8) if i != 3]
    assert 0.4 <= took_s < 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("fault", "end"),
    [
        ("os._exit", "exited with code 7"),
        ("sys.exit", "exited with code 5"),
        ("segfault", "was killed by SIGSEGV"),
        ("close", "(exited with code 1|was killed by SIGKILL)"),
    ],
)
async def test_one_of_eight_dies_and_the_others_are_right(fault: str, end: str) -> None:
    async with scoring() as processes:
        results = await score_all(processes, [faulty(i, fault if i == 3 else None) for i in range(8)])
    assert isinstance(results[3], Failure)
    assert results[3].kind == "reward_died"
    assert re.match(f"reward {NAME}: its process {end} while it scored prompt 'p3'; look for ", results[3].message)
    assert results[:3] + results[4:] == [right(i) for i in range(8) if i != 3]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["print", "stdin"])
async def test_the_standard_streams_are_the_users(fault: str) -> None:
    async with scoring() as processes:
        assert await score_all(processes, [faulty(i, fault) for i in range(8)]) == [right(i) for i in range(8)]


@pytest.mark.timeout(300)
async def test_a_process_that_forks_never_mixes_scores_up(caplog: pytest.LogCaptureFixture) -> None:
    async with scoring() as processes:
        results = await score_all(processes, [faulty(i, "fork" if i == 1 else None) for i in range(20)])
    for i, result in enumerate(results):
        assert result == right(i) or isinstance(result, Failure)


@pytest.mark.timeout(300)
async def test_junk_is_a_failure_through_the_process_too() -> None:
    junk = [
        math.nan,
        math.inf,
        None,
        "1.0",
        b"\xff",
        "\ud800",
        10**400,
        {1: 2},
        Failure(kind="judge", message="\udcff"),
    ]
    async with scoring("junk", max_attempts=2) as processes:
        results = await score_all(processes, [prompt(junk=value) for value in junk])
    for result in results:
        assert isinstance(result, Failure)
        assert "faulty_rewards.py:junk" in result.message
    assert [result.kind for result in results] == ["reward_invalid"] * 8 + ["judge"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["raise", "die"])
@pytest.mark.parametrize("max_attempts", [1, 2])
async def test_a_passing_failure_is_retried(how: str, max_attempts: int, tmp_path: Path) -> None:
    async with scoring("flaky", max_attempts=max_attempts) as processes:
        result = await processes.score(prompt(how=how, memory=str(tmp_path / "memory")), rollout())
    if max_attempts == 2:
        assert result == Score(value=1.0, parts={"faulty_rewards.py:flaky": 1.0})
    else:
        assert isinstance(result, Failure)
        assert result.kind == {"raise": "reward_error", "die": "reward_died"}[how]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("junk", "calls"), [(None, 1), (Failure(kind="reward_error", message="away"), 3), (1.0, 1)])
async def test_an_invalid_result_is_final(junk: object, calls: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with scoring("count", max_attempts=3) as processes:
        await processes.score(prompt(junk=junk, log=str(log)), rollout())
    assert len(log.read_text()) == calls


@pytest.mark.timeout(300)
async def test_waiting_in_the_queue_is_not_timed() -> None:
    reward = "rlhf.rewards.exact:exact"
    processes = RewardProcesses(RewardConfig(functions=[f"{FAULTY}:slow", reward], timeout_s=0.3, max_attempts=1))
    try:
        await processes.start()
        results = await asyncio.gather(*(processes.score(prompt("a"), rollout("a")) for _ in range(8)))
    finally:
        await processes.close()
    assert [type(result) for result in results] == [Score] * 8


def in_thread(runner: Callable[..., Any], main: Any) -> None:
    """Runs a coroutine as a Ray actor does: in the event loop of a thread that is not the main one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(runner, main).result()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_a_pause_of_the_event_loop_is_not_timed(runner: Callable[..., Any]) -> None:
    async def main() -> None:
        async with scoring() as processes:
            scores = [asyncio.create_task(processes.score(faulty(i), rollout())) for i in range(8)]
            await asyncio.sleep(0.001)
            time.sleep(0.5)
            assert await asyncio.gather(*scores) == [right(i) for i in range(8)]
            hang, after = await score_all(processes, [faulty(0, "loop"), faulty(1)])
            assert isinstance(hang, Failure)
            assert after == right(1)

    in_thread(runner, main())


@pytest.mark.timeout(300)
async def test_a_caller_that_was_cancelled_costs_nothing() -> None:
    async with scoring() as processes:
        tasks = [asyncio.create_task(processes.score(faulty(i), rollout())) for i in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        assert await asyncio.gather(*tasks[1::2]) == [right(i) for i in range(1, 20, 2)]


@pytest.mark.timeout(300)
async def test_closing_kills_what_hangs_and_answers_what_waits() -> None:
    before = children()
    async with scoring(timeout_s=100.0) as processes:
        tasks = [asyncio.create_task(processes.score(faulty(i, "loop"), rollout())) for i in range(8)]
        await asyncio.sleep(0.05)
        await processes.close()
        assert started_since(before) == []
        for i, result in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
            assert isinstance(result, RunError)
            assert str(result) == f"the reward processes are closed; prompt 'p{i}' has no score"
        with pytest.raises(RunError, match="are closed"):
            await processes.score(faulty(9), rollout())


@pytest.mark.timeout(300)
async def test_before_the_start_there_is_no_score() -> None:
    with pytest.raises(RunError, match="the reward processes are not started; prompt 'p0' has no score"):
        await RewardProcesses(RewardConfig()).score(prompt("3"), rollout("3"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nowhere", "whose import raises ModuleNotFoundError: No module named 'nowhere'"),
        ("import os; os._exit(9)", "the process exited with code 9 while it loaded"),
    ],
)
async def test_what_cannot_load_is_said_at_the_start(source: str, said: str, tmp_path: Path) -> None:
    before = children()
    (tmp_path / "bad.py").write_text(source)
    processes = RewardProcesses(RewardConfig(functions=[f"{tmp_path}/bad.py:reward"], num_processes=2))
    with pytest.raises(RunError, match=f"reward bad.py:reward cannot start: .*{said}"):
        await processes.start()
    assert started_since(before) == []


@pytest.mark.timeout(300)
async def test_what_cannot_load_again_fails_all_that_wait(tmp_path: Path) -> None:
    before, source = children(), tmp_path / "moved.py"
    source.write_text(FAULTY.read_text())
    processes = RewardProcesses(RewardConfig(functions=[f"{source}:fault"], max_attempts=1))
    await processes.start()
    source.unlink()
    try:
        results = await asyncio.gather(
            *(processes.score(faulty(i, "os._exit" if i == 0 else None), rollout()) for i in range(8)),
            return_exceptions=True,
        )
    finally:
        await processes.close()
    assert isinstance(results[0], Failure)
    for result in results[1:]:
        assert isinstance(result, RunError)
        assert "cannot continue: reward moved.py:fault cannot start: reward.functions has" in str(result)
    assert started_since(before) == []


@pytest.mark.timeout(300)
def test_the_processes_die_with_their_parent() -> None:
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(FAULTY.parent)!r})
from reward_samples import prompt, rollout
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.processes import RewardProcesses

async def main():
    processes = RewardProcesses(RewardConfig(functions=["{FAULTY}:fault"], num_processes=2, timeout_s=1000))
    await processes.start()
    hang = asyncio.gather(*(processes.score(prompt(fault="loop", value=1.0), rollout()) for _ in range(2)))
    await asyncio.sleep(0.2)
    print("hanging", flush=True)
    await hang

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"hanging\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == 2
        parent.send_signal(signal.SIGKILL)
    _gone, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
