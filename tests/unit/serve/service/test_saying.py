"""Feedback, consent and deletion over HTTP."""

import asyncio
import sqlite3

import pytest

from serve.feedback.export import ExportConfig, RowKind, export
from serve.feedback.forget import ForgetConfig, forget
from serve.gateway import routing
from serve.gateway.auth import hash_key
from serve.gateway.gateway import REFRESH_S, Gateway
from serve.store.records import Role
from tests.unit.serve.service.conftest import KEYS, NOW, running
from tests.unit.serve.service.test_auth import CHAT

DEADLINE_S = 120
USER, OPERATOR = ({"authorization": f"Bearer {KEYS[name]}"} for name in ("user", "operator"))


@pytest.fixture
def shop(gateway):
    """A service where the shop has a user's key."""
    for role, key in KEYS.items():
        gateway.store.keys.add(hash_key(key), Role(role), "shop" if role == "user" else "op", NOW)
    gateway.routing_table = routing.read(gateway.store, gateway.config)
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
    request, events = store.requests.dialogue(id)
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
    assert store.requests.dialogue(id)[0].responses[0].text == "old says 0"
    withdrawn = shop.put("/v1/consent", json={**said, "given": False}, headers=USER).json()
    assert withdrawn == {"user": "shop/ann", "given": False, "text": "gone"}
    later = asked(shop, user="ann")
    for request in (id, later):
        found, _ = store.requests.dialogue(request)
        assert (found.messages, found.responses[0].text, found.status) == (None, None, 200)
    bystander = asked(shop, user="bob")
    deleted = shop.delete("/users/shop/ann", headers=OPERATOR).json()
    assert (deleted["requests"], deleted["consents"], deleted["text"]) == (2, 1, "gone")
    assert store.requests.dialogue(id) is None
    assert store.requests.dialogue(bystander)
    again = shop.delete("/users/shop/ann", headers=OPERATOR).json()
    assert again.pop("exports") == []
    assert set(again.values()) == {0, "gone"}


def test_who_leaves_is_said_to_be_in_exports_until_they_are_rewritten(shop, store, tmp_path, caplog):
    folder = tmp_path / "rows"
    for user in ("ann", "bob"):
        opinion = {"request_id": asked(shop, user=user), "user": user, "kind": "thumb", "value": 1}
        assert shop.post("/v1/feedback", json=opinion, headers=USER).status_code == 201
        withdrawal = {"user": user, "given": False}
    export(store, RowKind.labelled, folder, ExportConfig(max_user_share=1.0))
    answer = shop.put("/v1/consent", json=withdrawal, headers=USER).json()
    assert answer == {**withdrawal, "user": "shop/bob", "text": "gone"}
    assert f"consent was withdrawn for rows of {folder}: remove them with `python launch/forget.py`" in caplog.text
    for _ in range(2):
        assert shop.delete("/users/shop/ann", headers=OPERATOR).json()["exports"] == [str(folder)]
    forget(store, ForgetConfig(url="", roots=[]))
    assert shop.delete("/users/shop/ann", headers=OPERATOR).json()["exports"] == []
    assert (folder / "rows.jsonl").read_bytes() == b""


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


async def test_text_that_somebody_reads_while_it_is_deleted_is_gone_once_they_have_read_it(gateway, store, tmp_path):
    def on_disk() -> int:
        return sum(path.read_bytes().count(b"zephyrine") for path in tmp_path.iterdir())

    def delete(client) -> dict:
        return client.delete("/users/ann", headers=OPERATOR).json()

    gateway.store.keys.add(hash_key(KEYS["operator"]), Role.operator, "op", NOW)
    gateway.routing_table = routing.read(store, gateway.config)
    reader = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    with running(gateway) as client:
        body = {**CHAT, "user": "ann", "messages": [{"role": "user", "content": "zephyrine"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM requests").fetchone()
        deleted = delete(client)
        assert (deleted["requests"], deleted["text"]) == (1, "pending")
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["deleted_text_pending"]) == (200, True)
        assert on_disk() > 0
    # That gateway ends; the next one goes on.
    other = Gateway(gateway.config, store, gateway.call)
    async with other.background_refresh():
        await asyncio.sleep(2 * REFRESH_S)
        assert other.erasing
        assert on_disk() > 0
        reader.close()
        async with asyncio.timeout(DEADLINE_S):
            while other.erasing:
                await asyncio.sleep(0.02)
    assert on_disk() == 0
