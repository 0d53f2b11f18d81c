"""Held-out rows: rows of one prompt are on one side, whatever the order in which they come."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.split import digest_of_prompt, prompt_groups, split_held_out, split_prompts
from rlhf.types import InputError, Prompt, TrainingRow


def unit(prompt_id, source):
    row = TrainingRow(
        token_ids=np.arange(2, dtype=np.int32), loss_mask=np.array([False, True]), prompt_id=prompt_id, source=source
    )
    return (row, row)


@given(
    prompts=st.lists(st.sampled_from(["", *"abcdef"]), min_size=2, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_every_unit_is_on_one_side_with_those_of_its_prompt(prompts, fraction, seed):
    units = [unit(prompt, str(i)) for i, prompt in enumerate(prompts)]
    wanted = max(1, round(fraction * len(units)))
    try:
        sides = split_held_out(units, fraction, seed)
    except InputError:
        assert all(prompts.count(prompt) > min(wanted, len(units) - 1) for prompt in set(prompts) - {""})
        assert "" not in prompts
        return
    assert sides == split_held_out(units, fraction, seed)
    train, held_out = sides
    assert 0 < len(held_out) <= wanted
    assert train
    assert sorted(int(unit[0].source) for side in sides for unit in side) == list(range(len(units)))
    assert all([int(unit[0].source) for unit in side] == sorted(int(unit[0].source) for unit in side) for side in sides)
    named = [{unit[0].prompt_id for unit in side} - {""} for side in sides]
    assert not named[0] & named[1]


def test_the_share_is_exact_where_prompts_are_alone():
    units = [unit("", str(i)) for i in range(1500)]
    train, held_out = split_held_out(units, 0.2, 0)
    assert (len(train), len(held_out)) == (1200, 300)
    assert split_held_out(units, 0.2, 1)[1] != held_out


def test_prompts_have_numbers():
    assert prompt_groups([unit(name, "") for name in ["a", "", "b", "a", "", "b"]]) == [0, 1, 2, 0, 3, 2]


def test_one_prompt_cannot_be_split():
    with pytest.raises(
        InputError, match=r"^4 rows of 1 prompts or documents cannot be split with 2 held out: the rows"
    ):
        split_held_out([unit("a", "")] * 4, 0.5, 0)


def asked(text: str, answer: str = "", **meta: str) -> Prompt:
    messages = [{"role": "user", "content": text}]
    return Prompt(id=f"{text}/{answer}", messages=messages, token_ids=(1,), source="", meta={"answer": answer, **meta})


MANY = [asked(f"{i}?") for i in range(2000)]


def test_a_prompt_is_held_out_whatever_stands_beside_it():
    train, held_out = split_prompts(MANY, 0.2)
    assert 350 < len(held_out) < 450
    assert sorted([*train, *held_out], key=MANY.index) == MANY
    assert split_prompts(MANY[::-1], 0.2)[1] == held_out[::-1]
    assert split_prompts(MANY[:500], 0.2)[1] == [prompt for prompt in held_out if prompt in MANY[:500]]
    assert set(map(digest_of_prompt, held_out)) < set(map(digest_of_prompt, split_prompts(MANY, 0.3)[1]))


def test_rows_of_one_prompt_stay_together():
    twice = [asked(f"{i}?", answer) for i in range(200) for answer in "ab"]
    for side in split_prompts(twice, 0.5):
        assert len(side) == 2 * len({prompt.messages[0]["content"] for prompt in side})


def test_the_digest_is_of_messages_and_tools_in_every_process():
    assert (
        digest_of_prompt(asked("1+1=", "2")) == digest_of_prompt(asked("1+1=", "3", source="b")) == 0xF2CE73CC59B63F48
    )
    assert digest_of_prompt(asked("é\ud800")) != digest_of_prompt(asked("é"))
    with_tools = replace(asked("1+1="), tools=[{"name": "add"}])
    assert digest_of_prompt(with_tools) != digest_of_prompt(asked("1+1="))
