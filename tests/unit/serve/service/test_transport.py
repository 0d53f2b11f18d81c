"""What HTTP itself says of a request: its host and the kind of its body."""

import asyncio
import json
import re

import pytest
from ray.exceptions import ActorDiedError
from starlette.testclient import TestClient

from serve.gateway import routes, routing
from serve.gateway.auth import hash_key
from serve.gateway.transport import is_own
from serve.store.records import Role
from tests.unit.serve.service.conftest import command, running
from tests.unit.serve.service.engines import failing, silent
from tests.unit.serve.service.test_auth import CHAT
from tests.unit.serve.service.test_gateway import kept, until

RAW = json.dumps(CHAT).encode()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "127.8.8.8:1", "[::1]:8000", "proxy.example"]
)
def test_a_host_of_this_machine_or_a_configured_one_is_answered(host):
    assert is_own(host, ["Proxy.example"])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example",
     "10.0.0.7:8000", "[::2]:8000", "[::1", "0.0.0.0", ""],
)  # fmt: skip
def test_any_other_host_is_refused(open_client, host):
    answer = open_client.post("/v1/chat/completions", json=CHAT, headers={"host": host})
    assert answer.status_code == answer.json()["error"]["code"] == 421
    assert f"is not {host!r}; ask localhost, or add the name to http.names" in answer.json()["error"]["message"]
    assert open_client.get("/ready", headers={"host": host}).status_code == 421


def test_a_configured_name_is_answered_and_any_where_users_need_keys(gateway):
    with running(gateway, url="http://proxy.example") as client:
        assert client.get("/health").status_code == 421
        gateway.config.http.names = ["proxy.example"]
        assert client.get("/health").status_code == 200
        gateway.config.http.names, gateway.config.http.host = [], "10.0.0.7"
        assert client.get("/health").status_code == 200
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 401


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "text/json", "json"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("PUT", "/v1/consent")])
def test_a_body_that_is_not_said_to_be_json_is_refused(open_client, method, path, kind):
    headers = {} if kind is None else {"content-type": kind}
    answer = open_client.request(method, path, content=RAW, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, 415)
    assert "send `Content-Type: application/json`" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"])
def test_json_is_read(open_client, kind):
    answer = open_client.post("/v1/chat/completions", content=RAW, headers={"content-type": kind})
    assert answer.status_code == 200


def test_an_empty_body_needs_no_kind(keyed_client):
    headers = {"authorization": "Bearer sk-of-an-operator"}
    assert keyed_client.post("/release/promote", headers=headers).status_code == 200


def test_no_other_origin_is_let_in(open_client):
    origin = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    asked = open_client.options("/v1/chat/completions", headers=origin)
    read = open_client.get("/v1/models", headers=origin)
    assert (asked.status_code, read.status_code) == (405, 200)
    assert not [name for answer in (asked, read) for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("given", ["a", "req-1", "A/b:c=9~", "x" * 128])
def test_a_requests_own_id_is_taken_over(open_client, given):
    answer = open_client.get("/health", headers={"x-request-id": given})
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "two words", "\x7f", "\xe9"])
def test_any_other_request_gets_an_id(open_client, given):
    headers = {} if given is None else {"x-request-id": given.encode("latin-1")}
    answers = [open_client.get("/health", headers=headers) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert all(re.fullmatch("req-[0-9a-f]{32}", id) for id in ids)


def test_every_kind_of_response_bears_its_id_and_errors_of_the_service_name_it(gateway, engines, caplog):
    async def broken(name: str, /, **arguments: str) -> dict:
        raise ZeroDivisionError

    engines.behaviours["old"] = failing(ActorDiedError(), after=1)
    gateway.store.keys.add(hash_key("sk-1"), Role.operator, "op", 0.0)
    gateway.routing_table = routing.read(gateway.store, gateway.config)
    requests = {
        200: ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
        404: ("GET", "/nowhere", None),
        405: ("GET", "/v1/completions", None),
        400: ("POST", "/v1/chat/completions", {}),
        421: ("GET", "/health", None),
        500: ("GET", "/release", None),
        503: ("POST", "/v1/completions", {"model": "assistant", "prompt": "hi"}),
    }
    with running(gateway, broken) as client:
        for status, (method, path, body) in requests.items():
            if status == 503:
                engines.behaviours["old"] = failing(ActorDiedError())
            headers = {"x-request-id": f"mine-{status}", "authorization": "Bearer sk-1"}
            headers |= {"host": "evil.example"} if status == 421 else {}
            answer = client.request(method, path, json=body, headers=headers)
            assert answer.status_code == status, answer.text
            assert answer.headers.get_list("x-request-id") == [f"mine-{status}"]
            named = f"(request mine-{status})" in answer.text
            assert named == (status in (200, 500, 503)), "the stream ends with an error of the service"
    for status in (200, 500, 503):
        assert f"request mine-{status}" in caplog.text


def test_behind_serves_proxy_which_adds_the_header_there_is_no_second_one(gateway):
    with TestClient(routes.build(gateway, command, send_ids=False), "http://localhost") as client:
        assert "x-request-id" not in client.get("/health", headers={"x-request-id": "a"}).headers


async def test_a_client_that_goes_before_its_whole_answer_ends_it(gateway, engines):
    engines.behaviours["old"] = silent
    body = json.dumps({"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}).encode()
    events = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict:
        if events:
            return events.pop()
        await until(lambda: engines.asked)
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        """To nobody."""

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    async with asyncio.timeout(30):
        await routes.build(gateway, command)(scope, receive, send)
    (request,) = kept(gateway)
    assert (request.status, request.error) == (499, "the client went away")
    assert engines.closed == 1
    assert gateway.ongoing == 0
