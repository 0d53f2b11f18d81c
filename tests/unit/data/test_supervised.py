import json
import re

import numpy as np
import pytest
from omegaconf import OmegaConf
from tokenizers.processors import TemplateProcessing

from rlhf.data.supervised import RowFormat, SupervisedDataConfig
from rlhf.types import InputError, TrainingRow


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
DIALOGUE = [user("你好"), assistant("您好 🙂"), user("what is 12 + 30?"), assistant("42。")]


def load(path, tokenizer, **settings):
    config = SupervisedDataConfig(path=path, **settings)
    return [row for (row,) in config.load(tokenizer, context_tokens=120, quarantine=config.quarantine())]


def learned(tokenizer, row):
    return tokenizer.decode(row.token_ids[row.loss_mask], clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", ["bytes_tokenizer", "trimming_tokenizer", "chars_tokenizer"])
def test_prompt_and_response(write_rows, request, name):
    tokenizer = request.getfixturevalue(name)
    path = write_rows(
        {"prompt": "what is 12 + 30?", "response": "答案是\n42 "}, {"prompt": DIALOGUE[:3], "response": "42"}
    )
    if name == "chars_tokenizer":
        path = write_rows({"prompt": "what?", "response": "请 42 "}, {"prompt": DIALOGUE[:3], "response": "42"})
    first, second = load(path, tokenizer)
    assert learned(tokenizer, first) == ("请 42 <|im_end|>" if name == "chars_tokenizer" else "答案是\n42 <|im_end|>")
    assert learned(tokenizer, second) == "42<|im_end|>", "assistant turns of a prompt are given, not learned"
    assert first.num_tokens == len(first.token_ids)
    assert first.num_loss_tokens == first.loss_mask.sum()
    assert (first.token_ids.dtype, first.loss_mask.dtype) == (np.int32, bool)


def test_dialogues(write_rows, bytes_tokenizer):
    path = write_rows({"messages": DIALOGUE}, {"messages": DIALOGUE})
    (row,) = load(path, bytes_tokenizer, limit=1)
    assert learned(bytes_tokenizer, row) == "您好 🙂<|im_end|>42。<|im_end|>"
    row, _ = load(path, bytes_tokenizer, last_turn_only=True)
    assert learned(bytes_tokenizer, row) == "42。<|im_end|>"


def test_a_template_that_drops_thinking(write_rows, thinking_tokenizer):
    path = write_rows({"messages": DIALOGUE, "prompt": DIALOGUE[:3], "response": "42。"})
    with pytest.raises(InputError, match=f"^{path}:1: the chat template .* set last_turn_only=true"):
        load(path, thinking_tokenizer, format=RowFormat.messages)
    (row,) = load(path, thinking_tokenizer, format=RowFormat.messages, last_turn_only=True)
    assert learned(thinking_tokenizer, row) == "<think>\n\n</think>\n\n42。<|im_end|>"
    (same,) = load(path, thinking_tokenizer, format=RowFormat.prompt_response)
    assert (same.token_ids == row.token_ids).all()
    assert (same.loss_mask == row.loss_mask).all()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "q", "answer": "a"}, "the row has no field 'response', its fields are 'prompt', 'answer': set "
         "response_key to the field that holds the response"),
        ({"response": "a"}, "the row has no field 'prompt', its fields are 'response': set prompt_key"),
        ({"prompt": "q", "response": " "}, "the field 'response' is empty: fill it in, or remove the row"),
        ({"prompt": "q", "response": None}, "the field 'response' is null, not text: set response_key"),
        ({"prompt": "q", "response": ["a"]}, "message 1 of 'response' is text, not an object: write {"),
        ({"prompt": "", "response": "a"}, "the field 'prompt' is empty"),
        ({"prompt": "q", "response": "<|endoftext|>"},
         "the field 'response' has an answer that tokenises to nothing: correct or remove the row"),
        ({"prompt": "q", "response": "为什么" * 100},
         "tokens, more than the model's context of 120: shorten the row"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(write_rows, bytes_tokenizer, row, sentence):
    path = write_rows({"prompt": "q", "response": "a"}, row)
    with pytest.raises(InputError, match=re.escape(f"{path}:2: ") + ".*" + re.escape(sentence)):
        load(path, bytes_tokenizer)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"dialogue": DIALOGUE}, "the row has no field 'messages', its fields are 'dialogue': set messages_key to the"),
        ({"messages": []}, "the field 'messages' is empty, it has no messages: fill it in, or remove"),
        ({"messages": "q"}, "the field 'messages' is text, not a list of messages: set messages_key"),
        ({"messages": [user("q")]}, "the field 'messages' has no assistant message to learn: add one, or remove"),
        ({"messages": [user("q"), assistant("\n"), user("q"), assistant("a")]},
         "message 2 of 'messages', an assistant's, is empty: fill it in, or remove the row"),
        ({"messages": [assistant("a")]}, "the dialogue starts with the assistant's turn: put a user message before it"),
        ({"messages": [{"role": "system", "content": "s"}, assistant("a")]}, "the dialogue starts with the assistant"),
        ({"messages": [user("q"), user("r"), assistant("a")]},
         "messages 1 and 2 of 'messages' are two user turns in a row: join them, or remove the row"),
        ({"messages": [user("q"), assistant("a"), assistant("b")]},
         "messages 2 and 3 of 'messages' are two assistant turns in a row: join them, or remove the row"),
        ({"messages": [user("q"), assistant("a"), user("q"), assistant("<|im_end|>")]},
         "the field 'messages' has an answer that tokenises to nothing: correct or remove the row"),
        ({"messages": [user("q"), {**assistant("a"), "mood": "glad"}]},
         "message 2 has the key 'mood', which the chat template of models/bytes leaves out: move it into the content"),
        ({"messages": [user("q"), assistant("a")], "tools": [TOOL]},
         "the row has tools, which the chat template of models/bytes leaves out: set tools_key to null, or use a"),
        ({"messages": [user("q"), assistant("a")], "tools": "["},
         "the field 'tools' is text that is not JSON (Expecting value: line 1 column 2 (char 1)): correct it"),
        ({"messages": [user("q"), assistant("a")], "tools": {"type": "function"}},
         "the field 'tools' is an object, not a list of function schemas: write one, or null"),
        ({"messages": [user("q"), {"role": "assistant", "tool_calls": [{"name": "f"}]}]},
         "message 2 of 'messages' has a tool call without a function: write {"),
        ({"messages": [user("q"), {"role": "assistant", "tool_calls": 3}]},
         "message 2 of 'messages' has tool_calls that are a number: write a list of calls"),
        ({"messages": [user([{"type": "image_url", "image_url": {}}]), assistant("a")]},
         "message 1 of 'messages' has a part of type 'image_url': only {"),
    ],
)  # fmt: skip
def test_a_bad_dialogue_is_named(write_rows, bytes_tokenizer, row, sentence):
    path = write_rows({"messages": DIALOGUE}, row)
    with pytest.raises(InputError, match=re.escape(f"{path}:2: ") + ".*" + re.escape(sentence)):
        load(path, bytes_tokenizer)


def test_nothing_is_ever_cut(write_rows, bytes_tokenizer):
    path = write_rows({"prompt": "q", "response": "a"})
    (row,) = load(path, bytes_tokenizer)
    assert load(path, bytes_tokenizer, max_tokens=row.num_tokens)
    limit = row.num_tokens - 1
    sentence = f":1: the row has {row.num_tokens} tokens, more than max_tokens={limit}: raise it or shorten the row"
    with pytest.raises(InputError, match=sentence):
        load(path, bytes_tokenizer, max_tokens=limit)


def test_a_response_the_template_leaves_out(write_rows, byte_level):
    tokenizer = byte_level(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(InputError, match=":1: the field 'response' has no token to learn, all is masked"):
        load(write_rows({"prompt": "q", "response": "a"}), tokenizer)


def test_a_config_without_rows_and_a_model_without_template(write_rows, bytes_tokenizer, byte_level):
    config = OmegaConf.merge(OmegaConf.structured(SupervisedDataConfig), {"path": "x.jsonl", "max_tokens": 0})
    with pytest.raises(InputError, match="max_tokens=0 leaves nothing: set it to at least 1, or to null for no limit"):
        OmegaConf.to_object(config)
    with pytest.raises(InputError, match=r"^models/bytes has no chat template"):
        load(write_rows({"prompt": "q", "response": "a"}), byte_level(None))


def test_the_first_token_never_has_loss():
    with pytest.raises(AssertionError, match="nothing predicts the first token"):
        TrainingRow(token_ids=np.array([1, 2], dtype=np.int32), loss_mask=np.array([True, True]))


SHAREGPT = [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "您好"}]


def whole(tokenizer, row):
    return tokenizer.decode(row.token_ids, clean_up_tokenization_spaces=False)


def chatml(*turns):
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"conversations": SHAREGPT}, [("user", "你好"), ("assistant", "您好")]),
        ({"conversations": SHAREGPT, "system": "简短。"},
         [("system", "简短。"), ("user", "你好"), ("assistant", "您好")]),
        ({"conversations": [{"from": "system", "value": "Be brief."}, *SHAREGPT]},
         [("system", "Be brief."), ("user", "你好"), ("assistant", "您好")]),
        ({"instruction": "把句子翻译成英文。", "input": "谢谢你", "output": "Thank you."},
         [("user", "把句子翻译成英文。\n谢谢你"), ("assistant", "Thank you.")]),
        ({"instruction": "Say hi.", "input": "", "output": "hi"}, [("user", "Say hi."), ("assistant", "hi")]),
        ({"instruction": "Say hi.", "output": "hi"}, [("user", "Say hi."), ("assistant", "hi")]),
        ({"instruction": "again", "input": None, "output": "hi", "system": "s", "history": [["Say hi.", "ho"]]},
         [("system", "s"), ("user", "Say hi."), ("assistant", "ho"), ("user", "again"), ("assistant", "hi")]),
        ({"messages": [user([{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]), assistant("a")]},
         [("user", "你好"), ("assistant", "a")]),
        ({"prompt": "q", "response": "a"}, [("user", "q"), ("assistant", "a")]),
    ],
)  # fmt: skip
def test_every_format_gives_the_dialogue_it_means(write_rows, bytes_tokenizer, row, turns):
    (loaded,) = load(write_rows(row), bytes_tokenizer)
    assert whole(bytes_tokenizer, loaded) == chatml(*turns)
    answers = [content for role, content in turns if role == "assistant"]
    assert learned(bytes_tokenizer, loaded) == "".join(f"{answer}<|im_end|>" for answer in answers)


def test_a_format_is_told_without_guessing_or_not_at_all(write_rows, bytes_tokenizer):
    both = {"messages": DIALOGUE, "prompt": "q", "response": "a"}
    sentence = (
        r":1: the row's fields messages, prompt, response are those of prompt_response and messages: set format, and "
        r"the keys that name its fields \(prompt_response: prompt, response; messages: messages; "
    )
    with pytest.raises(InputError, match=sentence):
        load(write_rows(both), bytes_tokenizer)
    (row,) = load(write_rows(both), bytes_tokenizer, format=RowFormat.prompt_response)
    assert learned(bytes_tokenizer, row) == "a<|im_end|>"
    with pytest.raises(InputError, match=r":1: the row's fields text are of no known format: set format, and the keys"):
        load(write_rows({"text": "q"}), bytes_tokenizer)
    (row,) = load(write_rows({"messages": None, "prompt": "q", "response": "a"}), bytes_tokenizer)  # as Parquet has it
    assert learned(bytes_tokenizer, row) == "a<|im_end|>"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"conversations": []}, "the field 'conversations' is empty, it has no messages: fill it in, or remove"),
        ({"conversations": "q"}, "the field 'conversations' is text, not a list of messages: set conversations_key to"),
        ({"conversations": ["q"]}, "message 1 of 'conversations' is text, not an object: write {"),
        ({"conversations": [{"from": "human"}]}, "turn 1 of 'conversations' has a \"value\" that is missing: write {"),
        ({"conversations": [{"from": "bot", "value": "q"}]}, "turn 1 of 'conversations' is from 'bot': use one of hum"),
        ({"conversations": SHAREGPT[1:]}, "the dialogue starts with the assistant's turn: put a user message"),
        ({"conversations": [SHAREGPT[0], {"from": "function_call", "value": "{"}]},
         "turn 2 of 'conversations' is text that is not JSON (Expecting property name enclosed in double quotes"),
        ({"instruction": "q", "output": ""}, "the field 'output' is empty: fill it in, or remove the row"),
        ({"instruction": "q"}, "the row has no field 'output', its fields are 'instruction': set format to the one"),
        ({"instruction": "q", "output": 3}, "the field 'output' is a number, not text: correct it, or remove the row"),
        ({"instruction": "q", "output": "a", "history": ["q"]},
         "turn 1 of 'history' is not a pair of texts: write [instruction, output]"),
    ],
)  # fmt: skip
def test_a_bad_row_of_another_format_is_named(write_rows, bytes_tokenizer, row, sentence):
    form = RowFormat.sharegpt if "conversations" in row else RowFormat.alpaca
    with pytest.raises(InputError, match=re.escape("rows.jsonl:1: " + sentence)):
        load(write_rows(row), bytes_tokenizer, format=form)


# As Qwen's: functions in the system turn, calls in the assistant's, answers in turns of their own.
CALLS_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool.function.name }}{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}[{{ call.function.name }} {{ call.function.arguments | tojson }}]{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("arguments", [{"a": 12, "b": "三十"}, '{"a": 12, "b": "三十"}'])
@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_tools_are_called_and_answer(write_rows, byte_level, arguments, tools):
    tokenizer = byte_level(CALLS_TOOLS)
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    answer = {"role": "tool", "content": "42", "name": "add", "tool_call_id": "1"}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    messages = [user("q"), calling, answer, answer, assistant("42。")]
    (row,) = load(write_rows({"messages": messages, "tools": tools}), tokenizer)
    assert whole(tokenizer, row) == chatml(
        ("system", "add"),
        ("user", "q"),
        ("assistant", '[add {"a": 12, "b": "三十"}]'),
        ("tool", "42"),
        ("tool", "42"),
        ("assistant", "42。"),
    )
    assert learned(tokenizer, row) == '[add {"a": 12, "b": "三十"}]<|im_end|>42。<|im_end|>'


def test_sharegpt_s_calls_are_calls(write_rows, byte_level):
    tokenizer = byte_level(CALLS_TOOLS)
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}
    turns = [SHAREGPT[0], call, {"from": "observation", "value": "2"}, SHAREGPT[1]]
    (row,) = load(write_rows({"conversations": turns}), tokenizer)
    assert learned(tokenizer, row) == '[add {"a": 1}]<|im_end|>您好<|im_end|>'


def test_a_call_the_template_leaves_out_is_refused(write_rows, bytes_tokenizer):
    call = {"function": {"name": "add", "arguments": {}}}
    messages = [user("q"), {"role": "assistant", "content": "a", "tool_calls": [call]}]
    with pytest.raises(InputError, match=":1: message 2 has the key 'tool_calls', which the chat template of models/b"):
        load(write_rows({"messages": messages}), bytes_tokenizer)


def test_responses_are_classes(write_rows, bytes_tokenizer):
    path = write_rows(
        {"text": "太好了", "label": "好"}, {"text": "糟糕", "label": "坏"}, {"text": "啊", "label": "好的"}
    )
    keys = {"prompt_key": "text", "response_key": "label", "labels": ["好", "坏"]}
    assert [learned(bytes_tokenizer, row) for row in load(path, bytes_tokenizer, **keys, limit=2)] == [
        "好<|im_end|>", "坏<|im_end|>",
    ]  # fmt: skip
    sentence = r":3: the field 'label' ends with '好的', which is not one of labels=\['好', '坏'\]: correct the row, or"
    with pytest.raises(InputError, match=sentence):
        load(path, bytes_tokenizer, **keys)
    with pytest.raises(InputError, match=r"^labels=\['好'\]: give at least two different classes"):
        SupervisedDataConfig(labels=["好"])


def test_rows_of_one_prompt_know_each_other(write_rows, bytes_tokenizer):
    rows = load(write_rows(*({"prompt": q, "response": a} for q, a in ["12", "13", "21", "12"])), bytes_tokenizer)
    assert len({row.prompt_id for row in rows}) == 2
    assert rows[0].prompt_id == rows[1].prompt_id == rows[3].prompt_id


def test_a_completion_is_learnt_without_the_template(write_rows, bytes_tokenizer):
    plain = {"prompt": "Once ", "response": "upon a time", "templated": False}
    path = write_rows(plain, {**plain, "templated": True}, {**plain, "templated": None})
    completion, *dialogues = load(path, bytes_tokenizer)
    assert bytes_tokenizer.decode(completion.token_ids) == f"Once upon a time{bytes_tokenizer.eos_token}"
    assert learned(bytes_tokenizer, completion) == f"upon a time{bytes_tokenizer.eos_token}"
    assert completion.prompt_id not in {row.prompt_id for row in dialogues}
    for row in [*dialogues, *load(path, bytes_tokenizer, templated_key=None)]:
        assert "<|im_start|>user\nOnce <|im_end|>" in bytes_tokenizer.decode(row.token_ids)


def test_a_completion_begins_as_the_engine_reads_it(write_rows, byte_level):
    tokenizer = byte_level("{{ messages[-1].content }}<|im_end|>")
    first = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, tokenizer.convert_tokens_to_ids(first))]
    )
    (row,) = load(write_rows({"prompt": "ab", "completion": "cd", "templated": False}), tokenizer)
    assert tokenizer.decode(row.token_ids) == "<|im_start|>abcd<|im_end|>"
    assert learned(tokenizer, row) == "cd<|im_end|>"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"templated": "no"}, "'templated' is text, not true or false"),
        ({"prompt": DIALOGUE[:3]}, "'templated' is false, and the row is more than a prompt and an answer"),
        ({"system": "Be brief."}, "leave out system message"),
        ({"tools": [TOOL]}, "set templated_key to null"),
    ],
)
def test_a_completion_is_a_prompt_and_an_answer(write_rows, bytes_tokenizer, fields, sentence):
    path = write_rows({"prompt": "a", "response": "b", "templated": False, **fields})
    with pytest.raises(InputError, match=re.escape(sentence)):
        load(path, bytes_tokenizer)
