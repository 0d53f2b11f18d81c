"""The judge's one owner: its limits hold for callers in several processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rlhf.types import RunError
from tests.unit.judges.server import config, running, verdict


class Engine:
    """A process that asks for ratings, as an engine's actor does."""

    async def rate(self, judge: Any, number: int) -> list[Any]:
        from rlhf.actors.judge_worker import rate_by
        from rlhf.judges.rubric import Answer

        question = [{"role": "user", "content": "2+2?"}]
        return await rate_by(judge)([Answer(dialogue=question, text=f"{number}/{i}") for i in range(4)])


def test_engines_share_a_judge_its_budget_and_its_key(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from rlhf.actors.judge_worker import JudgeOwner

    # Workers of the cluster have started without it.
    monkeypatch.setenv("MY_JUDGE", "sk-secret")

    async def scenario(url: str) -> None:
        settings = config(url, api_key_env="MY_JUDGE", max_requests=18, concurrency=2)
        owner = JudgeOwner(settings, tmp_path / "judge.jsonl")
        await owner.start()
        engines = [ray.remote(num_cpus=0)(Engine).remote() for _ in range(2)]
        rated = await asyncio.gather(*(engine.rate.remote(owner.actor, n) for engine in engines for n in range(2)))
        assert rated == [[0.75] * 4] * 4
        figures = await owner.take_figures()
        assert (figures["judge/requests"], figures["judge/failures"]) == (16.0, 0.0)
        with pytest.raises(Exception, match=r"reward\.judge\.max_requests=18: the judge's budget is used up after 18"):
            await engines[0].rate.remote(owner.actor, 2)
        ray.kill(owner.actor)
        with pytest.raises(RunError, match=r"the judge's actor died: .*; resume the run"):
            await owner.take_figures()

    with running() as server:
        server.reply = lambda number, body: verdict(4)
        asyncio.run(scenario(server.url))
        assert {request["key"] for request in server.requests} == {"Bearer sk-secret"}
        assert len(server.requests) == 18
        assert server.most_open <= 2
    assert len((tmp_path / "judge.jsonl").read_text().splitlines()) == 18
    assert "secret" not in (tmp_path / "judge.jsonl").read_text()
