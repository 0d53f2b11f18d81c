"""What HTTP itself says of a request: its host and the kind of its body."""

import json

import pytest

from serve.transport import is_own
from tests.unit.serve.service.conftest import running
from tests.unit.serve.service.test_doors import CHAT

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
    assert f"is not {host!r}; ask localhost, or add the name to doors.names" in answer.json()["error"]["message"]
    assert open_client.get("/ready", headers={"host": host}).status_code == 421


def test_a_configured_name_is_answered_and_any_where_users_need_keys(gateway):
    with running(gateway, url="http://proxy.example") as client:
        assert client.get("/health").status_code == 421
        gateway.config.doors.names = ["proxy.example"]
        assert client.get("/health").status_code == 200
        gateway.config.doors.names, gateway.config.doors.host = [], "10.0.0.7"
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
