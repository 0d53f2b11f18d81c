"""The command that a run ends with measures its model as the run did."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf.config import OnlineConfig, as_plain, compose
from rlhf.models.tokenizer import load_tokenizer
from rlhf.rewards.base import ModelInput, RewardConfig
from rlhf.stages.online.conclude import DURING_TRAINING, how_to_measure, is_dated, measured_on, success_of_best
from rlhf.stages.online.job import prepare
from rlhf.stages.template_date import with_template_date
from rlhf.train.run_folder import RunFolder
from rlhf.train.tracking import SAMPLES, write_samples

DATED = "{{ strftime_now('%d %b %Y') }}{{ messages }}"
CONF = Path(__file__).parents[4] / "conf"
READ = ("seed", "template_date", "data", "reward", "sampling", "sampler", "preflight", "environment",
        "environment_options")  # fmt: skip
ODD = ["data.path=数据/a b.jsonl", "data.template=Solve: {prompt}\n(it's \"easy\", 50% = ½)", "data.system=null",
       r"data.answer_pattern=####\s*(.+)", "data.answer_key=true", "data.prompt_key=a.b", "data.subset='1e3'",
       "reward.functions=[my rewards.py:close,exact]", "reward.weights=[0.5,1e-7]", "+reward.options.exact.by=1.5",
       "sampling.temperature=0.7", "seed=7", "template_date=2026-11-29", "validation.part=exact",
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
        [
            "experiment=tiny_grpo",
            "validation.fraction=0.3",
            "validation.every=5",
            "validation.pass_at=[1,4]",
            "checkpoint.keep_best=validation/pass@4",
            "validation.patience=2",
            "validation.source_key=a.b",
        ],
    ],
    ids=lambda overrides: overrides[0],
)
def test_it_composes_to_what_the_run_read(overrides, tmp_path):
    config = with_template_date(compose(CONF, "online", [f"output={tmp_path / 'run'}", *overrides], OnlineConfig))
    model = tmp_path / "a run" / "model"
    words = shlex.split(how_to_measure(config, model, is_dated=True))
    assert words[:2] == ["python", "launch/measure.py"]
    again = compose(CONF, "online", words[2:], OnlineConfig)
    assert (again.model, again.output) == (str(model), "unused")
    before, now = as_plain(config), as_plain(again)
    assert {key: now[key] for key in READ} == {key: before[key] for key in READ}
    kept = [name for name in before["validation"] if f"validation.{name}" not in DURING_TRAINING]
    assert {name: now["validation"][name] for name in kept} == {name: before["validation"][name] for name in kept}
    assert now["stream"]["prompts_per_step"] == before["stream"]["prompts_per_step"]
    assert now["backend"]["precision"] == before["backend"]["precision"]
    assert now["placement"]["reward"] == before["placement"]["reward"]


def test_options_of_a_file_s_reward_are_words_of_a_command_line():
    options = {"my rewards.py:close": {"by": 2}}
    reward = ["reward.functions=[my rewards.py:close]", "output=o", "model=M", "data.path=d"]
    config = compose(CONF, "online", reward, OnlineConfig)
    config.reward.options = options
    words = shlex.split(how_to_measure(config, Path("model"), is_dated=False))
    assert "++reward.options.close.by=2" in words
    assert compose(CONF, "online", words[2:], OnlineConfig).reward.options == {"close": {"by": 2}}


def test_the_date_is_a_word_only_if_a_chat_template_writes_it(models, tmp_path):
    config = compose(CONF, "online", ["output=o", "model=M", "data.path=d", "template_date=2026-11-29"], OnlineConfig)
    for shown in (True, False):
        assert ("template_date=" in how_to_measure(config, Path("m"), is_dated=shown)) is shown
    plain, dated = SimpleNamespace(chat_template="{{ messages }}"), SimpleNamespace(chat_template=DATED)
    several = SimpleNamespace(chat_template={"default": "{{ messages }}", "tool_use": DATED})
    bare = SimpleNamespace(chat_template=None)
    judge = load_tokenizer(str(models["tied"]))
    judge.chat_template = DATED
    judge.save_pretrained(tmp_path)
    reward = RewardConfig(model=str(tmp_path), model_input=ModelInput.tokens)
    assert [is_dated(reward, each) for each in (plain, dated, several, bare)] == [False, True, True, False]
    assert is_dated(replace(reward, model_input=ModelInput.text), plain), "the reward model's template writes it"


def test_prompts_on_which_success_is_measured_are_named(tmp_path, models):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) + "\n"
                            for a in range(5) for b in range(5)))  # fmt: skip
    base = ["output=unused", f"model={models['tied']}", f"data.path={rows}", "sampling.max_tokens=4",
            "sampler.context_tokens=64", "stream.prompts_per_step=4"]  # fmt: skip
    for word, sentence in (
        ("validation.num_prompts=7", "7 prompts of the training; hold some out with validation.fraction or"),
        ("validation.fraction=0.4", "15 held-out prompts"),
    ):
        assert measured_on(prepare(compose(CONF, "online", [*base, word], OnlineConfig))).startswith(sentence)


def test_the_best_model_has_the_success_and_completions_of_its_own_validation(tmp_path):
    for step, text in ((-1, "a"), (3, "b"), (5, "c")):
        write_samples(tmp_path / SAMPLES, step, [{"prompt": "1+1=", "completion": text}])
    manifest = {"step": 4, "metrics": {"validation/success": 0.75}}
    best = success_of_best(RunFolder(tmp_path), manifest)
    assert (best.rate, best.samples) == (0.75, [("1+1=", "b")])
