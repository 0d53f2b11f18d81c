"""Calls of OpenAI's own client: what is answered, and what is refused in which sentence."""

import copy
import json
from functools import reduce

import openai
import pytest
from openai import OpenAI
from pydantic import create_model

from serve.chat_schema import ChatCompletionRequest
from serve.completion_schema import CompletionRequest
from serve.directions import read
from serve.doors import Role, hash_key
from serve.export import unusable
from serve.schema import PATTERN_CHARACTERS, SCHEMA_BYTES, SCHEMA_DEPTH
from tests.unit.serve.service.conftest import KEYS, NOW, running
from tests.unit.serve.service.engines import without_tools
from tests.unit.serve.service.test_gateway import experiment, kept

USER = {"role": "user", "content": "7+5="}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 7}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "12"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
ANSWERED = {
    "role": "assistant", "content": "12", "refusal": None, "annotations": None, "audio": None, "function_call": None,
    "tool_calls": [], "reasoning": None, "reasoning_content": "7 and 5", "provider_specific_fields": {"a": None},
    "images": None,
}  # fmt: skip
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}


def nested(levels: int) -> dict:
    return reduce(lambda schema, _: {"items": schema}, range(levels - 1), {"type": "string"})


def formatted(schema: dict) -> dict:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def turns(*messages: dict) -> dict:
    return {"messages": [USER, *messages]}


CHATS = {
    "an answer sent back": turns(ANSWERED, USER),
    "a refusal sent back": turns({**ANSWERED, "content": None, "refusal": "no"}, USER),
    "annotations sent back": turns({**ANSWERED, "annotations": [{"type": "url_citation"}]}, USER),
    "a call and its result": turns(CALLED, RESULT),
    "a call from a stream": turns({**CALLED, "tool_calls": [{**CALL, "index": 0}]}, RESULT),
    "a developer": {"messages": [{"role": "developer", "content": "be brief"}, USER]},
    "tools not to be called": {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False},
    "text": {"response_format": {"type": "text"}},
    "a JSON object": {"response_format": {"type": "json_object"}},
    "a JSON schema": {"response_format": SCHEMA},
    "a schema at its depth": formatted(nested(SCHEMA_DEPTH)),
    "sampling of vLLM": {"extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1,
                                        "stop_token_ids": [2], "ignore_eos": True}},
    "top_k off": {"extra_body": {"top_k": -1}},
    "not stored": {"store": False},
    "names for OpenAI": {"safety_identifier": "ann", "prompt_cache_key": "k", "service_tier": "auto"},
    "effort": {"reasoning_effort": "low", "verbosity": "low", "modalities": ["text"]},
    "nulls": {"extra_body": {"n": None, "stream": None, "stop": None, "seed": None, "tools": None, "store": None,
                             "logprobs": None, "response_format": None, "stream_options": None}},
}  # fmt: skip
TOOLS = "tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set"
BAD_CHATS = {
    "tools to be called": ({"tools": [TOOL]}, TOOLS),
    "no tools": ({"tools": []}, "tools: List should have at least 1 item"),
    "a choice of another kind": (
        {"tools": [TOOL], "tool_choice": "any"},
        "tool_choice: Input should be 'none', 'auto'",
    ),
    "a custom tool": ({"tools": [{"type": "custom"}]}, "tools.0.type: Input should be 'function'"),
    "a deprecated function": ({"functions": []}, "functions: there is no such field here; leave it out"),
    "a deprecated call": (turns({**ANSWERED, "function_call": CALL["function"]}), "messages.1.function_call: there is"),
    "sound": (turns({**ANSWERED, "audio": {"id": "a"}}), "messages.1.audio: there is no such field here"),
    "a result of no call": (turns({"role": "tool", "content": "12"}), "messages.1.tool_call_id: a message of the role"),
    "a user's call": (turns({**USER, "tool_calls": [CALL]}), "messages.1.tool_calls: an assistant's message has it"),
    "a user's silence": (turns({"role": "user", "content": None}), "messages.1.content: a message of the role 'user'"),
    "an image": (turns({"role": "user", "content": [{"type": "image_url"}]}), "messages.1.content"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format: `json_schema` belongs to type"),
    "XML": ({"response_format": {"type": "xml"}}, "response_format.type: Input should be 'text', 'json_object' or"),
    "a deep schema": (
        formatted(nested(SCHEMA_DEPTH + 1)),
        "response_format.json_schema.schema: a schema nested deeper",
    ),
    "a large schema": (formatted({"enum": ["a" * 90] * 200}), f"is larger than {SCHEMA_BYTES}; split it"),
    "a long pattern": (formatted({"pattern": "a" * 257}), f"257 characters is longer than {PATTERN_CHARACTERS}"),
    "a tool's deep schema": (
        {"tools": [{**TOOL, "function": {"name": "f", "parameters": nested(40)}}]},
        "tools.0.func",
    ),
    "stored": ({"store": True}, "store: Input should be False"),
    "priority": ({"service_tier": "priority"}, "service_tier: Input should be 'auto' or 'default'"),
    "speech": ({"modalities": ["audio"]}, "modalities.0: Input should be 'text'"),
    "no effort known": ({"reasoning_effort": "huge"}, "reasoning_effort: Input should be 'none', 'minimal'"),
    "top_k of 2**70": ({"extra_body": {"top_k": 2**70}}, "top_k: Input should be less than 2147483648"),
    "a penalty of 0": ({"extra_body": {"repetition_penalty": 1e-30}}, "repetition_penalty: Input should be greater"),
    "min_p of 2": ({"extra_body": {"min_p": 2}}, "min_p: Input should be less than or equal to 1"),
    "a negative token": ({"extra_body": {"stop_token_ids": [-1]}}, "stop_token_ids.0: Input should be greater than or"),
    "a template": ({"extra_body": {"chat_template": "{{ 1 }}"}}, "chat_template: there is no such field here"),
    "kv_transfer_params": ({"extra_body": {"kv_transfer_params": {}}}, "kv_transfer_params: there is no such field"),
    "beams": ({"extra_body": {"use_beam_search": True}}, "use_beam_search: there is no such field here"),
    "a long field": ({"extra_body": {"x" * 999: 1}}, f"{'x' * 80}: there is no such field here"),
}
COMPLETIONS = {
    "a text": ({"prompt": "7+5="}, 1),
    "a list of one": ({"prompt": ["7+5="]}, 1),
    "texts": ({"prompt": ["7+5=", "1+1="], "n": 2}, 4),
    "token ids": ({"prompt": [1, 2, 3]}, 1),
    "lists of token ids": ({"prompt": [[1, 2], [3]]}, 2),
    "lm-eval's likelihood": ({"prompt": [[1, 2], [3]], "echo": True, "logprobs": 1, "max_tokens": 1, "seed": 1}, 2),
    "the prompt alone": ({"prompt": "7+5=", "echo": True, "logprobs": 1, "max_tokens": 0}, 1),
    "JSON": ({"prompt": "7", "extra_body": {"response_format": {"type": "json_object"}}}, 1),
    "nulls": ({"prompt": "7", "extra_body": {"echo": None, "logprobs": None, "max_tokens": None}}, 1),
}
FORM = "prompt: a prompt is a text, a list of texts, a list of token ids, or a list of such lists, none of them empty"
BAD_COMPLETIONS = {
    "no prompts": ({"prompt": []}, FORM),
    "an empty one": ({"prompt": ["a", ""]}, FORM),
    "no ids": ({"prompt": [[]]}, FORM),
    "both kinds": ({"prompt": ["a", 1]}, FORM),
    "a negative id": ({"prompt": [-1]}, FORM),
    "an id of 2**31": ({"prompt": [[2**31]]}, FORM),
    "truth": ({"prompt": [True]}, FORM),
    "many": ({"prompt": ["a"] * 33}, "prompt: 33 completions are more than 32; send fewer prompts at once"),
    "many ids": ({"prompt": [[1]] * 9, "n": 4}, "prompt: 36 completions are more than 32; send fewer prompts at once"),
    "no tokens": ({"prompt": "a", "max_tokens": 0}, "echo: max_tokens=0 scores the prompt alone; set it, or ask"),
    "a suffix": ({"prompt": "a", "suffix": "b"}, "suffix: there is no such field here; leave it out"),
    "the best": ({"prompt": "a", "best_of": 2}, "best_of: there is no such field here; leave it out"),
    "tools": ({"prompt": "a", "extra_body": {"tools": [TOOL]}}, "tools: there is no such field here; leave it out"),
}


def client_of(transport, key: str = "none") -> OpenAI:
    return OpenAI(base_url="http://testserver/v1", api_key=key, max_retries=0, http_client=transport)


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
        gateway.store.add_key(hash_key(key), Role(role), role, NOW)
    experiment(gateway, shadow_fraction=1)
    gateway.directions = read(gateway.store, gateway.config)
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
    body = own.model_validate_json(json.dumps(fields)).for_engine(make_config().limits)
    read_body = vllms.model_validate(copy.deepcopy(body))
    assert not read_body.model_extra
    params = read_body.to_sampling_params(5, {})
    for name in ("top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos"):
        assert name not in body or getattr(params, name) == body[name]
    assert (params.structured_outputs is not None) == (body.get("response_format", {}).get("type", "text") != "text")


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
    assert [unusable(request) for request in (one, ids, echoed)] == [None, "no_text", "echo"]


def test_a_streamed_call_has_a_first_token(gateway, engines):
    async def calling(variant, endpoint, body):
        yield 200, None
        piece = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}, "finish_reason": None}]}
        yield 200, f"data: {json.dumps(piece)}\n\n"
        yield 200, "data: [DONE]\n\n"

    engines.behaviours["old"] = calling
    with running(gateway) as transport:
        assert len(list(chat(client_of(transport), stream=True))) == 1
    (request,) = kept(gateway)
    assert request.first_token_s > 0
    assert [response.text for response in request.responses] == [""]
