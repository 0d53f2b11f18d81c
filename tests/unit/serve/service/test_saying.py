"""Feedback, consent and deletion over HTTP."""

import pytest

from serve import directions
from serve.doors import Role, hash_key
from tests.unit.serve.service.conftest import KEYS, NOW, running
from tests.unit.serve.service.test_doors import CHAT

USER, OPERATOR = ({"authorization": f"Bearer {KEYS[name]}"} for name in ("user", "operator"))


@pytest.fixture
def shop(gateway):
    """A service where the shop has a user's key."""
    for role, key in KEYS.items():
        gateway.store.add_key(hash_key(key), Role(role), "shop" if role == "user" else "op", NOW)
    gateway.directions = directions.read(gateway.store, gateway.config)
    with running(gateway) as client:
        yield client


def asked(client, **fields) -> str:
    return client.post("/v1/chat/completions", json={**CHAT, **fields}, headers=USER).json()["id"]


@pytest.mark.parametrize("user", ["ann", None])
def test_feedback_is_kept_with_what_it_is_about(shop, store, user):
    id = asked(shop, n=2, **({"user": user} if user else {}))
    opinions = [
        {"kind": "thumb", "value": -1},
        {"kind": "rating", "value": 4, "choice": 1},
        {"kind": "edit", "text": "三点。"},
        {"kind": "chosen", "choice": 1},
        {"kind": "outcome", "name": "bought", "value": 9.5},
    ]
    ids = []
    for opinion in opinions:
        answer = shop.post("/v1/feedback", json={"request_id": id, "user": user, **opinion}, headers=USER)
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["id"])
    request, events = store.dialogue(id)
    assert request.user == ("shop/ann" if user else "shop")
    assert sorted(event.id for event in events) == sorted(ids)
    assert {event.kind: (event.value, event.text, event.name, event.choice) for event in events} == {
        one["kind"]: (one.get("value"), one.get("text"), one.get("name"), one.get("choice", 0)) for one in opinions
    }


def test_a_key_speaks_for_its_own_users_alone(shop, store):
    id = asked(shop, user="ann")
    opinion = {"request_id": id, "user": "shop/ann", "kind": "thumb", "value": 1}
    assert shop.post("/v1/feedback", json=opinion, headers=OPERATOR).status_code == 404
    assert shop.post("/v1/feedback", json=opinion, headers=USER).status_code == 404, "that is shop/shop/ann"


def test_consent_withdrawn_forgets_texts_and_deletion_everything(shop, store):
    said = {"user": "ann", "given": True}
    assert shop.put("/v1/consent", json=said, headers=USER).json() == {**said, "user": "shop/ann"}
    id = asked(shop, user="ann")
    assert store.dialogue(id)[0].responses[0].text == "old says 0"
    shop.put("/v1/consent", json={**said, "given": False}, headers=USER)
    later = asked(shop, user="ann")
    for request in (id, later):
        found, _ = store.dialogue(request)
        assert (found.messages, found.responses[0].text, found.status) == (None, None, 200)
    bystander = asked(shop, user="bob")
    deleted = shop.delete("/users/shop/ann", headers=OPERATOR).json()
    assert (deleted["requests"], deleted["consents"]) == (2, 1)
    assert store.dialogue(id) is None
    assert store.dialogue(bystander)
    assert set(shop.delete("/users/shop/ann", headers=OPERATOR).json().values()) == {0}


def test_operators_are_named_in_what_they_command(shop):
    answer = shop.post("/release/rollback", json={"reason": "it lies"}, headers=OPERATOR).json()
    assert answer == {"command": "roll_back", "by": "op", "reason": "it lies"}
    start = {"name": "next", "folder": "models/next"}
    answer = shop.post("/release/start", json=start, headers=OPERATOR)
    # `name` is the candidate's, beside the command's own.
    assert answer.json() == {"command": "start", "by": "op", "reason": "", **start}


def test_a_user_to_delete_has_a_name_that_can_be(shop):
    answer = shop.delete("/users/shop/a%00b", headers=OPERATOR)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "user")
    assert "the character U+0000" in answer.json()["error"]["message"]
