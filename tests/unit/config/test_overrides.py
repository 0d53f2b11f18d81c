"""Words as a shell hands them over, and what the configuration makes of them."""

from pathlib import Path

import pytest
from hydra.errors import HydraException

from rlhf.command_line import explain
from rlhf.config import OnlineConfig, SFTRunConfig, compose
from rlhf.overrides import as_overrides, hydra_arguments
from rlhf.types import InputError

ROOT = Path(__file__).parents[3]
REQUIRED = ["model=m", "output=o", "data.path=d"]


def composed(*words: str) -> SFTRunConfig:
    return compose(ROOT / "conf", "sft", [*REQUIRED, *words], SFTRunConfig)


@pytest.mark.parametrize(
    "text",
    [
        "数据/训练.jsonl",
        "/d/é.jsonl",
        "/d/with space/rows.jsonl",
        "/d/rows (1).jsonl",
        "out(1)",
        "/d/split=train/rows.jsonl",
        "/d/it's.jsonl",
        "/d/[v1].jsonl",
        "/d/{v1}.jsonl",
        "/d/a&b#c!.jsonl",
        "{prompt} ...",
        "[INST] {prompt} [/INST]",
        'say "{prompt}", please',
        "first line\nsecond: {prompt}",
        "C:\\数据\\",
        "1e3",
        "true",
        "007",
    ],
)
def test_plain_text_needs_no_quotes(text):
    assert composed(f"data.path={text}").data.path == text


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("data.path='数据'", "data.path='数据'"),
        ("model=null", "model=null"),
        ("optimizer.lr=1e-5", "optimizer.lr=1e-5"),
        ("optimizer.lr=1e-5,1e-6", "optimizer.lr=1e-5,1e-6"),
        ("a=choice(好,1,x)", "a=choice('好',1,x)"),
        ("a=好,b", "a='好',b"),
        ("a={b: [好, {c: 2}]}", "a={b: ['好', {c: 2}]}"),
        ("a=${b}/数据", "a='${b}/数据'"),
        ("a=数据\\,1", "a='数据,1'"),
        ("a=choice()", "a=choice()"),
        ("~a", "~a"),
        ("data.labels=[true,1.0,null]", "data.labels=['true','1.0',null]"),
    ],
)
def test_what_is_no_plain_text_keeps_its_meaning(word, read):
    assert as_overrides([word]) == [read]


def test_a_class_called_true_stays_text():
    assert composed("data.labels=[true,false]").data.labels == ["true", "false"]


def test_options_stand_anywhere():
    words = ["a=é", "--multirun", "b=1", "-cd", "x=y"]
    assert hydra_arguments(words) == ["a='é'", "b=1", "--multirun", "-cd", "x=y"]


def test_home_is_put_into_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["model=~/m", "output=~/o", "data.path=~/d", "data.reader=~/r.py:f", "+held_out.others.web=~/w"]
    config = compose(ROOT / "conf", "sft", words, SFTRunConfig)
    assert (config.model, config.output, config.data.path) == tuple(f"{tmp_path}/{name}" for name in "mod")
    assert config.data.reader == f"{tmp_path}/r.py:f"
    assert config.held_out.others == {"web": f"{tmp_path}/w"}
    rewards = ["reward.functions=[~/r.py:f,exact]", "reward.model=~/judge", "reward.ensemble=[~/judge,~/2]"]
    words = [*REQUIRED, *rewards, "data.template=~/{prompt}"]
    online = compose(ROOT / "conf", "online", words, OnlineConfig)
    assert online.reward.functions == [f"{tmp_path}/r.py:f", "exact"]
    assert online.reward.ensemble == [f"{tmp_path}/judge", f"{tmp_path}/2"]
    assert online.data.template == "~/{prompt}"


def test_nobodys_home_is_an_input_error():
    with pytest.raises(InputError, match=r"^model=~nobody_here/m: there is no such home directory"):
        composed("model=~nobody_here/m")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("train.num_steps", "train.num_steps: it is neither an option nor key=value; write key=value"),
        ("+policies.我的=m", "+policies.我的: keys, and your own names in them, may only have ASCII letters"),
        (
            "+reward.options.my.py:short.max_tokens=4",
            "+reward.options.my.py:short.max_tokens=4: options go by the function's own name, without its file, as in "
            "+reward.options.short.max_tokens=...",
        ),
        ("seed=1,2", "seed=1,2: several values are a sweep, which takes --multirun; a text with a comma is quoted"),
    ],
)
def test_a_word_that_cannot_be_read_is_explained(word, sentence):
    with pytest.raises(HydraException) as raised:
        composed(word)
    assert explain(raised.value).startswith(sentence)


@pytest.mark.parametrize("script", ["launch/sft.py", "launch/serve.py"])
def test_scripts_take_plain_text(run_script, script):
    """The words of a real command line, shown back by Hydra."""
    finished = run_script(script, "output=结果 (1)", "--cfg", "job")
    assert finished.returncode == 0, finished.stderr
    assert "output: 结果 (1)\n" in finished.stdout
    finished = run_script(script, "--foo")
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1)
    assert finished.stderr.startswith("error: unrecognized arguments: --foo; options come from")
