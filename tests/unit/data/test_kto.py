"""KTO's rows, and the rows with strangers' completions on which its baseline is estimated."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.kto import KTODataConfig, mismatched_rows
from rlhf.types import InputError, TrainingRow


def load(path, tokenizer):
    config = KTODataConfig(path=path)
    return config.load(tokenizer, context_tokens=100, quarantine=config.quarantine())


def learned(tokenizer, row):
    return tokenizer.decode(row.token_ids[row.loss_mask], clean_up_tokenization_spaces=False)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def test_rows_of_trl_and_pairs(write_rows, bytes_tokenizer):
    path = write_rows(
        {"prompt": "你好", "completion": "好", "label": True},
        {"prompt": [user("q")], "completion": [assistant("bad")], "label": False},
        {"prompt": "q", "completion": "a", "label": 1},
        {"prompt": "q", "chosen": "yes", "rejected": "不"},
        {"chosen": [user("q"), assistant("1")], "rejected": [user("q"), assistant("2")]},
    )
    units = load(path, bytes_tokenizer)
    assert [(learned(bytes_tokenizer, row).removesuffix("<|im_end|>"), row.score) for (row,) in units] == [
        ("好", 1), ("bad", 0), ("a", 1), ("yes", 1), ("不", 0), ("1", 1), ("2", 0),
    ]  # fmt: skip
    assert len({row.prompt_id for (row,) in units}) == 2
    assert units[4][0].source == f"{path}:4"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "q", "completion": "a"}, "the row has no field 'label', its fields are 'prompt', 'completion': se"),
        ({"prompt": "q", "completion": "a", "label": "yes"}, "the field 'label' is text, not true or false: correct"),
        ({"prompt": "q", "completion": "a", "label": None}, "the field 'label' is null, not true or false: correct"),
        ({"prompt": "q", "completion": " ", "label": True}, "the field 'completion' is empty: fill it in, or remove"),
        ({"prompt": "q", "completion": "<|im_end|>", "label": True},
         "the field 'completion' has an answer that tokenises to nothing: correct or remove the row"),
        ({"completion": [user("q")], "label": True}, "the field 'completion' ends with a user's turn: end it with the"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the fields 'chosen' and 'rejected' are the same: remove th"),
        ({"prompt": "q", "completion": "很" * 100, "label": True}, "the row has "),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(write_rows, bytes_tokenizer, row, sentence):
    path = write_rows(row)
    with pytest.raises(InputError, match=re.escape(f"{path}:1: {sentence}")):
        load(path, bytes_tokenizer)


ROWS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3)), min_size=2, max_size=12)


@given(lengths=ROWS, seed=st.integers(0, 3))
def test_every_prompt_gets_another_s_completion_and_every_completion_is_used_once(lengths, seed):
    rows = [
        TrainingRow(
            token_ids=np.array([1000 + i] * prompt + [i] * completion + [5000] * rest, dtype=np.int32),
            loss_mask=np.array([False] * prompt + [True] * completion + [False] * rest),
            score=float(i % 2),
            source=f"f:{i}",
            prompt_id=f"p{i}",
        )
        for i, (prompt, completion, rest) in enumerate(lengths)
    ]
    given_to = mismatched_rows(rows, seed)
    longest = max(row.num_tokens for row in rows)
    partners = []
    for i, row in enumerate(given_to):
        prompt = lengths[i][0]
        assert row.token_ids.dtype == np.int32
        assert (row.token_ids[:prompt] == 1000 + i).all()
        (partner,) = set(row.token_ids[prompt:].tolist())
        assert partner != i
        assert row.loss_mask.tolist() == [False] * prompt + [True] * (row.num_tokens - prompt)
        assert row.num_loss_tokens == min(lengths[partner][1], longest - prompt)
        assert (row.score, row.source, row.prompt_id) == (rows[i].score, rows[i].source, rows[i].prompt_id)
        partners.append(partner)
    assert sorted(partners) == list(range(len(rows)))
    assert [row.token_ids.tolist() for row in mismatched_rows(rows, seed)] == [
        row.token_ids.tolist() for row in given_to
    ]


def test_one_row_has_no_other():
    row = TrainingRow(token_ids=np.array([1, 2], dtype=np.int32), loss_mask=np.array([False, True]))
    with pytest.raises(InputError, match=r"^KTO compares rows with each other and has 1: give at least 2$"):
        mismatched_rows([row], 0)
