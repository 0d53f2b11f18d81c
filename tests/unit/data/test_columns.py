"""What a row says beside its dialogue: system messages, tools, weights of turns, and fields that nothing reads."""

import json
import re

import pytest

from rlhf.data.chat import turn_end_id
from rlhf.data.kto import KTODataConfig
from rlhf.data.preferences import PreferenceDataConfig, RankingDataConfig
from rlhf.data.prompts import PromptDataConfig, load_prompts
from rlhf.data.quarantine import BadRows, Quarantine
from rlhf.data.steps import StepDataConfig
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.data.text import TextDataConfig
from rlhf.data.turns import unknown_id
from rlhf.models.tiny import character_tokenizer
from rlhf.types import InputError
from tests.unit.data.conftest import build_byte_level
from tests.unit.data.test_supervised import CALLS_TOOLS, TOOL, assistant, chatml, learned, user, whole


def units_of(config, tokenizer, quarantine=None):
    return config.load(tokenizer, context_tokens=400, quarantine=quarantine or config.quarantine())


def sft(path, tokenizer, **settings):
    return [row for (row,) in units_of(SupervisedDataConfig(path=path, **settings), tokenizer)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_byte_level(CALLS_TOOLS)


HH = "\n\nHuman: q\n\nAssistant: {}"
ROWS = {
    "sft response": (SupervisedDataConfig, {"prompt": "q", "response": "a"}),
    "sft messages": (SupervisedDataConfig, {"messages": [user("q"), assistant("a")]}),
    "sft sharegpt": (SupervisedDataConfig, {"conversations": [{"from": "human", "value": "q"},
                                                              {"from": "gpt", "value": "a"}]}),
    "sft alpaca": (SupervisedDataConfig, {"instruction": "q", "output": "a"}),
    "pairs": (PreferenceDataConfig, {"prompt": "q", "chosen": "a", "rejected": "b"}),
    "whole dialogues": (PreferenceDataConfig, {"chosen": [user("q"), assistant("a")],
                                               "rejected": [user("q"), assistant("b")]}),
    "hh": (PreferenceDataConfig, {"chosen": HH.format("a"), "rejected": HH.format("b")}),
    "graded": (PreferenceDataConfig, {"prompt": "q", "completions": [{"response": "a", "overall_score": 2},
                                                                     {"response": "b", "overall_score": 1}]}),
    "ranking": (RankingDataConfig, {"prompt": "q", "chosen": "a", "rejected": "b"}),
    "kto": (KTODataConfig, {"prompt": "q", "completion": "a", "label": True}),
    "kto pairs": (KTODataConfig, {"prompt": "q", "chosen": "a", "rejected": "b"}),
    "steps": (StepDataConfig, {"prompt": "q", "steps": ["a"], "labels": [1]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_every_loader_honours_system_and_tools(write_rows, tokenizer, kind):
    config, row = ROWS[kind]
    path = write_rows({**row, "system": "简短。", "tools": [TOOL], "id": 7})
    quarantine = Quarantine()
    unit = units_of(config(path=path), tokenizer, quarantine)[0]
    turns = [("system", "add"), ("system", "简短。"), ("user", "q"), ("assistant", "a")]
    assert whole(tokenizer, unit[0]).rstrip() == chatml(*turns).rstrip()
    assert quarantine.unread == {path: ["id"]}
    unit = units_of(config(path=path, system_key=None, tools_key=None), tokenizer, quarantine)[0]
    assert whole(tokenizer, unit[0]).rstrip() == chatml(*turns[2:]).rstrip()
    assert quarantine.unread == {path: ["system", "tools", "id"]}


def prompts(path, tokenizer, **settings):
    config = PromptDataConfig(path=path, **settings)
    return load_prompts(config, tokenizer, context_tokens=400, max_completion_tokens=10)


def test_prompts_honour_system_and_tools(write_rows, tokenizer, bytes_tokenizer):
    row = {"prompt": "q", "answer": 1, "system": "简短。", "tools": json.dumps([TOOL])}
    (prompt,) = prompts(write_rows(row), tokenizer)
    turns = chatml(("system", "add"), ("system", "简短。"), ("user", "q"))
    assert tokenizer.decode(prompt.token_ids) == f"{turns}<|im_start|>assistant\n"
    assert prompt.messages == [{"role": "system", "content": "简短。"}, user("q")]
    assert (prompt.tools, prompt.meta["system"]) == ([TOOL], "简短。")
    with pytest.raises(InputError, match=":1: the field 'system' has a system message of its own: set system to null"):
        prompts(write_rows(row), tokenizer, system="Think.")
    with pytest.raises(InputError, match="set system to null, or system_key to null to ignore the"):
        prompts(write_rows(row), tokenizer, system="Think.")
    with pytest.raises(
        InputError, match=r":1: the field 'tools' is text that is not JSON .*, or set tools_key to null"
    ):
        prompts(write_rows({**row, "tools": "calculator"}), tokenizer)
    with pytest.raises(InputError, match=":1: the row has tools, which the chat template of models/bytes leaves out"):
        prompts(write_rows(row), bytes_tokenizer)
    (prompt,) = prompts(write_rows(row), bytes_tokenizer, system="Think.", system_key=None, tools_key=None)
    assert (prompt.messages[0]["content"], prompt.tools) == ("Think.", None)


def test_a_system_message_is_given_once(write_rows, bytes_tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, user("q"), assistant("a")]
    (row,) = sft(write_rows({"messages": messages, "system": "Be brief.\n"}), bytes_tokenizer)
    assert whole(bytes_tokenizer, row) == chatml(("system", "Be brief."), ("user", "q"), ("assistant", "a"))
    (row,) = sft(write_rows({"messages": messages[1:], "system": " "}), bytes_tokenizer)
    assert whole(bytes_tokenizer, row) == chatml(("user", "q"), ("assistant", "a"))
    with pytest.raises(InputError, match=":1: the field 'system' and the system message of the dialogue differ: keep"):
        sft(write_rows({"messages": messages, "system": "Be kind."}), bytes_tokenizer)
    with pytest.raises(InputError, match=":1: the field 'system' is a number, not text: correct it, or set system_key"):
        sft(write_rows({"messages": messages, "system": 3}), bytes_tokenizer)


def test_a_system_message_or_text_beside_a_call_that_the_template_leaves_out(write_rows, byte_level):
    tokenizer = byte_level(
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(InputError, match=":1: message 1 has a system's content, which the chat template of models/byt"):
        sft(write_rows({"prompt": "q", "response": "a", "system": "s"}), tokenizer)
    answered = {"role": "tool", "content": "21 degrees"}
    silent = byte_level(
        "{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(InputError, match=":1: message 3 has a tool's content, which the chat template of models/bytes"):
        sft(write_rows({"messages": [user("q"), assistant("w(Rome)"), answered, assistant("21.")]}), silent)
    called = {**assistant("let me look"), "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    with pytest.raises(InputError, match=":1: message 2 has text beside tool calls, which the chat template of models"):
        sft(write_rows({"messages": [user("q"), called]}), tokenizer)


def test_what_loses_nothing_is_not_refused(write_rows, byte_level):
    """Keys that hold nothing, and a system message that the template writes of itself where there is none."""
    tokenizer = byte_level(
        "<|im_start|>system\n{% if messages[0].role == 'system' and messages[0].content %}{{ messages[0].content }}"
        "{% else %}Be brief.{% endif %}<|im_end|>\n{% for m in messages if m.role != 'system' %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    answer = {**assistant("a"), "reasoning_content": "", "annotations": [], "mood": {}}
    (row,) = sft(write_rows({"messages": [user("q"), answer], "system": "Be brief."}), tokenizer)
    assert whole(tokenizer, row) == chatml(("system", "Be brief."), ("user", "q"), ("assistant", "a"))


def turn(speaker, value, **keys):
    return {"from": speaker, "value": value, **keys}


@pytest.mark.parametrize("key", ["weight", "train", "loss"])
@pytest.mark.parametrize("off", [0, 0.0, False])
def test_a_turn_without_weight_is_not_learnt(write_rows, bytes_tokenizer, key, off):
    given = [(user("1+1"), None), (assistant("three"), off), (user("no"), 0), (assistant("two"), True)]
    messages = [{**message, key: weight} for message, weight in given]
    turns = [{"from": {"user": "human"}.get(m["role"], "gpt"), "value": m["content"], key: m[key]} for m in messages]
    for row in ({"messages": messages}, {"conversations": turns}):
        (loaded,) = sft(write_rows(row), bytes_tokenizer)
        assert learned(bytes_tokenizer, loaded) == "two<|im_end|>"
        assert "three" in whole(bytes_tokenizer, loaded)
    last_off = [*messages[:3], {**messages[3], key: off}, user("again"), assistant("2")]
    (loaded,) = sft(write_rows({"messages": last_off}), bytes_tokenizer)
    assert learned(bytes_tokenizer, loaded) == "2<|im_end|>"


OPEN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_the_end_of_a_turn_without_weight_is_not_learnt_either(write_rows, byte_level):
    """A last turn that the template leaves open is closed for those that learn it alone."""
    tokenizer = byte_level(OPEN)
    messages = [user("q"), assistant("a"), user("r"), {**assistant("b"), "weight": 0}]
    (row,) = sft(write_rows({"messages": messages}), tokenizer)
    assert learned(tokenizer, row).strip() == "a"
    (row,) = sft(write_rows({"messages": [*messages[:3], assistant("b")]}), tokenizer)
    assert learned(tokenizer, row).endswith("<|im_end|>")


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ([turn("human", "q"), turn("gpt", "a", weight=0)],
         "the field 'conversations' has no token to learn, all is masked: correct or remove the row"),
        ([turn("human", "q"), turn("gpt", "a", weight=0.5)],
         "turn 2 of 'conversations' has a weight that is 0.5: give 1 to learn the turn, or 0 to mask it"),
        ([turn("human", "q", weight=1), turn("gpt", "a")],
         "turn 1 of 'conversations', a user's, has a weight of 1, and only turns of the assistant are learnt: give 0"),
        ([turn("human", "q"), turn("gpt", "a", weight=0, train=True)],
         "turn 2 of 'conversations' has weight and train, which differ: keep one of them"),
        ([turn("human", "q"), turn("gpt", "a", mood="glad")],
         "message 2 has the key 'mood', which the chat template of models/bytes leaves out: move it into the content"),
        ([turn("human", "q"), turn("gpt", "a", weight=0), turn("function_call", '{"name": "f", "arguments": {}}')],
         "turns 2 and 3 of 'conversations' are one turn of the assistant and have different keys or weights: give bo"),
    ],
)  # fmt: skip
def test_keys_of_turns_are_honoured_or_refused(write_rows, bytes_tokenizer, turns, sentence):
    with pytest.raises(InputError, match=re.escape(f"rows.jsonl:1: {sentence}")):
        sft(write_rows({"conversations": turns}), bytes_tokenizer)


@pytest.mark.parametrize("config", [PreferenceDataConfig, RankingDataConfig])
def test_a_pair_that_is_not_to_be_learnt_is_refused(write_rows, bytes_tokenizer, config):
    row = {"prompt": "q", "chosen": [{**assistant("a"), "weight": 0}], "rejected": "b"}
    quarantine = Quarantine(BadRows.quarantine, 0.9)
    units_of(config(path=write_rows(row, ROWS["pairs"][1])), bytes_tokenizer, quarantine)
    assert quarantine.summary() == {"unlearnable": 1}


def test_fields_are_read_where_any_row_gives_them(write_rows, bytes_tokenizer):
    rows = [
        {"prompt": "q", "response": "a", "system": None, "tools": "", "note": None},
        {"prompt": {"text": "q"}, "response": "a", "source": "web"},
    ]
    quarantine = Quarantine(BadRows.quarantine, 0.9)
    path = write_rows(*rows)
    units_of(SupervisedDataConfig(path=path), bytes_tokenizer, quarantine)
    assert quarantine.unread == {path: ["source"]}
    quarantine = Quarantine()
    path = write_rows({"text": "今天", "meta": {}})
    units_of(TextDataConfig(path=path), bytes_tokenizer, quarantine)
    assert quarantine.unread == {path: ["meta"]}


FORMATS = [
    (SupervisedDataConfig, {"prompt": [user("q")], "completion": [assistant("a")]}),
    (SupervisedDataConfig, {"prompt": "q", "completion": assistant("a")}),
    (SupervisedDataConfig, {"prompt": [turn("human", "q")], "response": [turn("gpt", "a")]}),
    (SupervisedDataConfig, {"conversations": [user("q"), assistant("a")], "tools": ""}),
    (SupervisedDataConfig, {"messages": [turn("human", "q"), turn("gpt", "a")], "tools": "[]"}),
    (KTODataConfig, {"prompt": [user("q")], "completion": [assistant("a")], "label": True}),
    (KTODataConfig, {"conversations": [turn("human", "q")], "completion": turn("gpt", "a"), "label": True}),
    (PreferenceDataConfig, {"conversations": [turn("human", "q")], "chosen": turn("gpt", "a"),
                            "rejected": turn("gpt", "b")}),
    (PreferenceDataConfig, {"prompt": "q", "chosen": assistant("a"), "rejected": assistant("b")}),
]  # fmt: skip


@pytest.mark.parametrize(("config", "row"), FORMATS)
def test_forms_of_trl_and_llama_factory(write_rows, bytes_tokenizer, config, row):
    quarantine = Quarantine()
    unit = units_of(config(path=write_rows(row)), bytes_tokenizer, quarantine)[0]
    assert whole(bytes_tokenizer, unit[0]) == chatml(("user", "q"), ("assistant", "a"))
    assert learned(bytes_tokenizer, unit[0]) == "a<|im_end|>"
    assert quarantine.unread == {}


def test_all_turns_of_a_completion_are_learnt_and_none_of_its_prompt(write_rows, tokenizer):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    row = {
        "prompt": [user("p"), assistant("before"), user("q")],
        "completion": [call, {"role": "tool", "content": "3"}, assistant("a")],
    }
    (loaded,) = sft(write_rows(row), tokenizer)
    assert learned(tokenizer, loaded) == "[add {}]<|im_end|>a<|im_end|>"
    (loaded,) = sft(write_rows(row), tokenizer, last_turn_only=True)
    assert learned(tokenizer, loaded) == "a<|im_end|>"


def test_text_and_the_call_after_it_are_one_turn(write_rows, tokenizer):
    turns = [
        turn("human", "q"), turn("gpt", "let me look"), turn("function_call", '{"name": "f", "arguments": {"x": 1}}'),
        turn("observation", "3"), turn("gpt", "a"),
    ]  # fmt: skip
    (loaded,) = sft(write_rows({"conversations": turns}), tokenizer)
    assert learned(tokenizer, loaded) == 'let me look[f {"x": 1}]<|im_end|>a<|im_end|>'


def test_grades_have_a_range(write_rows, bytes_tokenizer):
    def load(*grades, **settings):
        completions = [{"response": str(i), settings.get("grade_key", "overall_score"): grade}
                       for i, grade in enumerate(grades)]  # fmt: skip
        path = write_rows({"prompt": "q", "completions": completions})
        return units_of(PreferenceDataConfig(path=path, **settings), bytes_tokenizer)

    assert len(load(1, 10)) == len(load(0, 0.5, grade_range=[0.0, 1.0])) == len(load(0, 500, grade_key="elo")) == 1
    with pytest.raises(InputError, match="completion 2 has a 'fine-grained_score' of 6, and grades go from 1 to 5"):
        load(1, 6, grade_key="fine-grained_score")
    with pytest.raises(InputError, match=r"^grade_range=\[3\.0\]: give the lowest and the highest grade, as in \[1, 1"):
        PreferenceDataConfig(grade_range=[3.0])


@pytest.mark.parametrize(
    ("answer", "text"), [(42.0, "42"), (-3.0, "-3"), (2.5, "2.5"), (1e20, "1e+20"), (10**18, str(10**18))]
)
def test_an_integer_that_became_a_float_is_an_integer(write_rows, bytes_tokenizer, answer, text):
    (prompt,) = prompts(write_rows({"prompt": "q", "answer": answer}), bytes_tokenizer)
    assert prompt.meta["answer"] == text


def test_a_comparison_s_choice_may_be_a_float(write_rows, bytes_tokenizer):
    row = {"info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1.0}
    ((chosen, _),) = units_of(PreferenceDataConfig(path=write_rows(row)), bytes_tokenizer)
    assert learned(bytes_tokenizer, chosen) == "b<|im_end|>"


def test_a_character_that_the_tokenizer_lacks_is_named_and_not_learnt(write_rows):
    tokenizer = character_tokenizer("0123456789+=")
    with pytest.raises(InputError, match=r":1: the tokenizer of .* has no token for a character \('个'\): use a model"):
        sft(write_rows({"prompt": "7+5=", "response": "12个"}), tokenizer)
    with pytest.raises(InputError, match=r":1: the tokenizer of .* has no token for a character \('七', '加'\)"):
        prompts(write_rows({"prompt": "七加5=", "answer": "12"}), tokenizer)
    (row,) = sft(write_rows({"prompt": "7+5=", "response": "12"}), tokenizer)
    assert tokenizer.unk_token_id not in row.token_ids


def test_the_unknown_token_ends_no_turn():
    """The probe that a template's end is looked for with may itself be unknown."""
    tokenizer = character_tokenizer("雪白")
    assert turn_end_id(tokenizer) == tokenizer.eos_token_id
    assert unknown_id(tokenizer) == tokenizer.unk_token_id
    assert unknown_id(build_byte_level(CALLS_TOOLS)) is None
