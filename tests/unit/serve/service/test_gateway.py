"""Who answers whom, how many at once, and what is kept of it."""

import asyncio
import dataclasses
import json
import time
from collections import Counter

import httpx
import pytest
from ray.exceptions import ActorDiedError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.responses import Response

from rlhf.protocols.openai.chat import ChatCompletionRequest
from serve.config import LimitsConfig, ReleaseConfig
from serve.control.release_manager import ReleaseManager
from serve.gateway import routes, routing
from serve.gateway.auth import Caller, hash_key
from serve.gateway.errors import ApiError
from serve.gateway.gateway import NOBODY, REFRESH_S, SHADOWS, Gateway
from serve.store.consent import salted_hash
from serve.store.records import Endpoint, Role
from tests.oracles.traffic import traffic as traffic_of
from tests.unit.serve.service.conftest import NOW, command
from tests.unit.serve.service.engines import Engines, choice, failing, silent

ANYONE = Caller(Role.user, "")
MANY = [f"user{number}" for number in range(40)]
DEADLINE_S = 120


async def ask(gateway: Gateway, **fields: object) -> Response:
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}], **fields}
    return await gateway.answer(Endpoint.chat, ChatCompletionRequest.model_validate(body), ANYONE, "req-1")


async def said(gateway: Gateway, **fields: object) -> str:
    """The name of the variant that answers."""
    answer = json.loads((await ask(gateway, **fields)).body)
    return answer["choices"][0]["message"]["content"].split()[0]


async def arms_of(gateway: Gateway, users: list[str]) -> dict[str, str]:
    return dict(zip(users, await asyncio.gather(*(said(gateway, user=user) for user in users)), strict=True))


def experiment(gateway: Gateway, **fields: object) -> None:
    """A release of `new` is under way."""
    gateway.config.release = ReleaseConfig(**{"shadow_fraction": 0, "steps": [0.5], "watch_s": 0, **fields})
    ReleaseManager(gateway.store, gateway.config, lambda: NOW).start("new", "op", "")
    gateway.routing_table = routing.read(gateway.store, gateway.config)


async def until(condition) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.002)


def kept(gateway: Gateway) -> list:
    return [request for request, _ in gateway.store.requests.dialogues()]


async def shadows_end(gateway: Gateway) -> None:
    await asyncio.gather(*gateway.shadows)


async def test_a_deleted_user_who_comes_back_counts_anew(gateway, store):
    experiment(gateway)
    await ask(gateway, user="ann")
    store.people.delete("ann", at=time.time() - 60)
    assert store.exposures.counts("r1/canary-50") == {}
    async with gateway.background_refresh():
        await until(lambda: not gateway.exposed)
        await ask(gateway, user="ann")
    assert sum(store.exposures.counts("r1/canary-50").values()) == 1


async def test_a_user_stays_with_an_arm_and_is_exposed_once(gateway, engines, store):
    experiment(gateway)
    arms = await arms_of(gateway, MANY)
    assert 10 < sum(arm == "new" for arm in arms.values()) < 30
    assert await arms_of(gateway, MANY) == arms
    # Another gateway knows no user yet and puts them where they were.
    other = Gateway(gateway.config, store, engines)
    assert await arms_of(other, MANY[:10]) == {user: arms[user] for user in MANY[:10]}
    traffic = traffic_of(store, "r1/canary-50", time.time())
    assert {exposure.user: exposure.variant for exposure in traffic.exposures} == arms
    assert len(traffic.exposures) == len(MANY)
    assert len(traffic.requests) == 2 * len(MANY) + 10
    assert {request.variant for request in traffic.requests} == {"old", "new"}


async def test_listed_users_direct_requests_and_nobody_are_outside_of_the_experiment(gateway, store):
    experiment(gateway, allow=["vip"], deny=["shy"])
    assert await said(gateway, user="vip") == "new"
    assert await said(gateway, user="shy") == "old"
    for model in ("old", "new"):
        assert await said(gateway, user="ann", model=model) == model
    assert await said(gateway) == "old"
    requests = kept(gateway)
    assert [request.experiment for request in requests] == [None] * 5
    assert {request.user for request in requests} == {"vip", "shy", "ann", NOBODY}
    assert store.exposures.counts("r1/canary-50") == {}


async def test_what_the_store_says_is_followed_and_stays_while_it_says_nothing(gateway, store, caplog):
    experiment(gateway, steps=[0.1, 0.5])
    known = gateway.routing_table
    with store.database.writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM production")
    async with gateway.background_refresh():
        await until(lambda: "what it last said stays" in caplog.text)
        assert gateway.routing_table is known
        store.releases.set_production("old", NOW)
        store.releases.save(dataclasses.replace(store.releases.latest(), step=1))
        store.keys.add(hash_key("sk-1"), Role.user, "ann", NOW)
        await asyncio.sleep(REFRESH_S)
        await until(lambda: gateway.routing_table is not known)
    assert hash_key("sk-1") in gateway.routing_table.keys
    crowd = [f"user{number}" for number in range(2000)]
    before, after = (
        [place.route("assistant", user, "", ANYONE) for user in crowd] for place in (known, gateway.routing_table)
    )
    arms = Counter((one.variant, other.variant) for one, other in zip(before, after, strict=True))
    assert len(arms) == 4, "each step draws users afresh, whatever their arm in the one before"
    assert {choice.experiment for choice in after} == {"r1/canary-50"}


async def test_a_shadow_answers_where_nobody_sees_it(gateway, engines, store):
    experiment(gateway, shadow_fraction=1)
    assert await said(gateway, user="ann", temperature=0.5) == "old"
    await shadows_end(gateway)
    seen, shadow = sorted(kept(gateway), key=lambda request: request.shadow_of is not None)
    assert (seen.variant, seen.shadow_of, seen.experiment) == ("old", None, "r1/shadow")
    assert (shadow.variant, shadow.shadow_of, shadow.experiment) == ("new", seen.id, "r1/shadow")
    assert (shadow.user, shadow.prompt_hash, shadow.conversation) == ("ann", seen.prompt_hash, seen.conversation)
    assert shadow.sampling == seen.sampling == {"temperature": 0.5}
    assert [response.text for response in shadow.responses] == ["new says 0"]
    assert store.exposures.counts("r1/shadow") == {"old": 1}


async def test_a_streams_shadow_is_whole(gateway, engines):
    experiment(gateway, shadow_fraction=1)
    await ask(gateway, user="ann", stream=True)
    await shadows_end(gateway)
    bodies = dict(engines.asked)
    assert bodies["old"]["stream"] is True
    assert bodies["new"]["stream"] is False
    assert "stream_options" not in bodies["new"]


@pytest.mark.parametrize(
    ("error", "status"), [(TimeoutError(), 504), (ZeroDivisionError("odd"), 500), (ApiError(400, "too long"), 400)]
)
async def test_a_shadow_fails_alone_and_is_counted(gateway, engines, error, status):
    engines.behaviours["new"] = failing(error)
    experiment(gateway, shadow_fraction=1)
    assert await said(gateway, user="ann") == "old"
    await shadows_end(gateway)
    assert {request.variant: request.status for request in kept(gateway)} == {"old": 200, "new": status}


async def test_users_beyond_their_owners_limit_get_production_and_take_no_part(gateway, store):
    experiment(gateway, steps=[0.99])
    bot = Caller(Role.user, "bot", users=3)
    for _ in range(2):
        for number in range(6):
            body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}], "user": str(number)}
            await gateway.answer(Endpoint.chat, ChatCompletionRequest.model_validate(body), bot, "req-1")
    requests = kept(gateway)
    assert Counter(request.experiment for request in requests) == {"r1/canary-99": 6, None: 6}
    assert {request.variant for request in requests if request.experiment is None} == {"old"}
    assert sum(store.exposures.counts("r1/canary-99").values()) == 3
    (largest,) = {exposure.owner for exposure in traffic_of(store, "r1/canary-99", time.time() + 9).exposures}
    assert largest == "bot"


async def test_a_limit_that_a_locked_store_does_not_tell_lets_nobody_in_for_now(gateway, store):
    gateway.recorder.patience_s = 0.05
    experiment(gateway, steps=[0.99])
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}], "user": "1"}
    asked, bot = ChatCompletionRequest.model_validate(body), Caller(Role.user, "bot", users=3)
    with store.database.writer.begin():
        await gateway.answer(Endpoint.chat, asked, bot, "req-1")
    async with asyncio.timeout(DEADLINE_S):
        while gateway.recorder.waiting:
            await asyncio.sleep(0.01)
    await gateway.answer(Endpoint.chat, asked, bot, "req-2")
    await until(lambda: len(kept(gateway)) == 2)
    assert sorted(str(request.experiment) for request in kept(gateway)) == ["None", "r1/canary-99"]


async def test_the_candidate_of_a_shadow_is_hidden_from_users(gateway):
    experiment(gateway, shadow_fraction=1)
    assert gateway.routing_table.models(ANYONE) == ["assistant", "old"]
    with pytest.raises(ApiError, match="there is no 'new'; known are assistant, old"):
        await ask(gateway, model="new", user="ann")
    operator = Caller(Role.operator, "op")
    assert gateway.routing_table.models(operator) == ["assistant", "new", "old"]
    assert gateway.routing_table.route("new", None, "q", operator).variant == "new"


async def test_requests_without_a_user_get_production_and_are_copied_in_the_shadow(gateway, store):
    experiment(gateway, shadow_fraction=1)
    body = ChatCompletionRequest.model_validate({"model": "assistant", "messages": [{"role": "user", "content": "hi"}]})
    for caller in (ANYONE, Caller(Role.user, "shop")):
        await gateway.answer(Endpoint.chat, body, caller, "req-1")
    await shadows_end(gateway)
    assert sorted((request.user, request.variant) for request in kept(gateway)) == [
        (NOBODY, "new"),
        (NOBODY, "old"),
        ("shop", "new"),
        ("shop", "old"),
    ]
    assert store.exposures.counts("r1/shadow") == {}
    ReleaseManager(gateway.store, gateway.config, lambda: NOW).roll_back("op", "")
    experiment(gateway, steps=[0.99])
    await gateway.answer(Endpoint.chat, body, Caller(Role.user, "shop"), "req-1")
    (last,) = [request for request in kept(gateway) if request.experiment is None]
    assert (last.user, last.variant) == ("shop", "old"), "a key's owner is no user: whose arm would it be?"


async def test_a_shadow_delays_nobody_and_is_left_out_where_many_are_under_way(gateway, engines):
    engines.behaviours["new"] = silent
    gateway.config.limits.timeout_s = 1.0
    experiment(gateway, shadow_fraction=1)
    heard = await asyncio.gather(*(said(gateway, user="ann") for _ in range(SHADOWS + 3)))
    assert set(heard) == {"old"}
    assert len(gateway.shadows) == SHADOWS
    assert gateway.ongoing == 0
    for shadow in gateway.shadows:
        shadow.cancel()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_beyond_its_limit_a_gateway_says_when_to_come_back(make_config, store, engines, path):
    engines.behaviours["old"] = silent
    gateway = Gateway(make_config(ongoing_requests=1, retry_after_s=7), store, engines)
    transport = httpx.ASGITransport(routes.build(gateway, command))
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        first = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await until(lambda: engines.asked)
        refused = await client.post(path, json=body if "chat" in path else {"model": "assistant", "prompt": "hi"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
        assert "1 requests are under way" in refused.json()["error"]["message"]
        # Before it is read.
        assert (await client.post("/v1/chat/completions", json={**body, "model": "x"})).status_code == 429
        first.cancel()
        await asyncio.wait([first])
        del engines.behaviours["old"]
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    assert gateway.ongoing == 0


async def test_engines_that_do_not_answer_are_tried_again(config, store):
    errors = [ActorDiedError(), DeploymentUnavailableError("gone"), RayError("lost")]
    fleets = [Engines(behaviours={"old": failing(error)}) for error in errors]
    gateways = [Gateway(config, store, engines) for engines in fleets]
    refused = await asyncio.gather(*map(ask, gateways), return_exceptions=True)
    assert [(one.status, one.retry_after_s) for one in refused] == [(503, 1)] * 3
    assert [len(engines.asked) for engines in fleets] == [config.limits.attempts] * 3
    assert [request.status for request in kept(gateways[0])] == [503] * 3
    assert [gateway.ongoing for gateway in gateways] == [0] * 3


async def test_engines_that_are_busy_are_not_tried_again(gateway, engines):
    engines.behaviours["old"] = failing(BackPressureError(num_queued_requests=1, max_queued_requests=1))
    with pytest.raises(ApiError) as refused:
        await ask(gateway)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
    assert len(engines.asked) == 1
    assert [request.status for request in kept(gateway)] == [429]
    assert gateway.ongoing == 0


async def test_an_engine_that_dies_before_its_first_byte_is_not_seen(gateway, engines):
    engines.behaviours["old"] = failing(ActorDiedError(), times=2)
    replies = await asyncio.gather(ask(gateway), ask(gateway, stream=True))
    assert [reply.status_code for reply in replies] == [200, 200]
    assert len(engines.asked) == 4


async def test_an_answer_that_takes_too_long(make_config, store, engines):
    engines.behaviours["old"] = silent
    gateway = Gateway(make_config(timeout_s=0.05), store, engines)
    with pytest.raises(ApiError, match="ask for less") as refused:
        await ask(gateway)
    assert refused.value.status == 504
    assert [request.status for request in kept(gateway)] == [504]
    assert (gateway.ongoing, engines.closed) == (0, 1)


async def test_a_client_that_goes_ends_its_request(gateway, engines):
    engines.behaviours["old"] = silent
    asking = asyncio.create_task(ask(gateway))
    await until(lambda: engines.asked)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: kept(gateway))
    assert [(request.status, request.error) for request in kept(gateway)] == [(499, "the client went away")]
    assert (gateway.ongoing, engines.closed) == (0, 1)


async def test_an_answer_whose_client_goes_while_it_is_recorded_is_kept_once(gateway, store):
    lock = store.database.writer.begin()
    with lock:
        asking = asyncio.create_task(ask(gateway))
        await until(lambda: gateway.recorder.writing)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await gateway.recorder.writing
    assert [request.status for request in kept(gateway)] == [200]
    assert (gateway.recorder.lost, gateway.ongoing) == (0, 0)


async def test_what_json_cannot_say_is_counted_once(gateway, engines):
    async def infinite(variant, endpoint, body):
        yield 200, {"choices": [{**choice(endpoint, 0, "a", "stop", "message"), "logprobs": float("-inf")}]}

    engines.behaviours["old"] = infinite
    with pytest.raises(ApiError) as refused:
        await ask(gateway)
    assert refused.value.status == 500
    assert gateway.ongoing == 0
    assert [request.status for request in kept(gateway)] == [500]


async def test_choices_and_what_engines_are_asked(gateway, engines, store):
    asked = {"n": 2, "user": "ann", "metadata": {"conversation": "c1"}, "seed": 3}
    answer = json.loads((await ask(gateway, **asked)).body)
    (request,) = kept(gateway)
    assert (answer["id"], answer["model"]) == (request.id, "assistant")
    assert request.id.startswith("chatcmpl-")
    assert [response.text for response in request.responses] == ["old says 0", "old says 1"]
    assert [response.num_tokens for response in request.responses] == [None, None], "the usage is of both together"
    assert (request.prompt_tokens, request.sampling, request.turn) == (5, {"n": 2, "seed": 3}, 1)
    assert request.version == store.variants.get("old").version
    assert request.first_token_s is None
    ((_, body),) = engines.asked
    assert (body["model"], body["max_tokens"], body["n"]) == ("old", LimitsConfig(max_tokens=64).max_tokens, 2)
    assert not {"user", "metadata", "stream_options"} & body.keys()


async def test_turns_of_a_conversation_are_joined(gateway):
    first = [{"role": "user", "content": "hi"}]
    second = [*first, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "bye"}]
    await ask(gateway, user="ann", messages=first)
    await ask(gateway, user="ann", messages=second)
    await ask(gateway, user="bob", messages=second)
    await ask(gateway, user="ann", messages=first, metadata={"conversation": "named"})
    one, two, of_bob, named = kept(gateway)
    assert [request.turn for request in (one, two)] == [1, 2]
    assert one.conversation == two.conversation
    assert len({one.conversation, of_bob.conversation, named.conversation}) == 3
    assert len({one.prompt_hash, two.prompt_hash}) == 2
    assert one.prompt_hash == named.prompt_hash


async def test_requests_that_end_together_are_kept_in_one_transaction(gateway, store):
    batches = []
    store_all = store.requests.record

    class Counting:
        def record(self, requests):
            batches.append(len(requests))
            store_all(requests)

    gateway.recorder.requests = Counting()
    await asyncio.gather(*(ask(gateway, user=user) for user in MANY))
    assert sum(batches) == len(MANY)
    assert len(batches) < len(MANY) / 2
    assert len(kept(gateway)) == len(MANY)


async def test_hashes_of_texts_are_salted_and_equal_for_equal_prompts(gateway, config, store, engines):
    await ask(gateway, user="ann")
    await ask(Gateway(config, store, engines), user="ann")
    first, second = kept(gateway)
    asked = ChatCompletionRequest.model_validate(
        {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}
    )
    assert first.prompt_hash == second.prompt_hash == salted_hash(store.settings.salt(), asked.prompt_hash)
    assert first.conversation == second.conversation == salted_hash(store.settings.salt(), asked.conversation("ann"))
    assert first.prompt_hash != first.conversation
