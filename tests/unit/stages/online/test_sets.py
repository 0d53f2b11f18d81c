"""Runs on several prompt sets, from the command line's words to checked prompts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import OnlineConfig, as_plain, as_read, compose
from rlhf.data.order import PromptOrder
from rlhf.stages.inputs import files_of, paths_of
from rlhf.stages.online.conclude import how_to_measure
from rlhf.stages.online.job import Job, prepare
from rlhf.train.measure import figure_names
from rlhf.train.run_folder import replace_key
from rlhf.types import InputError
from tests.unit.stages.online.conftest import BASE, CONF


@pytest.fixture
def job(models: dict[str, Path], tmp_path: Path) -> Callable[..., Job]:
    for name, number in (("plus", 40), ("minus", 20)):
        rows = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(number)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def prepared(*overrides: str) -> Job:
        words = [word.replace("TMP", str(tmp_path)) for word in overrides]
        return prepare(compose(CONF, "online", [*BASE, f"model={models['tied']}", *words], OnlineConfig))

    return prepared


SETS = "+data.sets={plus: {path: TMP/plus.jsonl, weight: 3}, minus: {path: TMP/minus.jsonl}}"


def test_sets_are_drawn_by_weight_and_their_files_are_inputs(job, tmp_path):
    prepared = job(SETS)
    assert len(prepared.prompts) == 60
    assert [prompt.id for prompt in prepared.prompts[:4]] == ["plus-1", "minus-1", "plus-2", "minus-2"]
    order = PromptOrder(prepared.prompts, 0, prepared.config.data.weights)
    assert sum(order.prompt_at(position)[1].data_set == "plus" for position in range(40)) == 30
    assert files_of(as_read(prepared.config)).keys() == {"model", "data.sets.plus.path", "data.sets.minus.path"}
    assert "data.path" not in paths_of(as_plain(prepared.config))
    moved = replace_key(prepared.config, "data.sets.plus.path", "elsewhere.jsonl")
    assert moved.data.sets["plus"].path == "elsewhere.jsonl"
    assert moved.data.sets["minus"].path == f"{tmp_path}/minus.jsonl"


def test_the_printed_command_evaluates_the_same_sets(job):
    import shlex

    constraint = "+reward.constraints={exact: {at_most: 0.9}}"
    config = job(SETS, constraint, "reward.shaping.normalise=true", "+data.sets.plus.reward={exact: 2.0}").config
    config.data.sets["minus"].reward = {"mine.py:short": 1.0}  # checked before
    _, _, *words = shlex.split(how_to_measure(config, Path(config.model), is_dated=False))
    composed = compose(CONF, "online", words, OnlineConfig)
    assert composed.data == config.data
    assert not composed.reward.constraints, "an evaluation has no use for it"


def test_held_out_prompts_are_of_all_sets_and_measured_by_set(job):
    prepared = job(SETS, "validation.fraction=0.3", "validation.num_prompts=6")
    measured = [prompt.data_set for prompt in prepared.measured_prompts]
    assert measured.count("plus") >= 2
    assert measured.count("minus") >= 2
    names = figure_names(prepared.config.validation, prepared.measured_prompts)
    assert {"plus/reward", "plus/success", "minus/reward", "minus/success"} <= set(names)


def test_a_set_of_weight_0_is_measured_only(job):
    prepared = job(SETS, "data.sets.minus.weight=0", "validation.fraction=0.3")
    assert {prompt.data_set for prompt in prepared.prompts} == {"plus"}
    assert {prompt.data_set for prompt in prepared.held_out.prompts} == {"plus", "minus"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["+data.sets.plus.reward={exakt: 1}"], "data.sets.plus.reward names 'exakt', which is no reward of the run; "
         "known are exact: add it to reward.functions"),
        (["+data.sets.plus.reward={reward_model: 1}"], "data.sets.plus.reward names 'reward_model', which is no"),
        (["validation.path=TMP/minus.jsonl"], "with data.sets no file has the held-out prompts of all; leave it null"),
        (["data.sets.plus.limit=1", "validation.fraction=0.9", "stream.prompts_per_step=1"],
         "data.sets.plus: no prompt of the set is left for training with validation.fraction=0.9; lower that"),
        (["curriculum.rest_after=1", "curriculum.part=exakt"], "curriculum.part=exakt: the reward has no such part"),
        (["+reward.constraints={harm: {at_most: 0.1}}"], "reward.constraints=harm: the reward has no such part; known "
         "are exact"),
        (["reward.functions=[exact,format]", "+reward.constraints={format: {at_most: 0.1}}",
          "+data.sets.plus.reward={exact: 1}", "+data.sets.minus.reward={exact: 1}"],
         "reward.constraints.format: it is never measured, since the rewards of plus, minus are without it; add it"),
        (["reward.functions=[exact,format]", "validation.part=format", "+data.sets.plus.reward={exact: 1}"],
         "validation.part=format: the rewards of plus in data.sets are without it; add it to theirs, with weight 0"),
        (["reward.functions=[exact,format]", "algorithm.dynamic_sampling=true",
          "algorithm.dynamic_sampling_part=format", "+data.sets.plus.reward={exact: 1}"],
         "algorithm.dynamic_sampling_part=format: the rewards of plus in data.sets are without it"),
        (["reward.shaping.overlong_buffer=5"], "reward.shaping.overlong_buffer=5: it is more than sampling.max"),
        (["reward.shaping.overlong_buffer=3", "data.sets.plus.max_tokens=2"],
         "reward.shaping.overlong_buffer=3: it is more than data.sets.plus.max_tokens=2; lower it"),
        (["+data.sets.plus.wieght=1"], "data.sets.plus.wieght: there is no such key; did you mean "),
    ],
)  # fmt: skip
def test_sets_that_do_not_fit_the_run(job, words, sentence):
    with pytest.raises(InputError) as caught:
        job(SETS, *words)
    assert sentence in str(caught.value)
