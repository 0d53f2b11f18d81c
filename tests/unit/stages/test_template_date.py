"""A chat template that writes today's date renders the same rows when a run continues on another day."""

import datetime
import json
import pickle
from pathlib import Path

import pytest

from rlhf.config import OnlineConfig, SFTRunConfig, as_plain
from rlhf.data.chat import render
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.data.template_clock import fix_date
from rlhf.models.tokenizer import load_tokenizer
from rlhf.stages.inputs import fingerprint
from rlhf.stages.template_date import today, with_template_date
from rlhf.train.run_folder import open_run_folder
from rlhf.types import InputError

TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}{% endif %}"
)
MESSAGES = [{"role": "user", "content": "1"}]
FIRST = "2020-02-29"


def make(kind: str, output: Path) -> OnlineConfig | SFTRunConfig:
    if kind == "online":
        return OnlineConfig(model="m", output=str(output))
    return SFTRunConfig(model="m", output=str(output), data=SupervisedDataConfig(path="d"))


@pytest.mark.parametrize("kind", ["online", "sft"])
def test_a_continuation_keeps_the_first_day(tmp_path, kind):
    config = make(kind, tmp_path / "run")
    assert with_template_date(config).template_date == today()
    started = with_template_date(make(kind, tmp_path / "run"))
    started.template_date = FIRST  # it began some years ago
    with open_run_folder(config.output, as_plain(started)):
        pass
    continued = with_template_date(make(kind, tmp_path / "run"))
    assert continued.template_date == FIRST
    with open_run_folder(config.output, as_plain(continued)):
        pass
    assert json.loads((tmp_path / "run" / "config.json").read_text())["template_date"] == FIRST
    continued.template_date = "2021-01-01"
    sentence = r"template_date was 2020-02-29 and is 2021-01-01"
    with pytest.raises(InputError, match=sentence), open_run_folder(config.output, as_plain(continued)):
        pass
    # A pipeline keeps a stage that was made on another day.
    assert fingerprint(kind, as_plain(config)) == fingerprint(kind, as_plain(started))


def test_the_template_writes_the_fixed_day_and_the_saved_one_the_present(models, tmp_path):
    tokenizer = load_tokenizer(str(models["tied"]))
    tokenizer.chat_template = TEMPLATE
    fix_date(tokenizer, FIRST)
    for each in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        assert render(each, MESSAGES, add_generation_prompt=True).startswith("29 Feb 2020")
    tokenizer.save_pretrained(tmp_path)
    saved = load_tokenizer(str(tmp_path))
    assert saved.chat_template == TEMPLATE
    now = datetime.datetime.now().strftime("%d %b %Y")
    assert render(saved, MESSAGES, add_generation_prompt=True).startswith(now)
    fix_date(tokenizer, None)
    assert render(tokenizer, MESSAGES, add_generation_prompt=True).startswith(now)
    with pytest.raises(InputError, match=r"^template_date=yesterday: give a day as in 2026-11-29"):
        fix_date(tokenizer, "yesterday")
