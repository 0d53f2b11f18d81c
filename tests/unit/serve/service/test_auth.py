"""Who may do what: every route, every kind of key."""

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from rlhf.types import InputError
from serve.gateway import routing
from serve.gateway.auth import Caller, authenticate, hash_key, make_key, require_ray_auth, require_user_keys
from serve.gateway.errors import ApiError
from serve.gateway.routes import RequireRole
from serve.store.records import Key, Role
from tests.unit.serve.service.conftest import KEYS, NOW, running

CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}
ROUTES = {
    ("GET", "/health"): (None, None, 200),
    ("GET", "/ready"): (None, None, 200),
    ("GET", "/openapi.json"): (None, None, 200),
    ("GET", "/v1/models"): (Role.user, None, 200),
    ("GET", "/v1/models/{name:path}"): (Role.user, None, 200),
    ("POST", "/v1/chat/completions"): (Role.user, CHAT, 200),
    ("POST", "/v1/completions"): (Role.user, {"model": "assistant", "prompt": "hi"}, 200),
    ("POST", "/v1/feedback"): (Role.user, {"request_id": "unknown", "kind": "thumb", "value": 1}, 404),
    ("PUT", "/v1/consent"): (Role.user, {"given": True}, 200),
    ("DELETE", "/users/{user:path}"): (Role.operator, None, 200),
    ("GET", "/release"): (Role.operator, None, 200),
    ("POST", "/release/start"): (Role.operator, {"name": "new", "folder": "anywhere"}, 200),
    ("POST", "/release/promote"): (Role.operator, {}, 200),
    ("POST", "/release/rollback"): (Role.operator, {"reason": "it lies"}, 200),
}
"""Role, a body, and the status that somebody gets who may: an unknown request is 404 once it is authorized."""


def roles(route: APIRoute) -> list[Role]:
    return [one.call.role for one in route.dependant.dependencies if isinstance(one.call, RequireRole)]


def known_key(key: str, role: Role) -> Key:
    return Key(hash=hash_key(key), role=role, owner="ann", at=0.0)


def test_every_route_has_one_role_and_is_in_this_table(open_client):
    api: FastAPI = open_client.app
    assert all(isinstance(route, APIRoute) for route in api.routes), "a mount or a page has no role"
    found = {(method, route.path): roles(route) for route in api.routes for method in route.methods}
    assert found == {place: [role] if role else [] for place, (role, _, _) in ROUTES.items()}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_with_every_key(keyed_client, method, path):
    needed, body, status = ROUTES[method, path]
    allowed = {None: ["none", "wrong", *KEYS], Role.user: [*KEYS], Role.operator: ["operator"]}[needed]
    for name in ("none", "wrong", "user", "operator"):
        headers = {} if name == "none" else {"authorization": f"Bearer {KEYS.get(name, 'sk-wrong')}"}
        answer = keyed_client.request(
            method, path.replace("{user:path}", "a/b").replace("{name:path}", "old"), json=body, headers=headers
        )
        expected = status if name in allowed else 403 if name in KEYS else 401
        assert answer.status_code == expected, (name, answer.text)
        assert ("www-authenticate" in answer.headers) == (expected == 401)
        if expected in (401, 403):
            error = answer.json()["error"]
            assert error["code"] == expected
            assert ("operator" if expected == 403 else "Authorization: Bearer") in error["message"]


def test_who_has_no_key_is_told_so_before_the_body_is_read(keyed_client):
    answer = keyed_client.post("/v1/chat/completions", content=b"x" * 100_000)
    assert answer.status_code == 401


def test_without_keys_everyone_on_this_machine_is_a_user(open_client):
    for headers in ({}, {"authorization": "Bearer anything"}):
        assert open_client.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 200
        assert open_client.get("/release", headers=headers).status_code == 403


def test_an_operators_key_alone_closes_nothing_to_users():
    keys = {key.hash: key for key in [known_key("sk-1", Role.operator)]}
    assert authenticate(None, keys, keyless=True) == Caller(Role.user, "")
    assert authenticate("bearer  sk-1 ", keys, keyless=True) == Caller(Role.operator, "ann")
    with pytest.raises(ApiError, match="is missing"):
        authenticate(None, keys, keyless=False)


def test_revoking_the_last_users_key_opens_nothing(gateway, store):
    def statuses() -> list[int]:
        gateway.routing_table = routing.read(store, gateway.config)
        with running(gateway) as client:
            headers = [{}, {"authorization": f"Bearer {KEYS['user']}"}]
            return [client.get("/v1/models", headers=one).status_code for one in headers]

    store.keys.add(hash_key(KEYS["operator"]), Role.operator, "op", NOW)
    assert statuses() == [200, 200]
    store.keys.add(hash_key(KEYS["user"]), Role.user, "shop", NOW)
    assert statuses() == [401, 200]
    store.keys.remove(hash_key(KEYS["user"]))
    assert statuses() == [401, 401], "nor after a restart, which reads the same store"


@pytest.mark.parametrize("header", ["sk-1", "Basic sk-1", "Bearer", "Bearer sk-1 sk-1", "Bearer \xff", ""])
def test_what_is_no_bearer_of_a_known_key_is_refused(header):
    with pytest.raises(ApiError) as refused:
        authenticate(header, {hash_key("sk-1"): known_key("sk-1", Role.user)}, keyless=False)
    assert refused.value.status == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_other_addresses_are_refused_until_a_user_has_a_key(host):
    with pytest.raises(InputError, match=r"http\.host=.*keys\.py add"):
        require_user_keys(host, [known_key("sk-1", Role.operator)])
    require_user_keys(host, [known_key("sk-1", Role.user)])


@pytest.mark.parametrize("host", ["0.0.0.0", "example.org"])
def test_other_addresses_are_refused_where_rays_authentication_is_off(host):
    with pytest.raises(InputError, match=r"http\.host=.*authentication is off.*RAY_AUTH_MODE=token"):
        require_ray_auth(host, authenticated=False)
    require_ray_auth(host, authenticated=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_key(host):
    require_user_keys(host, [])
    require_ray_auth(host, authenticated=False)


def test_a_key_is_not_in_the_store(store, tmp_path):
    key = make_key()
    store.keys.add(hash_key(key), Role.user, "ann", 0.0)
    assert store.keys.get(hash_key(key)).owner == "ann"
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("store.db*"))
    assert hash_key(key).encode() in kept
    assert key.encode() not in kept
    assert key.removeprefix("sk-").encode() not in kept


def test_users_are_their_key_owners():
    assert Caller(Role.user, "shop").user("ann") == "shop/ann"
    assert Caller(Role.user, "shop").user(None) == "shop"
    assert Caller(Role.user, "").user("ann") == "ann"
    assert Caller(Role.user, "").user(None) is None
