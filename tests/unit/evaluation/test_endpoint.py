"""A suite's requests to an OpenAI-compatible endpoint over a real socket."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rlhf.evaluation.ask import Request
from rlhf.evaluation.endpoint import EndpointModel
from rlhf.evaluation.items import Answer, ChoiceLogprob
from rlhf.judges.config import EndpointConfig
from rlhf.types import InputError, RunError
from tests.unit.judges.server import Reply, Server, completion, running

QUESTION = ({"role": "user", "content": "首都？"},)


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as each:
        yield each


async def answer(server: Server, request: Request, **keys: Any) -> Answer:
    model = EndpointModel(EndpointConfig(url=server.url, model="m", **keys))
    try:
        return await model.answer(request)
    finally:
        await model.close()


def echoed(text: str, tokens: list[str], logprobs: list[float | None]) -> Reply:
    """The response to a request with `echo` and `logprobs`, one generated token included."""
    offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    found = {"tokens": tokens, "token_logprobs": logprobs, "text_offset": offsets, "top_logprobs": None}
    choice = {"index": 0, "text": text, "finish_reason": "length", "logprobs": found}
    return Reply(200, json.dumps({"object": "text_completion", "choices": [choice], "usage": {}}))


async def test_a_chat_answer(server):
    server.reply = lambda number, body: completion("北京", completion_tokens=7, finish="length")
    request = Request(item="i", sample=2, messages=QUESTION, chat=True, temperature=0.7, max_tokens=9, seed=5)
    assert await answer(server, request) == Answer(item="i", sample=2, text="北京", stop="length", num_tokens=7)
    (sent,) = server.requests
    assert sent["path"] == "/v1/chat/completions"
    assert sent["body"] == {
        "model": "m", "messages": list(QUESTION), "temperature": 0.7, "max_completion_tokens": 9, "seed": 5,
    }  # fmt: skip


async def test_a_plain_answer_goes_to_completions(server):
    body = {"choices": [{"index": 0, "text": " Paris", "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}
    server.reply = lambda number, _: Reply(200, json.dumps(body))
    found = await answer(server, Request(item="i", sample=0, messages=QUESTION, chat=False, max_tokens=4))
    assert (found.text, found.num_tokens) == (" Paris", 2)
    assert server.requests[0]["path"] == "/v1/completions"
    assert server.requests[0]["body"]["prompt"] == "首都？"


async def test_a_likelihood_is_the_sum_over_the_continuation_alone(server):
    server.reply = lambda number, body: echoed("", ["首", "都？", "北", "京", "。"], [None, -1.0, -0.5, -0.25, -9.0])
    request = Request(item="i", sample=0, messages=QUESTION, chat=False, continuations=("北京",))
    found = await answer(server, request)
    assert found.choices == (ChoiceLogprob(logprob=-0.75, num_tokens=2),)
    assert (
        server.requests[0]["body"] | {"prompt": "首都？北京", "echo": True, "logprobs": 1} == server.requests[0]["body"]
    )


async def test_the_first_token_of_a_text_has_no_likelihood(server):
    server.reply = lambda number, body: echoed("", ["天", "地", "!"], [None, -0.5, -7.0])
    found = await answer(server, Request(item="i", sample=0, messages=(), chat=True, continuations=("天地",)))
    assert found.choices == (ChoiceLogprob(logprob=-0.5, num_tokens=1),)


async def test_a_likelihood_in_a_chat_template_is_refused(server):
    with pytest.raises(InputError, match="set chat=false for the suite"):
        await answer(server, Request(item="i", sample=0, messages=QUESTION, chat=True, continuations=("a",)))


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (Reply(500, "overloaded"), "answered status 500 (overloaded)"),
        (Reply(401, "no"), "endpoint.api_key_env"),
        (Reply(200, "<html>"), "it must be a completion"),
        (Reply(200, '{"choices": []}'), "it must be a completion"),
    ],
)
async def test_a_failure_is_no_answer(server, reply, sentence):
    server.reply = lambda number, body: reply
    with pytest.raises(RunError, match="the same command continues with the answers it has") as raised:
        await answer(server, Request(item="i", sample=0, messages=QUESTION, chat=True), max_attempts=2, backoff_s=0.01)
    assert sentence in str(raised.value)
    assert len(server.requests) == (2 if reply.status == 500 else 1)


async def test_an_endpoint_that_does_not_echo_is_named(server):
    server.reply = lambda number, body: completion("x")
    with pytest.raises(RunError, match="it must echo the prompt with logprobs"):
        await answer(server, Request(item="i", sample=0, messages=QUESTION, chat=False, continuations=("a",)))
    assert len(server.requests) == 1


async def test_the_budget_stops_before_the_request_that_may_exceed_it(server):
    with pytest.raises(RunError, match="the endpoint has cost 0, and the next request may cost"):
        await answer(server, Request(item="i", sample=0, messages=QUESTION, chat=True, max_tokens=100),
                     completion_price=1e6, max_cost=50.0)  # fmt: skip
    assert server.requests == []
