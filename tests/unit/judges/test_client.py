"""Requests to a chat endpoint over a real socket: what it is sent, and what its faults become."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from pydantic import SecretStr

from rlhf.judges.client import JudgeClient
from rlhf.judges.config import JudgeConfig
from rlhf.judges.pace import Pace
from rlhf.protocols.openai.chat import ChatCompletionRequest
from rlhf.types import Failure, InputError, RunError
from tests.unit.judges.server import FakeTime, Reply, Server, completion, config

MESSAGES = [{"role": "system", "content": "Rate."}, {"role": "user", "content": "问题"}]
SCHEMA = {"type": "object", "properties": {"rating": {"type": "integer"}}, "required": ["rating"]}
PRICES = {"prompt_price": 2.0, "completion_price": 10.0}


async def ask(settings: JudgeConfig, times: int = 1, **keys: Any) -> tuple[list[Any], JudgeClient, FakeTime]:
    """Replies, failures or errors of requests that are made at once."""
    time = FakeTime()
    pace = Pace(requests_per_minute=settings.requests_per_minute, now=time, sleep=time.sleep)
    client = JudgeClient(settings, keys.get("key"), pace=pace, ledger_file=keys.get("ledger_file"))
    results = await asyncio.gather(*(client.ask(MESSAGES, SCHEMA) for _ in range(times)), return_exceptions=True)
    await client.close()
    return results, client, time


async def test_the_request_is_a_chat_completion_with_a_schema_and_a_key(server: Server):
    server.reply = lambda number, body: completion("好")
    settings = config(f"{server.url}/", temperature=0.5, max_tokens=77)
    results, _, _ = await ask(settings, key=SecretStr("sk-1"))
    assert results == ["好"]
    (sent,) = server.requests
    assert (sent["path"], sent["key"]) == ("/v1/chat/completions", "Bearer sk-1")
    assert sent["body"] == {
        "model": "judge",
        "messages": MESSAGES,
        "max_completion_tokens": 77,
        "temperature": 0.5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA},
        },
    }
    # The service of this project takes it, too.
    assert ChatCompletionRequest.model_validate(sent["body"]).max_completion_tokens == 77


async def test_other_formats_and_the_servers_own_temperature(server: Server):
    server.reply = lambda number, body: completion("x")
    await ask(config(server.url, response_format="text", temperature=None))
    assert server.requests[0]["body"]["response_format"] == {"type": "text"}
    assert "temperature" not in server.requests[0]["body"]
    assert server.requests[0]["key"] is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_a_fault_that_may_pass_is_tried_again_after_longer_and_longer_waits(server: Server, status: int):
    server.reply = lambda number, body: Reply(status, "busy") if number <= 3 else completion("ok")
    results, client, time = await ask(config(server.url, backoff_s=4.0, max_wait_s=10.0))
    assert results == ["ok"]
    assert len(server.requests) == 4
    assert [low <= wait <= 2 * low for low, wait in zip((2.0, 4.0, 5.0), time.slept, strict=True)] == [True] * 3
    figures = client.take_figures()
    assert {name: figures[f"judge/{name}"] for name in ("requests", "retries", "failures")} == {
        "requests": 4.0, "retries": 3.0, "failures": 0.0,
    }  # fmt: skip
    assert client.take_figures()["judge/requests"] == 0.0


async def test_a_stated_wait_holds_for_every_request(server: Server):
    server.reply = lambda number, body: Reply(429, "", {"Retry-After": "30"}) if number == 1 else completion("ok")
    results, _, time = await ask(config(server.url, concurrency=1, backoff_s=1.0), times=3)
    assert results == ["ok"] * 3
    assert time.slept == [30.0]


async def test_too_long_a_stated_wait_is_a_failure(server: Server):
    server.reply = lambda number, body: Reply(429, "come back tomorrow", {"Retry-After": "86400"})
    results, client, time = await ask(config(server.url))
    assert results == [
        Failure(
            kind="reward_error",
            message=f"judge {server.url}/chat/completions answered status 429 (come back tomorrow): it asks for fewer "
            "requests",
        )
    ]
    assert (len(server.requests), time.slept, client.take_figures()["judge/failures"]) == (1, [], 1.0)


async def test_attempts_are_bounded(server: Server):
    server.reply = lambda number, body: Reply(500, "Traceback\n out of memory")
    (failure,), _, _ = await ask(config(server.url, max_attempts=3))
    assert failure.kind == "reward_error"
    assert failure.message.endswith("answered status 500 (Traceback out of memory): look at its log")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(401, '{"error": "no such key"}'), "reward_error", '({"error": "no such key"}): give a valid key in the'),
        (Reply(404, ""), "reward_error", "status 404 (nothing): correct reward.judge.url or"),
        (Reply(200, "<html>"), "reward_invalid", "answered <html>: it must be a chat completion with a text"),
        (Reply(200, "[]"), "reward_invalid", "answered []: it must be"),
        (Reply(200, "[" * 100_000), "reward_invalid", "...: it must be a chat completion"),
        (Reply(200, '{"choices": []}'), "reward_invalid", "it must be a chat completion with a text"),
        (Reply(200, '{"choices": [{"message": {"content": null}}]}'), "reward_invalid", "it must be"),
        (completion(" "), "reward_invalid", "it must be"),
        (completion("half a", finish="length"), "reward_invalid", "ended at reward.judge.max_tokens=1024 within its"),
    ],
)
async def test_a_fault_that_would_recur_is_not_tried_again(server: Server, reply: Reply, kind: str, said: str):
    server.reply = lambda number, body: reply
    (failure,), client, _ = await ask(config(server.url))
    assert failure.kind == kind
    assert said in failure.message
    assert "\n" not in failure.message
    assert (len(server.requests), client.take_figures()["judge/failures"]) == (1, 1.0)


async def test_a_server_that_is_down_is_named_and_costs_nothing():
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        (failure,), client, _ = await ask(config(url, max_attempts=2, **PRICES))
    assert failure.kind == "reward_error"
    assert failure.message.startswith(f"judge {url}/chat/completions cannot be reached (ConnectionRefusedError: ")
    assert failure.message.endswith("): start the server, or correct reward.judge.url")
    assert client.ledger.cost == 0.0


async def test_a_slow_server_is_a_timeout_and_is_charged_at_most(server: Server):
    def slow_once(number: int, body: Any) -> Reply:
        if number == 1:
            server.release.wait()
        return completion("ok", prompt_tokens=10, completion_tokens=5)

    server.reply = slow_once
    results, client, _ = await ask(config(server.url, timeout_s=0.5, **PRICES))
    assert results == ["ok"]
    body = server.requests[0]["body"]
    assert client.ledger.cost == pytest.approx(client.largest_cost(body) + (10 * 2 + 5 * 10) / 1e6)

    server.reply = lambda number, body: (server.release.wait(), completion("late"))[1]
    (failure,), _, _ = await ask(config(server.url, timeout_s=0.2, max_attempts=1))
    assert failure.kind == "reward_timeout"
    assert "gave no reply within reward.judge.timeout_s=0.2; raise it" in failure.message


async def test_no_more_requests_are_open_than_allowed(server: Server):
    server.reply = lambda number, body: completion("ok")
    results, _, _ = await ask(config(server.url, concurrency=3), times=40)
    assert results == ["ok"] * 40
    assert server.most_open <= 3


async def test_retries_count_against_the_rate(server: Server):
    server.reply = lambda number, body: Reply(500, "") if number % 2 else completion("ok")
    settings = config(server.url, requests_per_minute=6, backoff_s=0.001, concurrency=1)
    _, _, time = await ask(settings, times=5)
    assert len(server.requests) == 10
    assert time.now == pytest.approx(90.0)  # nine distances of ten seconds


async def test_the_cost_is_what_the_server_states_and_the_budget_is_never_exceeded(server: Server, tmp_path):
    server.reply = lambda number, body: completion("ok", prompt_tokens=50, completion_tokens=20)
    each, largest = (50 * 2 + 20 * 10) / 1e6, 0.0107  # of 1024 tokens written, and some read
    settings = config(server.url, max_cost=0.02, **PRICES)
    results, client, _ = await ask(settings, times=60, ledger_file=tmp_path / "judge.jsonl")
    paid = [result for result in results if result == "ok"]
    assert 0.02 - largest - each < client.ledger.cost <= 0.02
    assert client.ledger.cost == pytest.approx(len(paid) * each)
    assert len(server.requests) == len(paid) < 60
    assert {type(result) for result in results if result != "ok"} == {RunError}
    assert client.take_figures()["judge/total_cost"] == client.ledger.cost
    # A continued run has the same budget.
    results, _, _ = await ask(settings, ledger_file=tmp_path / "judge.jsonl")
    assert isinstance(results[0], RunError)
    assert "raise it, and resume the run" in str(results[0])


async def test_the_largest_cost_bounds_a_tokenizer_of_bytes(server: Server):
    client = JudgeClient(config(server.url, prompt_price=1e6), None)
    body = client.body([{"role": "user", "content": "问题" * 50}], SCHEMA)
    assert client.largest_cost(body) >= len(("问题" * 50).encode())
    await client.close()


@pytest.mark.parametrize("tokens", [-(10**9), 10**400], ids=["negative", "huge"])
async def test_a_number_of_tokens_that_cannot_be_is_charged_at_most(server: Server, tokens: int):
    server.reply = lambda number, body: completion("ok", prompt_tokens=tokens)
    results, client, _ = await ask(config(server.url, **PRICES))
    assert results == ["ok"]
    assert client.ledger.cost == pytest.approx(client.largest_cost(server.requests[0]["body"]))


async def test_a_reply_that_breaks_off_is_charged_at_most(server: Server):
    server.reply = lambda number, body: Reply(200, "no gzip", {"Content-Encoding": "gzip"})
    (failure,), client, _ = await ask(config(server.url, max_attempts=1, **PRICES))
    assert failure.kind == "reward_error"
    assert client.ledger.cost == pytest.approx(client.largest_cost(server.requests[0]["body"]))


async def test_a_reply_without_end_does_not_fill_the_memory(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlhf.judges.endpoint.LARGEST_REPLY", 1000)
    server.reply = lambda number, body: Reply(200, " " * 10_000_000)
    (failure,), client, _ = await ask(config(server.url))
    assert failure.kind == "reward_invalid"
    assert client.counts["retries"] == 0


async def test_texts_that_utf8_does_not_hold_are_sent_and_quoted(server: Server):
    server.reply = lambda number, body: Reply(400, '"no"')
    client = JudgeClient(config(server.url), None)
    failure = await client.ask([{"role": "user", "content": "half a pair: \ud83d"}], SCHEMA)
    assert server.requests[0]["body"]["messages"][0]["content"] == "half a pair: \ud83d"
    assert isinstance(failure, Failure)
    assert failure.message.encode()
    await client.close()


async def test_an_address_that_no_request_can_have_is_refused():
    with pytest.raises(InputError, match=r"^reward\.judge\.url='http://xn--/v1': it is no address"):
        JudgeClient(config("http://xn--/v1"), None)
