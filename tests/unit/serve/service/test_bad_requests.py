"""What is refused: status, sentence and field; and the service answers the next request."""

import json
from dataclasses import replace

import httpx
import pytest

from rlhf.protocols.openai.generation import STOP_STRINGS
from rlhf.types import InputError, RunError
from serve.gateway import routes, routing
from serve.gateway.auth import hash_key
from serve.store.records import Role
from serve.store.releases import StaleRelease
from tests.unit.serve.service.conftest import command, running
from tests.unit.serve.service.engines import failing, overlong
from tests.unit.serve.service.test_auth import CHAT

COMPLETION = {"model": "assistant", "prompt": "hi"}
FEEDBACK = {"request_id": "unknown", "kind": "thumb", "value": 1}
JSON = {"content-type": "application/json"}
CHATS = "POST /v1/chat/completions"
COMPLETIONS = "POST /v1/completions"
SAY = "POST /v1/feedback"


def but(**fields: object) -> bytes:
    """A chat request with these fields instead."""
    return json.dumps({**CHAT, **fields}).encode()


def message(**fields: object) -> bytes:
    return but(messages=[{"role": "user", "content": "hi", **fields}])


def opinion(**fields: object) -> bytes:
    return json.dumps({**FEEDBACK, **fields}).encode()


BAD = {
    "unknown model": (CHATS, but(model="gpt-4"), 404, "model", "there is no 'gpt-4'; known are assistant, new, old"),
    "no model": (CHATS, b'{"messages": [{"role": "user", "content": "a"}]}', 400, "model", "model: Field required"),
    "no messages": (CHATS, b'{"model": "assistant"}', 400, "messages", "messages: Field required"),
    "empty messages": (CHATS, but(messages=[]), 400, "messages", "at least 1 item"),
    "many messages": (CHATS, but(messages=CHAT["messages"] * 5), 400, "messages", "5 are more than 4"),
    "wrong role": (CHATS, message(role="bot"), 400, "messages.0.role", "'user', 'assistant' or 'tool'"),
    "no text": (CHATS, message(content=None), 400, "messages.0.content", "messages.0.content: "),
    "an image": (CHATS, message(content=[{"type": "image_url"}]), 400, "messages.0.content", "messages.0.content: "),
    "field of a message": (CHATS, message(weight=1), 400, "messages.0.weight", "no such field"),
    "n of 0": (CHATS, but(n=0), 400, "n", "n: Input should be greater than or equal to 1"),
    "n of many": (CHATS, but(n=5), 400, "n", "n: 5 is more than 4; ask for fewer"),
    "n of a fraction": (CHATS, but(n=1.5), 400, "n", "n: Input should be a valid integer"),
    "n of true": (CHATS, but(n=True), 400, "n", "n: Input should be a valid integer"),
    "n of 5000 digits": (CHATS, but().replace(b"}]", b'}], "n": ' + b"9" * 3900), 400, "n", "is more than 4"),
    "no tokens": (CHATS, but(max_tokens=0), 400, "max_tokens", "greater than or equal to 1"),
    "many tokens": (CHATS, but(max_tokens=65), 400, "max_tokens", "max_tokens: 65 is more than 64; ask for less"),
    "many of the newer tokens": (CHATS, but(max_completion_tokens=65), 400, "max_tokens", "65 is more than 64"),
    "temperature NaN": (CHATS, but(temperature=float("nan")), 400, "temperature", "a finite number"),
    "temperature infinite": (CHATS, but(temperature=float("inf")), 400, "temperature", "a finite number"),
    "temperature below 0": (CHATS, but(temperature=-0.1), 400, "temperature", "greater than or equal to 0"),
    "temperature above 2": (CHATS, but(temperature=2.1), 400, "temperature", "less than or equal to 2"),
    "temperature in words": (CHATS, but(temperature="0.5"), 400, "temperature", "a valid number"),
    "top_p of 0": (CHATS, but(top_p=0), 400, "top_p", "greater than 0"),
    "top_p above 1": (CHATS, but(top_p=1.1), 400, "top_p", "less than or equal to 1"),
    "five stop strings": (CHATS, but(stop=["a"] * 5), 400, "stop", f"5 strings are more than {STOP_STRINGS}"),
    "empty stop string": (CHATS, but(stop=""), 400, "stop", "at least 1 character"),
    "long stop string": (CHATS, but(stop="a" * 65), 400, "stop", "at most 64 characters"),
    "seed of 65 bits": (CHATS, but(seed=2**63), 400, "seed", "less than 9223372036854775808"),
    "many logprobs": (CHATS, but(logprobs=True, top_logprobs=21), 400, "top_logprobs", "less than or equal to 20"),
    "empty user": (CHATS, but(user=""), 400, "user", "at least 1 character"),
    "long user": (CHATS, but(user="a" * 257), 400, "user", "at most 256 characters"),
    "user with NUL": (CHATS, but(user="a\0b"), 400, "user", "user: it has the character U+0000; leave it out"),
    "user with an escape": (CHATS, but(user="\x1b[2J"), 400, "user", "the character U+001B"),
    "model with NUL": (CHATS, but(model="\0"), 400, "model", "the character U+0000"),
    "key of metadata": (CHATS, but(metadata={"a\x85": "b"}), 400, "metadata", "the character U+0085"),
    "value of metadata": (CHATS, but(metadata={"a": "\x7f"}), 400, "metadata.a", "the character U+007F"),
    "long model": (CHATS, but(model="m" * 999), 404, "model", f"there is no '{'m' * 200}...'; known"),
    "long field": (CHATS, but(**{"f" * 999: 1}), 400, "f" * 200 + "...", "f...: there is no such field here"),
    "long key of a bias": (CHATS, but(logit_bias={"b" * 999: 101}), 400, f"logit_bias.{'b' * 189}...", "b...: Input"),
    "many digits of tokens": (CHATS, but(max_tokens=10**999), 400, "max_tokens", "0... is more than 64"),
    "long request_id": (SAY, opinion(request_id="r" * 999), 404, None, "r...: this user has no such request"),
    "request_id with NUL": (SAY, opinion(request_id="\0"), 400, "request_id", "the character U+0000"),
    "name with NUL": (SAY, opinion(kind="outcome", name="\0"), 400, "name", "the character U+0000"),
    "consent of NUL": ("PUT /v1/consent", b'{"user": "\\u0000", "given": true}', 400, "user", "the character U+0000"),
    "long route": (f"GET /{'x' * 999}", b"", 404, None, "x...: Not Found"),
    "unknown field": (CHATS, but(best_of=2), 400, "best_of", "best_of: there is no such field here; leave it out"),
    "field that is no word": (CHATS, but(**{"top-p": 1}), 400, "top-p", "top-p: there is no such field here"),
    "no body": (CHATS, b"", 400, None, "the body is not JSON"),
    "no JSON": (CHATS, b"model=assistant", 400, None, "the body is not JSON"),
    "half of it": (CHATS, but()[:-5], 400, None, "the body is not JSON"),
    "a list": (CHATS, b"[]", 400, None, "body: Input should be an object"),
    "not UTF-8": (CHATS, but(user="a").replace(b'"a"', b'"\xff"'), 400, None, "the body is not JSON"),
    "half a character": (CHATS, but(user="\ud800"), 400, None, "the body is not JSON"),
    "deep JSON": (CHATS, but(messages=0).replace(b"0", b"[" * 999 + b"]" * 999), 400, None, "recursion limit"),
    "long body": (CHATS, message(content="a" * 5000), 413, None, "more than 4096 bytes: send less"),
    "empty prompt": (COMPLETIONS, b'{"model": "assistant", "prompt": ""}', 400, "prompt", "none of them empty"),
    "chat as completion": (COMPLETIONS, but(prompt="a"), 400, "messages", "there is no such field here"),
    "feedback on nothing": (SAY, opinion(), 404, None, "request_id=unknown: this user has no such request"),
    "unknown feedback": (SAY, opinion(kind="stars"), 400, "kind", "'thumb', 'rating', 'edit', 'chosen' or 'outcome'"),
    "thumb of 2": (SAY, opinion(value=2), 400, None, "value=2.0: a thumb is 1 (up) or -1 (down)"),
    "value NaN": (SAY, opinion(value=float("nan")), 400, "value", "a finite number"),
    "choice below 0": (SAY, opinion(choice=-1), 400, "choice", "greater than or equal to 0"),
    "consent of nobody": ("PUT /v1/consent", b'{"given": true}', 400, "user", "user: name whose consent it is"),
    "consent of a kind": ("PUT /v1/consent", b'{"user": "a", "given": 1}', 400, "given", "a valid boolean"),
    "unknown route": ("GET /v1/embeddings", b"", 404, None, "GET /v1/embeddings: Not Found"),
    "vLLM's own route": ("POST /update_weights", b"{}", 404, None, "POST /update_weights: Not Found"),
    "documentation": ("GET /docs", b"", 404, None, "GET /docs: Not Found; GET /openapi.json lists the routes"),
    "wrong method": ("GET /v1/chat/completions", b"", 405, None, "Method Not Allowed"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_has_a_status_a_sentence_and_its_field(open_client, case):
    route, body, status, param, sentence = BAD[case]
    method, path = route.split()
    answer = open_client.request(method, path, content=body, headers=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, status, param), error
    assert error["type"] == "invalid_request_error"
    assert sentence in error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 500
    assert open_client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert open_client.app.state.gateway.ongoing == 0


def test_a_wrong_method_says_the_right_one(open_client):
    assert open_client.get("/v1/completions").headers["allow"] == "POST"


async def test_a_body_of_unknown_length_is_read_no_further_than_its_limit(gateway):
    parts_read = 0

    async def parts():
        nonlocal parts_read
        for _ in range(1000):
            parts_read += 1
            yield b" " * 1000

    transport = httpx.ASGITransport(routes.build(gateway, command))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=JSON) as client:
        assert (await client.post("/v1/chat/completions", content=parts())).status_code == 413
    assert parts_read == 5


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("there is no release yet; start one"), 400),
        (RunError("the model does not start"), 409),
        (StaleRelease("another process has changed it meanwhile"), 409),
    ],
)
def test_what_a_release_controller_refuses(gateway, error, status):
    async def refusing(name: str, /, **arguments: str) -> dict:
        raise error

    gateway.store.keys.add(hash_key("sk-1"), Role.operator, "op", 0.0)
    gateway.routing_table = routing.read(gateway.store, gateway.config)
    with running(gateway, refusing) as client:
        answer = client.post("/release/promote", json={}, headers={"authorization": "Bearer sk-1"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, str(error))


def test_what_may_be_asked_is_answered(open_client):
    """Every field at its limit."""
    asked = {
        **CHAT,
        "user": "某人\t" + "a" * 253,
        "metadata": {"conversation": "c", "of my own": "x\r\n\t🙂"},
        "n": 4,
        "max_completion_tokens": 64,
        "temperature": 2,
        "top_p": 1,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "logit_bias": {"5": -100},
        "seed": -(2**63),
        "stop": ["a" * 64] * STOP_STRINGS,
        "logprobs": True,
        "top_logprobs": 20,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "几点了？"}]},
            {"role": "assistant", "content": "", "name": "x"},
            {"role": "user", "content": "\0"},
        ],
    }
    answer = open_client.post("/v1/chat/completions", json=asked)
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2, 3]


def test_feedback_on_an_answer_of_another_user_looks_like_feedback_on_nothing(open_client):
    id = open_client.post("/v1/chat/completions", json={**CHAT, "user": "ann"}).json()["id"]
    said = {**FEEDBACK, "request_id": id}
    refused = open_client.post("/v1/feedback", json={**said, "user": "bob"})
    nothing = open_client.post("/v1/feedback", json={**said, "user": "bob", "request_id": "chatcmpl-0"})
    assert refused.status_code == nothing.status_code == 404
    assert refused.json()["error"]["message"] == nothing.json()["error"]["message"].replace("chatcmpl-0", id)
    assert open_client.post("/v1/feedback", json={**said, "user": "ann"}).status_code == 201
    unknown_choice = open_client.post("/v1/feedback", json={**said, "user": "ann", "choice": 2**70})
    assert unknown_choice.status_code == 400
    one = open_client.post("/v1/feedback", json={**said, "user": "ann", "kind": "chosen"})
    assert "ask for several with `n`" in one.json()["error"]["message"]


def test_what_an_engine_refuses_is_refused_in_its_words(client, engines):
    engines.behaviours["old"] = overlong
    for stream in (False, True):
        answer = client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the prompt is too long")


def test_a_store_that_fails_fails_no_answer(client, gateway, store, caplog):
    assert client.get("/ready").json()["status"] == "ok"
    gateway.recorder.patience_s = 0.5
    with store.database.writer.begin() as connection:
        for table in ("feedback", "responses", "requests", "consents"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    assert client.post("/v1/chat/completions", json=CHAT).json()["choices"]
    assert "[DONE]" in client.post("/v1/chat/completions", json={**CHAT, "stream": True}).text
    assert (len(gateway.recorder.waiting), gateway.recorder.lost, gateway.ongoing) == (2, 0, 0)
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["status"], ready.json()["records_waiting"]) == (503, "degraded", 2)
    assert "2 records wait for the store: no such table" in ready.json()["problems"][0]
    assert client.get("/health").status_code == 200
    said = client.post("/v1/feedback", json=FEEDBACK)
    assert (said.status_code, said.headers["retry-after"]) == (503, "1")
    assert said.json()["error"]["message"].startswith("the store does not answer: try again (request req-")
    assert "no such table" in caplog.text


def test_an_error_that_nobody_expects_is_a_sentence(gateway, engines, caplog):
    async def broken(name: str, /, **arguments: str) -> dict:
        raise ZeroDivisionError("a secret")

    engines.behaviours["old"] = failing(ZeroDivisionError("a secret"))
    gateway.store.keys.add(hash_key("sk-1"), Role.operator, "op", 0.0)
    gateway.routing_table = routing.read(gateway.store, gateway.config)
    with running(gateway, broken) as client:
        status = client.get("/release", headers={"authorization": "Bearer sk-1"})
        asked = client.post("/v1/chat/completions", json=CHAT)
        streamed = client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    for answer in (status, asked, streamed):
        assert answer.status_code == answer.json()["error"]["code"] == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "secret" not in answer.text
    kept = [request for request, _ in gateway.store.requests.dialogues()]
    assert [(request.status, request.error) for request in kept] == [(500, "ZeroDivisionError: a secret")] * 2
    for request in kept:
        assert f"{request.id} (request req-" in caplog.text
    assert kept[0].id in asked.json()["error"]["message"]
    assert gateway.ongoing == 0


def test_prompts_are_not_scored_by_engines_with_adapters(client, gateway):
    """vLLM would end the engine, and the next ones that the request is tried on."""
    scored = {"model": "assistant", "prompt": [[5, 6], [7]], "echo": True, "logprobs": 1, "max_tokens": 1}
    assert client.post("/v1/completions", json=scored).status_code == 200
    gateway.config.engine = replace(gateway.config.engine, max_adapters=2)
    refused = client.post("/v1/completions", json=scored)
    assert refused.status_code == 400
    assert "engines with adapters (engine.max_adapters=2)" in refused.json()["error"]["message"]
    for field in ("echo", "logprobs"):
        plain = {name: value for name, value in scored.items() if name != field}
        assert client.post("/v1/completions", json=plain).status_code == 200
