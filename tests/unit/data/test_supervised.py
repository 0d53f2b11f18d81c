import re

import numpy as np
import pytest
from omegaconf import OmegaConf

from rlhf.data.supervised import SupervisedDataConfig, load_supervised
from rlhf.types import InputError, TrainingRow


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


DIALOGUE = [user("你好"), assistant("您好 🙂"), user("what is 12 + 30?"), assistant("42。")]


def load(path, tokenizer, **settings):
    return load_supervised(SupervisedDataConfig(path=path, **settings), tokenizer, context_tokens=120)


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
    (row,) = load(path, bytes_tokenizer, messages_key="messages", limit=1)
    assert learned(bytes_tokenizer, row) == "您好 🙂<|im_end|>42。<|im_end|>"
    row, _ = load(path, bytes_tokenizer, messages_key="messages", last_turn_only=True)
    assert learned(bytes_tokenizer, row) == "42。<|im_end|>"


def test_a_template_that_drops_thinking(write_rows, thinking_tokenizer):
    path = write_rows({"messages": DIALOGUE, "prompt": DIALOGUE[:3], "response": "42。"})
    with pytest.raises(InputError, match=f"^{path}:1: the chat template .* set last_turn_only=true"):
        load(path, thinking_tokenizer, messages_key="messages")
    (row,) = load(path, thinking_tokenizer, messages_key="messages", last_turn_only=True)
    assert learned(thinking_tokenizer, row) == "<think>\n\n</think>\n\n42。<|im_end|>"
    (same,) = load(path, thinking_tokenizer)
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
        ({"prompt": "q", "response": ["a"]}, "the field 'response' is a list, not text: set response_key"),
        ({"prompt": "", "response": "a"}, "the field 'prompt' is empty"),
        ({"prompt": "q", "response": "<|endoftext|>"},
         "the field 'response' has no token to learn, all is masked: correct or remove the row"),
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
        ({"messages": []}, "the field 'messages' is empty, it has no messages: fill it in, or remove the row"),
        ({"messages": "q"}, "the field 'messages' is text, not a list of messages: set messages_key"),
        ({"messages": [user("q")]}, "the field 'messages' has no assistant message to learn: add one, or remove"),
        ({"messages": [user("q"), assistant("\n"), user("q"), assistant("a")]},
         "message 2 of 'messages', an assistant's, is empty: fill it in, or remove the row"),
        ({"messages": [assistant("a")]}, "the dialogue starts with the assistant's turn: put a user message before it"),
    ],
)  # fmt: skip
def test_a_bad_dialogue_is_named(write_rows, bytes_tokenizer, row, sentence):
    path = write_rows({"messages": DIALOGUE}, row)
    with pytest.raises(InputError, match=re.escape(f"{path}:2: ") + ".*" + re.escape(sentence)):
        load(path, bytes_tokenizer, messages_key="messages")


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
