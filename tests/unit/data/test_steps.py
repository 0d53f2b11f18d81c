"""Steps of an answer: the last token of each carries its label."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.steps import StepDataConfig
from rlhf.types import InputError

PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def load(path, tokenizer, **settings):
    config = StepDataConfig(path=path, **settings)
    return [row for (row,) in config.load(tokenizer, context_tokens=400, quarantine=config.quarantine())]


def through(tokenizer, row):
    """The text through each labelled token, with the label."""
    positions = np.flatnonzero(row.loss_mask).tolist()
    return [
        (tokenizer.decode(row.token_ids[: i + 1], clean_up_tokenization_spaces=False), row.columns["targets"][i])
        for i in positions
    ]


@pytest.mark.parametrize("name", ["bytes_tokenizer", "trimming_tokenizer", "chars_tokenizer"])
@pytest.mark.parametrize("key", ["steps", "completions"])
def test_labels_are_at_the_ends_of_steps(write_rows, request, name, key):
    tokenizer = request.getfixturevalue(name)
    path = write_rows({"prompt": "what?", key: ["12 + 30 ", "今天天气很好，", "is 42."], "labels": [True, 0.5, False]})
    (row,) = load(path, tokenizer)
    start = PROMPT.format("what?")
    assert through(tokenizer, row) == [
        (start + "12 + 30", 1.0),
        (start + "12 + 30\n今天天气很好，", 0.5),
        (start + "12 + 30\n今天天气很好，\nis 42.<|im_end|>", 0.0),
    ]
    assert row.loss_mask[-1], "the row ends with the turn, as a rollout does"
    assert row.columns["targets"].dtype == np.float32
    assert not row.columns["targets"][~row.loss_mask].any()


def test_unknown_labels_are_masked(write_rows, bytes_tokenizer):
    path = write_rows({"prompt": "q", "steps": ["a", "a", "b"], "labels": [-1, 1, None]})
    (row,) = load(path, bytes_tokenizer, separator="\n\n")
    assert through(bytes_tokenizer, row) == [(PROMPT.format("q") + "a\n\na", 1.0)]
    assert bytes_tokenizer.decode(row.token_ids).endswith("a\n\na\n\nb<|im_end|>")


def test_a_step_that_the_template_writes_too(write_rows, bytes_tokenizer):
    (row,) = load(write_rows({"prompt": "q", "steps": ["end"], "labels": [1]}), bytes_tokenizer)
    assert through(bytes_tokenizer, row) == [(PROMPT.format("q") + "end<|im_end|>", 1.0)]
    (row,) = load(write_rows({"prompt": "q", "steps": ["e", "nd"], "labels": [0, 1]}), bytes_tokenizer, separator="|")
    assert through(bytes_tokenizer, row)[0] == (PROMPT.format("q") + "e", 0.0)


STEP = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<"), min_size=1).filter(
    lambda text: text.strip() == text
)


@given(steps=st.lists(STEP, min_size=1, max_size=5), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_step_is_found(tmp_path_factory, bytes_tokenizer, steps, data):
    labels = data.draw(st.lists(st.sampled_from([0, 1]), min_size=len(steps), max_size=len(steps)))
    path = tmp_path_factory.getbasetemp() / "steps.jsonl"
    path.write_text(json.dumps({"prompt": "q", "steps": steps, "labels": labels}), encoding="utf-8")
    (row,) = load(str(path), bytes_tokenizer, separator="<|endoftext|>")
    found = through(bytes_tokenizer, row)
    expected = [PROMPT.format("q") + "<|endoftext|>".join(steps[: n + 1]) for n in range(len(steps))]
    expected[-1] += "<|im_end|>"
    assert found == list(zip(expected, labels, strict=True))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "q", "labels": [1]}, "the row has no field 'steps', its fields are 'prompt', 'labels': set steps_"),
        ({"prompt": "q", "steps": ["a"]}, "the row has no field 'labels', its fields are 'prompt', 'steps': set label"),
        ({"steps": ["a"], "labels": [1]}, "the row has no field 'prompt', its fields are 'steps', 'labels': set promp"),
        ({"prompt": "q", "steps": "a", "labels": [1]}, "the field 'steps' is text, not a list: correct or remove the"),
        ({"prompt": "q", "steps": [], "labels": []}, "the field 'steps' is empty, it has no steps: fill it in, or rem"),
        ({"prompt": "q", "steps": ["a", "b"], "labels": [1]},
         "the field 'steps' has 2 steps and 'labels' 1 labels: give each step one label, -1 for unknown"),
        ({"prompt": "q", "steps": ["a", " "], "labels": [1, 0]}, "step 2 of 'steps' is empty: fill it in, or remove"),
        ({"prompt": "q", "steps": ["a", 3], "labels": [1, 0]}, "step 2 of 'steps' is a number, not text: correct or"),
        ({"prompt": "q", "steps": ["a"], "labels": ["+"]}, "label 1 of 'labels' is text: give 0 to 1, true, false, or"),
        ({"prompt": "q", "steps": ["a"], "labels": [2]}, "label 1 of 'labels' is 2: give 0 to 1, true, false, or -1 f"),
        ({"prompt": "q", "steps": ["a"], "labels": [-1]},
         "the field 'labels' has no known label, so all is masked: label a step, or remove the row"),
        ({"prompt": "q", "steps": ["很" * 400], "labels": [1]}, "the row has "),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(write_rows, bytes_tokenizer, row, sentence):
    path = write_rows(row)
    with pytest.raises(InputError, match=re.escape(f"{path}:1: {sentence}")):
        load(path, bytes_tokenizer)


def test_steps_that_share_a_token(write_rows, bytes_tokenizer):
    path = write_rows({"prompt": "q", "steps": ["the an", "sw", "er"], "labels": [1, 1, 1]})
    assert bytes_tokenizer.tokenize("the answer")[-1].endswith("answer")
    with pytest.raises(InputError, match=":1: two steps end within one token: join them, or set separator to a text"):
        load(path, bytes_tokenizer, separator="")


def test_an_answer_the_template_changes(write_rows, byte_level, bytes_tokenizer):
    tokenizer = byte_level(bytes_tokenizer.chat_template.replace("m.content", "m.content | upper"))
    with pytest.raises(
        InputError, match="does not render the answer as it is, so its steps cannot be found: change the"
    ):
        load(write_rows({"prompt": "q", "steps": ["a", "b"], "labels": [1, 1]}), tokenizer)
