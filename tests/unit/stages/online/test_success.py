"""The command that a run ends with measures its model as the run did."""

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf.config import OnlineConfig, SuccessConfig, as_plain, compose
from rlhf.models.tokenizer import load_tokenizer
from rlhf.rewards.base import ModelInput, RewardConfig
from rlhf.stages.online.success import how_to_evaluate, is_dated, successes
from rlhf.stages.template_date import with_template_date
from rlhf.types import Failure, InputError, Score
from tests.unit.train.fakes import make_group, make_info

DATED = "{{ strftime_now('%d %b %Y') }}{{ messages }}"
CONF = Path(__file__).parents[4] / "conf"
READ = ("seed", "template_date", "data", "reward", "sampling", "sampler", "success", "preflight", "environment",
        "environment_options")  # fmt: skip
ODD = ["data.path=数据/a b.jsonl", "data.template=Solve: {prompt}\n(it's \"easy\", 50% = ½)", "data.system=null",
       r"data.answer_pattern=####\s*(.+)", "data.answer_key=true", "data.prompt_key=a.b", "data.subset='1e3'",
       "reward.functions=[my rewards.py:close,exact]", "reward.weights=[0.5,1e-7]", "+reward.options.exact.by=1.5",
       "sampling.temperature=0.7", "seed=7", "template_date=2026-11-29", "success.part=exact",
       "preflight.min_shm_bytes=1000", "sampler.eager=true",
       "environment=my envs.py:turns", "+environment_options.hint='a: b'"]  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=quickstart"],
        ["experiment=quickstart_ppo"],
        ["experiment=qwen3_8b_grpo_8gpu_colocated", "data.path=train.jsonl", "model=M"],
        ["reward=reward_model", "reward.model=R", "placement.reward=2", "model=M", "data.path=d"],
        ["reward=http", "reward.options.http.url=http://localhost:5000/get?a=1&b=2", "model=M", "data.path=d"],
        ["model=M", *ODD],
    ],
    ids=lambda overrides: overrides[0],
)
def test_it_composes_to_what_the_run_read(overrides, tmp_path):
    config = with_template_date(compose(CONF, "online", [f"output={tmp_path / 'run'}", *overrides], OnlineConfig))
    model = tmp_path / "a run" / "model"
    words = shlex.split(how_to_evaluate(config, model, is_dated=True))
    assert words[:2] == ["python", "launch/evaluate.py"]
    again = compose(CONF, "online", words[2:], OnlineConfig)
    assert (again.model, again.output) == (str(model), "unused")
    before, now = as_plain(config), as_plain(again)
    assert {key: now[key] for key in READ} == {key: before[key] for key in READ}
    assert now["backend"]["precision"] == before["backend"]["precision"]
    assert now["placement"]["reward"] == before["placement"]["reward"]


def test_options_of_a_file_s_reward_are_words_of_a_command_line():
    options = {"my rewards.py:close": {"by": 2}}
    reward = ["reward.functions=[my rewards.py:close]", "output=o", "model=M", "data.path=d"]
    config = compose(CONF, "online", reward, OnlineConfig)
    config.reward.options = options
    words = shlex.split(how_to_evaluate(config, Path("model"), is_dated=False))
    assert "++reward.options.close.by=2" in words
    assert compose(CONF, "online", words[2:], OnlineConfig).reward.options == {"close": {"by": 2}}


def test_the_date_is_a_word_only_if_a_chat_template_writes_it(models, tmp_path):
    config = compose(CONF, "online", ["output=o", "model=M", "data.path=d", "template_date=2026-11-29"], OnlineConfig)
    for shown in (True, False):
        assert ("template_date=" in how_to_evaluate(config, Path("m"), is_dated=shown)) is shown
    plain, dated = SimpleNamespace(chat_template="{{ messages }}"), SimpleNamespace(chat_template=DATED)
    several = SimpleNamespace(chat_template={"default": "{{ messages }}", "tool_use": DATED})
    bare = SimpleNamespace(chat_template=None)
    judge = load_tokenizer(str(models["tied"]))
    judge.chat_template = DATED
    judge.save_pretrained(tmp_path)
    reward = RewardConfig(model=str(tmp_path), model_input=ModelInput.tokens)
    assert [is_dated(reward, each) for each in (plain, dated, several, bare)] == [False, True, True, False]
    assert is_dated(replace(reward, model_input=ModelInput.text), plain), "the reward model's template writes it"


def test_success_is_of_episodes_and_of_a_part_that_their_score_has():
    scores = [Score(value=0.5, parts={"solved": 1.0}), Failure(kind="environment", message="x"), Score(value=1.0)]
    group = make_group(0, [make_info(score, sample=i) for i, score in enumerate(scores)])
    assert successes(group, SuccessConfig()) == [False, False, True]
    with pytest.raises(InputError, match=r"^success.part=solved: the score of an episode has no such part; it has"):
        successes(group, SuccessConfig(part="solved"))
    assert successes(make_group(0, group.infos[:2]), SuccessConfig(part="solved")) == [True, False]
