import re

import pytest
from omegaconf import OmegaConf

from rlhf.data.prompts import PromptDataConfig, load_prompts
from rlhf.types import InputError, Prompt
from tests.oracles.chat import tokenize_prompt

ROOM = {"context_tokens": 200, "max_completion_tokens": 50}


def load(path, tokenizer, **settings):
    return load_prompts(PromptDataConfig(path=path, **settings), tokenizer, **ROOM)


def test_text_and_messages(write_rows, bytes_tokenizer):
    dialogue = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "您好"},
        {"role": "user", "content": "再见"},
    ]
    path = write_rows({"prompt": "你好", "answer": "42", "level": 3}, {"prompt": dialogue, "answer": 7})
    first, second = load(path, bytes_tokenizer)
    assert first == Prompt(
        id="rows-1",
        messages=[{"role": "user", "content": "你好"}],
        token_ids=tokenize_prompt(bytes_tokenizer, [{"role": "user", "content": "你好"}]),
        source=f"{path}:1",
        meta={"answer": "42", "level": 3},
    )
    assert second.messages == dialogue
    assert second.token_ids == tokenize_prompt(bytes_tokenizer, dialogue)
    assert (second.id, second.source, second.meta) == ("rows-2", f"{path}:2", {"answer": "7"})


def test_system_template_and_pattern(write_rows, bytes_tokenizer):
    path = write_rows({"question": "12 + 30 {?}", "answer": "12 + 30 = 42\n#### 42", "split": "a"})
    (prompt,) = load(
        path,
        bytes_tokenizer,
        prompt_key="question",
        answer_pattern=r"####\s*(.+)",
        system="Think.",
        template=r"{prompt} Put it in \boxed{}.",
    )
    assert prompt.messages == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": r"12 + 30 {?} Put it in \boxed{}."},
    ]
    assert prompt.meta == {"answer": "42", "split": "a"}


def test_an_answer_of_another_name_or_none(write_rows, bytes_tokenizer):
    path = write_rows({"prompt": "q", "solution": "long"}, {"prompt": "q", "solution": "long"})
    assert load(path, bytes_tokenizer, answer_key="solution")[0].meta == {"answer": "long", "solution": "long"}
    assert load(path, bytes_tokenizer, answer_key=None, limit=1)[0].meta == {"solution": "long"}
    assert len(load(path, bytes_tokenizer, answer_key=None, limit=1)) == 1
    assert [prompt.id for prompt in load(path, bytes_tokenizer, answer_key=None)] == ["rows-1", "rows-2"]


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": "q", "answer": "a"},
         "the row has no field 'prompt', its fields are 'question', 'answer': set prompt_key to the field that holds"),
        ({}, "the row has no field 'prompt', its fields are none at all"),
        ({"prompt": " \n", "answer": "a"}, "the field 'prompt' is empty: fill it in, or remove the row"),
        ({"prompt": [], "answer": "a"}, "the field 'prompt' is empty, it has no messages"),
        ({"prompt": [user(" ")], "answer": "a"}, "the field 'prompt' is empty, all its messages are blank"),
        ({"prompt": 3, "answer": "a"}, "the field 'prompt' is a number, not text or a list of messages: set"),
        ({"prompt": None, "answer": "a"}, "the field 'prompt' is null, not text or a list of messages"),
        ({"prompt": ["hi"]}, "message 1 of 'prompt' is text, not an object: write {\"role\": ..., \"content\": ...}"),
        ({"prompt": [user("q"), {"from": "human", "value": "q"}]}, "message 2 of 'prompt' has a role that is missing"),
        ({"prompt": [user(["q"])]}, "message 1 of 'prompt' has a part that is text: only"),
        ({"prompt": [{"role": "human", "content": "q"}]},
         "message 1 of 'prompt' has the role 'human': use one of system, developer, user, assistant, tool"),
        ({"prompt": [{**user("q"), "mood": "glad"}], "answer": "a"},
         "message 1 has the key 'mood', which the chat template of models/bytes leaves out: move it into the content"),
        ({"prompt": [user("q"), {"role": "assistant", "content": "a"}]},
         "the field 'prompt' ends with an assistant message, which is not a prompt: remove that message"),
        ({"prompt": "q", "target": "a"}, "the row has no field 'answer', its fields are 'prompt', 'target': set "
         "answer_key to the field that holds the answer, or to null if no reward needs one"),
        ({"prompt": "q", "answer": None}, "the field 'answer' is null, not text or a number: set answer_key"),
        ({"prompt": "q", "answer": True}, "the field 'answer' is a boolean, not text or a number"),
        ({"prompt": "为什么" * 100, "answer": "a"},
         "tokens and a completion of 50 exceed the context of 200 tokens: lower sampling.max_tokens"),
        ({"prompt": "q", "answer": "a", "templated": False}, "the field 'templated' is false, so its prompt is a text"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(write_rows, bytes_tokenizer, row, sentence):
    path = write_rows({"prompt": "q", "answer": "a"}, row)
    with pytest.raises(InputError, match=re.escape(f"{path}:2: ") + ".*" + re.escape(sentence)):
        load(path, bytes_tokenizer)


def test_lengths_are_exact(write_rows, bytes_tokenizer):
    path = write_rows({"prompt": "你好", "answer": "a"})
    config = PromptDataConfig(path=path)
    num_tokens = len(tokenize_prompt(bytes_tokenizer, [user("你好")]))
    assert load_prompts(config, bytes_tokenizer, context_tokens=num_tokens + 5, max_completion_tokens=5)
    with pytest.raises(InputError, match=f":1: the prompt's {num_tokens} tokens and a completion of 6 exceed"):
        load_prompts(config, bytes_tokenizer, context_tokens=num_tokens + 5, max_completion_tokens=6)
    assert load(path, bytes_tokenizer, max_prompt_tokens=num_tokens)
    sentence = f":1: the prompt has {num_tokens} tokens, more than max_prompt_tokens=4: raise it, or remove the row"
    with pytest.raises(InputError, match=sentence):
        load(path, bytes_tokenizer, max_prompt_tokens=4)


def test_refusals_that_need_the_config(write_rows, bytes_tokenizer, byte_level):
    path = write_rows({"prompt": [{"role": "system", "content": "s"}, user("q")], "answer": "no mark"})
    with pytest.raises(InputError, match=":1: the field 'prompt' has a system message of its own: set system to null"):
        load(path, bytes_tokenizer, system="Think.")
    sentence = ":1: answer_pattern='#### (.+)' does not match the field 'answer': correct the pattern or the row"
    with pytest.raises(InputError, match=re.escape(sentence)):
        load(path, bytes_tokenizer, answer_pattern="#### (.+)")
    with pytest.raises(InputError, match=r"^models/bytes has no chat template"):
        load(path, byte_level(None))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"limit": 0}, "limit=0 leaves nothing: set it to at least 1, or to null for no limit"),
        ({"max_prompt_tokens": -1}, "max_prompt_tokens=-1 leaves nothing"),
        ({"template": "Solve {}"}, "template='Solve {}' has no place for the prompt: write {prompt} in it"),
        ({"answer_pattern": "(", }, "answer_pattern='(' is not a regex (missing ), unterminated subpattern at"),
        ({"answer_pattern": "#+"}, "answer_pattern='#+' has no group: put ( ) around the part that is the answer"),
        ({"answer_pattern": "(.)", "answer_key": None}, "answer_pattern='(.)' has no answer to search: set answer_key"),
    ],
)  # fmt: skip
def test_a_bad_config_is_refused_by_hydra(settings, sentence):
    config = OmegaConf.merge(OmegaConf.structured(PromptDataConfig), {"path": "x.jsonl", **settings})
    with pytest.raises(InputError, match=re.escape(sentence)):
        OmegaConf.to_object(config)
