"""Calls of OpenAI's own client: what is answered, and what is refused in which sentence."""

import copy
import json

import openai
import pytest
from openai import OpenAI
from pydantic import create_model

from rlhf.protocols.openai.chat import ChatCompletionRequest
from rlhf.protocols.openai.completion import CompletionRequest
from serve.feedback.export import reject_reason
from serve.gateway.auth import hash_key
from serve.gateway.routing import read
from serve.store.records import Role
from tests.unit.serve.service.client_calls import (
    ANSWERED,
    BAD_CHATS,
    BAD_COMPLETIONS,
    CALL,
    CALLED,
    CHATS,
    COMPLETIONS,
    RESULT,
    SCHEMA,
    TOOL,
    USER,
    turns,
)
from tests.unit.serve.service.conftest import KEYS, NOW, running
from tests.unit.serve.service.engines import calling, without_tools
from tests.unit.serve.service.test_gateway import experiment, kept


def client_of(transport, key: str = "none") -> OpenAI:
    return OpenAI(base_url="http://127.0.0.1/v1", api_key=key, max_retries=0, http_client=transport)


def chat(client: OpenAI, **fields: object):
    return client.chat.completions.create(**{"model": "assistant", "messages": [USER], **fields})


@pytest.mark.parametrize("case", CHATS)
def test_a_chat_is_answered_whole_and_streamed(open_client, case):
    client = client_of(open_client)
    assert chat(client, **copy.deepcopy(CHATS[case])).choices[0].message.content == "old says 0"
    fields = copy.deepcopy(CHATS[case])
    fields.get("extra_body", {}).pop("stream", None)
    pieces = list(chat(client, **fields, stream=True))
    assert "".join(piece.choices[0].delta.content for piece in pieces) == "old says it"


@pytest.mark.parametrize("case", BAD_CHATS)
def test_a_chat_that_is_refused(client, gateway, engines, case):
    gateway.config.limits.body_bytes = 1 << 20
    engines.behaviours["old"] = without_tools
    fields, sentence = BAD_CHATS[case]
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client_of(client), **fields) if "functions" not in fields else chat(client_of(client), extra_body=fields)
    assert sentence in refused.value.body["message"]


@pytest.mark.parametrize("case", COMPLETIONS)
def test_a_completion_is_answered(open_client, case):
    fields, num_choices = COMPLETIONS[case]
    answer = client_of(open_client).completions.create(model="assistant", **copy.deepcopy(fields))
    assert [choice.index for choice in answer.choices] == list(range(num_choices))


@pytest.mark.parametrize("case", BAD_COMPLETIONS)
def test_a_completion_that_is_refused(open_client, case):
    fields, sentence = BAD_COMPLETIONS[case]
    with pytest.raises(openai.BadRequestError) as refused:
        client_of(open_client).completions.create(model="assistant", **fields)
    assert sentence in refused.value.body["message"]


def test_the_second_turn_is_sent_as_the_first_was_answered(open_client):
    client = client_of(open_client)
    first = chat(client).choices[0].message
    for message in (first, first.model_dump()):
        assert chat(client, messages=[USER, message, USER]).choices


def test_an_answer_is_parsed_by_its_schema(client, engines):
    async def json_answer(variant, endpoint, body):
        assert body["response_format"]["json_schema"]["schema"]["properties"]["a"]["type"] == "integer"
        message = {"role": "assistant", "content": '{"a": 12}'}
        yield 200, {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}

    engines.behaviours["old"] = json_answer
    form = create_model("Sum", a=(int, ...))
    answer = client_of(client).chat.completions.parse(model="assistant", messages=[USER], response_format=form)
    assert answer.choices[0].message.parsed.a == 12


def test_the_usage_comes_as_often_as_it_is_asked_for(client, engines):
    for options in ({"include_usage": True, "continuous_usage_stats": True}, {"include_obfuscation": False}):
        list(chat(client_of(client), stream=True, stream_options=options))
    (_, often), (_, once) = engines.asked
    assert often["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert once["stream_options"] == {"include_usage": True}


def test_a_model_by_its_name(open_client, gateway):
    client = client_of(open_client)
    assert {model.id for model in client.models.list()} == {"assistant", "old", "new"}
    assert client.models.retrieve("assistant").id == "assistant"
    for name in ("gpt-4", "a/b"):
        with pytest.raises(openai.NotFoundError, match=f"there is no '{name}'"):
            client.models.retrieve(name)
    for role, key in KEYS.items():
        gateway.store.keys.add(hash_key(key), Role(role), role, NOW)
    experiment(gateway, shadow_fraction=1)
    gateway.routing_table = read(gateway.store, gateway.config)
    with running(gateway) as transport:
        with pytest.raises(openai.NotFoundError, match="there is no 'new'"):
            client_of(transport, KEYS["user"]).models.retrieve("new")
        assert client_of(transport, KEYS["operator"]).models.retrieve("new").id == "new"


@pytest.mark.parametrize("case", [*CHATS, *COMPLETIONS])
def test_vllm_reads_what_the_engine_is_sent(make_config, case):
    from vllm.entrypoints.openai.chat_completion import protocol as chats
    from vllm.entrypoints.openai.completion import protocol as completions

    fields = copy.deepcopy(CHATS[case] if case in CHATS else COMPLETIONS[case][0])
    fields |= {"model": "assistant", **fields.pop("extra_body", {})}
    if case in CHATS:
        fields.setdefault("messages", [USER])
    own, vllms = (
        (ChatCompletionRequest, chats.ChatCompletionRequest) if case in CHATS
        else (CompletionRequest, completions.CompletionRequest)
    )  # fmt: skip
    body = own.model_validate_json(json.dumps(fields)).for_engine(make_config().limits.max_tokens)
    read_body = vllms.model_validate(copy.deepcopy(body))
    assert not read_body.model_extra
    params = read_body.to_sampling_params(5, {})
    for name in ("top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos"):
        assert name not in body or getattr(params, name) == body[name]
    is_formed = body.get("response_format", {}).get("type", "text") != "text" or "structured_outputs" in body
    assert (params.structured_outputs is not None) == is_formed


def test_tools_reach_the_engine_and_what_is_recorded(client, gateway, engines):
    stock = client_of(client)
    plain = turns(CALLED, RESULT)
    for fields in ({}, {"tools": [TOOL]}, {"response_format": SCHEMA}, {"safety_identifier": "ann"}):
        chat(stock, **plain, **fields, user="ann", temperature=0.5)
    bodies = [body for _, body in engines.asked]
    assert bodies[1]["tools"] == [TOOL]
    assert bodies[2]["response_format"] == SCHEMA
    assert bodies[0]["messages"] == [USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT]
    assert bodies[0] == bodies[3]
    without, tools, form, named = kept(gateway)
    assert without.messages == [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT]
    assert without.prompt_hash == named.prompt_hash
    assert len({without.prompt_hash, tools.prompt_hash, form.prompt_hash}) == 3
    assert {request.sampling["temperature"] for request in (without, tools, form, named)} == {0.5}
    assert {len(request.sampling) for request in (without, tools, form, named)} == {1}, "neither texts nor names"
    assert len({request.conversation for request in (without, tools, form, named)}) == 1
    assert {request.turn for request in (without, tools)} == {1}


def test_an_answer_sent_back_is_recorded_as_the_plain_message(client, gateway, engines):
    for message in (ANSWERED, {"role": "assistant", "content": "12", "reasoning": "7 and 5"}):
        chat(client_of(client), **turns(message, USER))
    one, other = kept(gateway)
    assert one.messages == other.messages
    assert one.prompt_hash == other.prompt_hash
    assert one.turn == 2
    assert engines.asked[0][1]["messages"][1] == {"role": "assistant", "content": "12", "reasoning": "7 and 5"}


def test_prompts_are_recorded_under_their_choices(client, gateway):
    stock = client_of(client)
    for prompt in ("7+5=", ["7+5="], ["7+5=", "1+1="], ["7+5=", "2+2="], [1, 2], [[1, 2]], [[1], [2]]):
        stock.completions.create(model="assistant", prompt=prompt, user="ann")
    stock.completions.create(model="assistant", prompt="7+5=", echo=True, max_tokens=0)
    one, listed, two, others, ids, listed_ids, lists, echoed = kept(gateway)
    assert one.messages == listed.messages == [USER]
    assert two.messages == [USER, {"role": "user", "content": "1+1="}]
    assert (ids.messages, lists.messages) == (None, None)
    assert [response.text for response in two.responses] == ["old says 0", "old says 1"]
    assert (one.prompt_hash, ids.prompt_hash) == (listed.prompt_hash, listed_ids.prompt_hash)
    assert len({request.prompt_hash for request in (one, two, others, ids, lists)}) == 5
    assert len({request.conversation for request in (one, two, others, ids, lists)}) == 5
    assert {request.turn for request in (one, two, ids, lists)} == {1}
    assert [reject_reason(request) for request in (one, ids, echoed)] == [None, "no_text", "echo"]


def test_calls_reach_the_client_and_what_is_recorded_whole_and_streamed(client, gateway, engines):
    engines.behaviours["old"] = calling
    stock = client_of(client)
    whole = chat(stock, tools=[TOOL]).choices[0]
    with stock.chat.completions.stream(model="assistant", messages=[USER], tools=[TOOL]) as stream:
        streamed = stream.get_final_completion().choices[0]
    expected = [("c0", "add", '{"a": 0}'), ("c1", "add", '{"a": 1}')]
    for choice in (whole, streamed):
        calls = choice.message.tool_calls
        assert [(call.id, call.function.name, call.function.arguments) for call in calls] == expected
        assert choice.finish_reason == "tool_calls"
    assert chat(stock, tools=[TOOL], messages=[USER, streamed.message, RESULT]).choices
    for request in kept(gateway):
        (response,) = request.responses
        assert response.tool_calls == [call.model_dump(exclude={"index"}) for call in whole.message.tool_calls]
        assert response.text == ""
        assert reject_reason(request) == "tool_calls"
    first, second, _ = kept(gateway)
    assert first.first_token_s is None
    assert second.first_token_s > 0
