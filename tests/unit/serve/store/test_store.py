"""What the store keeps, refuses and forgets, on SQLite and on PostgreSQL."""

import dataclasses
from pathlib import Path

import pytest

from rlhf.types import InputError
from serve.store.database import Erasure
from serve.store.records import Traffic, Variant
from serve.store.requests import PAGE, UnknownRequest
from serve.store.store import Store
from tests.oracles.traffic import traffic as traffic_of
from tests.unit.serve.samples import asked, exposed, said


def kept(store: Store, request_id: str):
    return store.requests.dialogue(request_id)


def test_what_was_recorded_comes_back(store):
    store.people.set_consent("ann", True, 1.0)
    first = asked("几点了？\n", "三点。", "四点。", id="a", sampling={"seed": 2**40, "stop": ["。"]})
    refused = asked(id="b", at=11.0, status=400, error="n=1000: at most 4", responses=(), first_token_s=None)
    store.requests.record([first, refused])
    edit = said(first, "edit", text="三点一刻。", choice=1)
    thumb = said(first, "thumb", -1, at=10.5)
    store.requests.add_feedback(edit)
    store.requests.add_feedback(thumb)
    assert list(store.requests.dialogues()) == [(first, [thumb, edit]), (refused, [])]
    assert kept(store, "c") is None


def test_text_that_a_database_cannot_hold_is_replaced(store):
    store.people.set_consent("ann", True, 1.0)
    odd = asked("a\0b\ud800", "c\0d\udfff", sampling={"temperature": float("nan")})
    store.requests.record([odd])
    request, _ = kept(store, odd.id)
    assert request.responses[0].text == "c\ufffdd?"
    assert request.messages[0]["content"] == "a\0b?"
    assert request.sampling == {"temperature": None}


def test_all_requests_of_a_call_are_kept_or_none(store):
    store.requests.record([asked(id="a")])
    with pytest.raises(Exception, match="variant"):
        store.requests.record([asked(id="b"), asked(id="c", variant=None)])
    assert kept(store, "b") is None


def test_a_request_that_is_written_twice_is_kept_once(store):
    """The answer to the first time may get lost."""
    store.requests.record([asked(id="a")])
    store.requests.record([asked(id="a", prompt_tokens=8), asked("x", "y", "z", id="b")])
    assert kept(store, "a")[0].prompt_tokens == 7
    assert [response.text for response in kept(store, "a")[0].responses] == [None]
    assert len(kept(store, "b")[0].responses) == 2


@pytest.mark.parametrize(("default", "texts"), [(False, False), (True, True)])
def test_consent_of_who_was_not_asked(url, default, texts):
    store = Store(url, consent_by_default=default)
    request = asked()
    store.requests.record([request])
    store.requests.add_feedback(said(request, "edit", text="三点一刻。"))
    found, (edit,) = kept(store, request.id)
    assert store.people.consent("ann") is None
    assert (found.messages is not None, found.responses[0].text is not None, edit.text is not None) == (texts,) * 3
    assert found.responses[0].num_tokens == 3
    store.close()


def test_withdrawn_consent_leaves_no_text_and_all_counts(store):
    for user in ("ann", "bob"):
        store.people.set_consent(user, True, 1.0)
    mine, theirs, copy = asked(), asked(user="bob"), asked(id="copy", shadow_of="x")
    store.requests.record([mine, theirs, copy])
    store.requests.add_feedback(said(mine, "edit", text="三点一刻。"))
    store.people.set_consent("ann", False, 2.0)
    later = asked(at=20.0)
    store.requests.record([later])
    for id in (mine.id, copy.id, later.id):
        request, events = kept(store, id)
        assert request.messages is None
        assert [response.text for response in request.responses] == [None]
        assert [event.text for event in events] == [None] * len(events)
    assert len(kept(store, mine.id)[1]) == 1
    assert kept(store, theirs.id)[0] == theirs
    assert store.people.consent("ann") is False


def test_a_deleted_user_is_gone(store):
    for user in ("ann", "bob"):
        store.people.set_consent(user, True, 1.0)
        store.exposures.add(exposed(user, "new", 1.0))
    mine, theirs = asked("a", "b", "c"), asked(user="bob")
    copy = asked(shadow_of=mine.id)
    store.requests.record([mine, copy, theirs])
    store.requests.add_feedback(said(mine, "edit", text="d"))
    store.requests.add_feedback(said(mine, "chosen"))
    store.requests.add_feedback(said(theirs, "thumb", 1))
    counts = {"feedback": 2, "responses": 3, "requests": 2, "exposures": 1, "consents": 1}
    assert store.people.delete("ann") == counts
    assert store.people.delete("ann") == dict.fromkeys(counts, 0)
    assert [request for request, _ in store.requests.dialogues()] == [theirs]
    assert len(kept(store, theirs.id)[1]) == 1
    assert store.people.consent("ann") is None
    assert store.exposures.counts("r1/canary-1") == {"new": 1}


def test_sqlite_holds_no_byte_of_a_deleted_user(tmp_path: Path, sqlite_url):
    store = Store(sqlite_url, consent_by_default=True)
    secret = asked("my name is Zephyrine", "hello Zephyrine")
    store.requests.record([secret])
    store.requests.add_feedback(said(secret, "edit", text="good day Zephyrine"))

    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert b"Zephyrine" in on_disk()
    store.people.delete("ann")
    assert store.database.erase() is Erasure.gone
    assert b"Zephyrine" not in on_disk()
    store.close()


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("thumb", {"value": 0}, "value=0: a thumb is 1"),
        ("thumb", {}, "value=None"),
        ("rating", {"value": 6}, "value=6: a rating"),
        ("rating", {"value": 4.5}, "value=4.5"),
        ("edit", {"text": " \n"}, "text: an edit"),
        ("edit", {}, "text: an edit"),
        ("outcome", {"value": 1}, "name: an outcome"),
        ("outcome", {"name": "bought"}, "value=None"),
        ("outcome", {"name": "bought", "value": float("inf")}, "value=inf"),
        ("thumb", {"value": 1, "choice": 1}, r"choice=1: the request has answers \[0\]"),
        ("thumb", {"value": 1, "choice": -(10**30)}, "choice=-1"),
        ("chosen", {}, "kind=chosen: the request has 1 answer"),
    ],
)
def test_feedback_that_says_nothing_is_refused(sqlite_url, kind, fields, sentence):
    store = Store(sqlite_url)
    request = asked()
    store.requests.record([request])
    with pytest.raises(InputError, match=sentence) as refused:
        store.requests.add_feedback(said(request, kind, **fields))
    assert not isinstance(refused.value, UnknownRequest)
    assert kept(store, request.id)[1] == []
    store.close()


def test_feedback_is_of_ones_own_answers(store):
    mine, copy = asked(), asked(shadow_of="x")
    store.requests.record([mine, copy])
    thumb = said(mine, "thumb", 1)
    others = [
        dataclasses.replace(thumb, user="bob"),
        dataclasses.replace(thumb, request_id="nowhere"),
        said(copy, "thumb", 1),
    ]
    for feedback in others:
        with pytest.raises(UnknownRequest, match="this user has no such request"):
            store.requests.add_feedback(feedback)
    store.requests.add_feedback(thumb)
    assert kept(store, mine.id)[1] == [thumb]


def test_only_the_first_exposure_counts(store):
    first = exposed("ann", "old", 5.0)
    assert store.exposures.add(first)
    assert store.exposures.add(dataclasses.replace(first, variant="new", at=4.0))
    assert store.exposures.add(dataclasses.replace(first, experiment="r1/canary-5", variant="new"))
    assert store.exposures.add(dataclasses.replace(first, user="bob", variant="new"))
    assert store.exposures.counts("r1/canary-1") == {"new": 1, "old": 1}
    assert store.exposures.counts("r2/shadow") == {}
    assert traffic_of(store, "r1/canary-5", 9.0).exposures[0].variant == "new"


def test_an_owner_brings_no_more_users_than_the_key_allows(store):
    def name(user, owner, most=2, experiment="r1/canary-1"):
        return store.exposures.add(exposed(user, "new", 1.0, experiment, owner), most=most)

    invented = [name(f"bot/{number}", "bot") for number in range(5)]
    assert invented == [True, True, False, False, False]
    assert name("bot/1", "bot"), "who takes part stays"
    assert name("shop/ann", "shop")
    assert name("shop/bob", "shop", most=None)
    assert name("bot/4", "bot", experiment="r1/canary-5")
    assert store.exposures.counts("r1/canary-1") == {"new": 4}


def test_an_owners_users_are_limited_within_one_transaction_too(store):
    users = [("bot/1", "bot", 2), ("bot/2", "bot", 2), ("shop/ann", "shop", None), ("bot/3", "bot", 2)]
    limited = [(exposed(user, "new", 1.0, "r1/canary-1", owner), most) for user, owner, most in users]
    for _ in range(2):
        assert store.exposures.add_all(limited) == [True, True, True, False]
    assert store.exposures.counts("r1/canary-1") == {"new": 3}


def test_traffic_is_of_one_experiment_until_now_and_without_texts(store):
    store.people.set_consent("ann", True, 1.0)
    step = {"experiment": "r1/canary-1"}
    requests = [
        asked("a", "x", "y", id="a", at=10.0, **step),
        asked("a", id="copy", at=10.5, shadow_of="a", **step),
        asked("b", id="b", at=11.0, status=503, responses=(), first_token_s=None, **step),
        asked("a", id="a2", at=12.0),  # the user is outside of it by now, and asks the same again
        asked("a", id="a3", at=13.0, user="bob", **step),
        asked("c", id="c", at=30.0, **step),
    ]
    store.requests.record(requests[3:])  # answered sooner than what came before
    store.requests.record(requests[:3])
    store.exposures.add(exposed("ann", "new", 10.0))
    edit = said(requests[0], "edit", text="z", choice=1)
    store.requests.add_feedback(edit)
    store.requests.add_feedback(said(requests[0], "thumb", 1, at=25.0))
    store.requests.add_feedback(said(requests[3], "thumb", 1))
    found = traffic_of(store, "r1/canary-1", 20.0)
    assert [request.id for request in found.requests] == ["a", "copy", "b", "a3"]
    kept = [*requests[:3], requests[4]]
    assert [request.prompt_hash for request in found.requests] == [request.prompt_hash for request in kept]
    assert [request.shadow_of for request in found.requests] == [None, "a", None, None]
    assert [request.completion_tokens for request in found.requests] == [6, 3, None, 3]
    assert found.feedback == [dataclasses.replace(edit, text=None)]
    assert found.exposures == [exposed("ann", "new", 10.0)]
    assert len(traffic_of(store, "r1/canary-1", 11.5).requests) == 3
    assert traffic_of(store, "r9/shadow", 99.0) == Traffic(exposures=[], requests=[], feedback=[])


def test_dialogues_come_page_by_page_in_order_of_time(store):
    requests = [asked(id=f"r{n:04}", at=float(n // 2), variant="ab"[n % 2]) for n in range(PAGE + 3)]
    store.requests.record(requests[::-1])
    assert [request.id for request, _ in store.requests.dialogues()] == [request.id for request in requests]
    between = store.requests.dialogues(since=1.0, until=3.0)
    assert [request.id for request, _ in between] == ["r0002", "r0003", "r0004", "r0005"]
    assert [request.id for request, _ in store.requests.dialogues(variant="b", since=PAGE // 2)] == [f"r{PAGE + 1:04}"]


def test_a_variants_name_belongs_to_its_files(store):
    files = {"model.safetensors": {"size": 3, "sha256": "ab"}}
    old = Variant(name="old", folder="models/old", files=files, version="v1", at=1.0)
    new = Variant(name="new", folder="models/new", base="old", files=files, version="v2", at=2.0)
    for variant in (new, old, old):
        store.variants.add(variant)
    assert store.variants.all() == [old, new]
    with pytest.raises(InputError, match=r"models.old=models/x: the name already belongs to other files"):
        store.variants.add(dataclasses.replace(old, folder="models/x", version="v3"))
    with pytest.raises(InputError, match="another name"):
        store.variants.add(dataclasses.replace(new, base=None))
    moved = dataclasses.replace(old, folder="elsewhere/old")
    store.variants.add(dataclasses.replace(moved, at=9.0))
    assert store.variants.get("old") == moved
    assert store.variants.get("x") is None


def test_keys(store):
    store.keys.add("hash2", "user", "ann", 2.0)
    store.keys.add("hash1", "operator", "root", 1.0)
    first, second = store.keys.all()
    assert (first.hash, first.role, first.owner, first.at) == ("hash1", "operator", "root", 1.0)
    assert store.keys.get("hash2") == second
    assert store.keys.remove("hash2")
    assert not store.keys.remove("hash2")
    assert store.keys.get("hash2") is None
