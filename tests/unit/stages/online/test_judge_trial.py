"""A judge is tried before a run holds accelerators, and its key is written nowhere."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator

import pytest

from rlhf.config import as_plain
from rlhf.stages.online.dry_run import try_episodes
from rlhf.stages.online.job import Job
from rlhf.types import InputError
from tests.unit.judges.server import Reply, Server, completion, running, verdict


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as each:
        yield each


def judge(url: str, *overrides: str) -> list[str]:
    return ["reward=judge", f"reward.judge.url={url}", "reward.judge.model=j", *overrides]


def test_the_judge_rates_the_first_rows_own_answer_once(job: Callable[..., Job], server: Server, monkeypatch, capsys):
    monkeypatch.setenv("MY_JUDGE", "sk-secret")
    server.reply = lambda number, body: verdict(4)
    prepared = job(*judge(server.url, "reward.judge.api_key_env=MY_JUDGE", "reward.judge.completion_price=100"))
    asyncio.run(try_episodes(prepared, show=True))
    printed = capsys.readouterr()
    assert "the judge rates the first row's own answer 0.75 of 1, for 0.001" in " ".join(printed.out.split())
    (sent,) = server.requests
    assert sent["key"] == "Bearer sk-secret"
    assert "secret" not in printed.out + printed.err + json.dumps(as_plain(prepared.config))


@pytest.mark.parametrize(
    ("reply", "overrides", "said"),
    [
        (Reply(401, "no such key"), [], "answered status 401 (no such key)"),
        (Reply(503, "loading"), [], "answered status 503 (loading): look at its log"),
        (completion("Good answer!"), [], 'wrote Good answer!: it must be {"reason": "...", "rating": NUMBER}'),
        (verdict(9), [], "with a rating from 1 to 5, and nothing else"),
        (
            verdict(5),
            ["reward.judge.completion_price=10", "reward.judge.max_cost=0.001"],
            "reward.judge.max_cost=0.001: the judge has cost 0, and the next request may cost 0.01024",
        ),
    ],
)
def test_a_judge_that_cannot_rate_stops_a_run_in_one_sentence(job, server: Server, reply, overrides, said):
    server.reply = lambda number, body: reply
    with pytest.raises(InputError) as caught:
        asyncio.run(try_episodes(job(*judge(server.url, *overrides)), show=False))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) <= 1


def test_a_judge_that_is_down_or_slow_stops_a_run(job, server: Server):
    server.reply = lambda number, body: (server.release.wait(), verdict(5))[1]
    with pytest.raises(InputError, match=r"gave no reply within reward\.judge\.timeout_s=0\.2; raise it"):
        asyncio.run(try_episodes(job(*judge(server.url, "reward.judge.timeout_s=0.2")), show=False))
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=r"cannot be reached \(ConnectionRefusedError.*reward\.judge\.url$"):
            asyncio.run(try_episodes(job(*judge(url)), show=False))


def test_a_key_that_is_not_set_is_reported_before_anything_is_loaded(job, server: Server, monkeypatch):
    monkeypatch.delenv("MY_JUDGE", raising=False)
    with pytest.raises(InputError, match=r"^reward\.judge\.api_key_env=MY_JUDGE: this environment variable is not set"):
        job("model=nowhere", *judge(server.url, "reward.judge.api_key_env=MY_JUDGE"))
