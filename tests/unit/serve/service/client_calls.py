"""Calls of stock clients: fields, and the sentence where they are refused."""

from functools import reduce

from rlhf.protocols.openai.schema import PATTERN_CHARACTERS, SCHEMA_BYTES, SCHEMA_DEPTH

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
    "tools": {"tools": [TOOL]},
    "tools by choice": {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True},
    "a tool it must call": {"tools": [TOOL], "tool_choice": "required"},
    "a tool by its name": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
    "tools not to be called": {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False},
    "text": {"response_format": {"type": "text"}},
    "a JSON object": {"response_format": {"type": "json_object"}},
    "a JSON schema": {"response_format": SCHEMA},
    "a schema at its depth": formatted(nested(SCHEMA_DEPTH)),
    "a choice": {"extra_body": {"structured_outputs": {"choice": ["1", "2"]}}},
    "an expression": {"extra_body": {"structured_outputs": {"regex": "[0-9]{2}", "json": None}}},
    "vLLM's JSON": {"extra_body": {"structured_outputs": {"json": {"type": "object"}, "disable_any_whitespace": True}}},
    "any JSON of vLLM": {"extra_body": {"structured_outputs": {"json_object": True}}},
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
ONE = "structured_outputs: it is one of `json`, `regex`, `choice` and `json_object`; give exactly one"
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
    "two forms": ({"extra_body": {"structured_outputs": {"choice": ["1"], "regex": "1"}}}, ONE),
    "no form": ({"extra_body": {"structured_outputs": {}}}, ONE),
    "a grammar": (
        {"extra_body": {"structured_outputs": {"grammar": "root ::= root"}}},
        "structured_outputs.grammar: there is no such field here; leave it out",
    ),
    "a long expression": ({"extra_body": {"structured_outputs": {"regex": "a" * 257}}}, "structured_outputs.regex: "),
    "a deep schema of vLLM's": (
        {"extra_body": {"structured_outputs": {"json": nested(SCHEMA_DEPTH + 1)}}},
        "structured_outputs.json: a schema nested deeper",
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
    "a long field": ({"extra_body": {"x" * 999: 1}}, f"{'x' * 200}...: there is no such field here"),
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
