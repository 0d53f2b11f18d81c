"""Reward models score as transformers does one sequence at a time, and folders that cannot are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
)

from rlhf.data.dialogues import Dialogue
from rlhf.data.preferences import RankingDataConfig
from rlhf.models.heads import Head, config_for
from rlhf.models.reward_model import RewardModel, check_reward_model, check_vocabulary
from rlhf.models.tiny import fit_tiny_reward_model
from rlhf.models.tokenizer import load_tokenizer
from rlhf.types import InputError
from tests.conftest import ALPHABET


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    rated = {f"{text}{text}": float(i % 2) for i, text in enumerate("abcdefgh")}
    fit_tiny_reward_model(folder, rated, alphabet=ALPHABET, hidden_size=64, context_tokens=64, num_steps=3)
    return folder


def alone(folder: Path, ids: list[int]) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits.item()


@pytest.mark.parametrize("max_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("kind", ["judge", "encoder"])
def test_scores_do_not_depend_on_what_is_scored_beside_them(kind, max_tokens, request):
    folder = request.getfixturevalue(kind)
    sequences = [[5, 6, 7], [9], [8, 4, 4, 4, 4, 4, 10, 1], [30, 31, 1], list(range(3, 33))]
    model = RewardModel(str(folder), dtype=torch.float32, max_tokens=max_tokens)
    expected = [alone(folder, ids) for ids in sequences]
    assert model.score(sequences) == pytest.approx(expected, abs=1e-5)
    assert model.score([]) == []


def test_a_sequence_longer_than_the_model_reads_has_no_score(judge):
    first, second = RewardModel(str(judge), dtype=torch.float32, max_tokens=100).score([[5] * 65, [5] * 64])
    assert first != first
    assert second == pytest.approx(alone(judge, [5] * 64), abs=1e-5)


DIALOGUE = Dialogue([{"role": "user", "content": "答案是"}, {"role": "assistant", "content": "12"}])


def test_a_template_that_writes_the_date_writes_the_run_s(judge):
    encoded = []
    for day in ("2026-11-29", "2026-11-30"):
        model = RewardModel(str(judge), dtype=torch.float32, max_tokens=100, template_date=day)
        model.tokenizer.chat_template = "{{ strftime_now('%Y%m%d') }}" + model.tokenizer.chat_template
        encoded.append(model.tokenizer.decode(model.encode([DIALOGUE])[0]["input_ids"]))
    assert encoded == ["20261129答案是12<eos>", "20261130答案是12<eos>"]


def test_text_goes_through_the_model_s_own_template_or_as_a_pair(judge, encoder):
    tokenizer = load_tokenizer(str(judge))
    ids = tokenizer("答案是12<eos>", add_special_tokens=False)["input_ids"]
    (score,) = RewardModel(str(judge), dtype=torch.float32, max_tokens=100).score([DIALOGUE])
    assert score == pytest.approx(alone(judge, ids), abs=1e-5)
    (score,) = RewardModel(str(encoder), dtype=torch.float32, max_tokens=100).score([DIALOGUE])
    pair = load_tokenizer(str(encoder))("答案是", "12", return_token_type_ids=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
    with torch.no_grad():
        assert score == pytest.approx(model(**pair).logits.item(), abs=1e-6)
        plain = model(input_ids=pair["input_ids"]).logits.item()
    assert abs(score - plain) > 1e-5, "the answer is told from the prompt by its token types"


def altered(folder: Path, target: Path, **settings: Any) -> str:
    shutil.copytree(folder, target, dirs_exist_ok=True)
    raw = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**raw, **settings}))
    return str(target)


def test_folders_that_give_no_score_are_refused(judge, models, tmp_path):
    assert check_reward_model(str(judge)) == 64
    with pytest.raises(InputError, match="its architecture is Qwen3ForCausalLM, which has no head for a score"):
        check_reward_model(str(models["tied"]))
    three = altered(judge, tmp_path / "three", id2label={"0": "a", "1": "b", "2": "c"})
    with pytest.raises(InputError, match="it has 3 labels, a reward model has one"):
        check_reward_model(three)
    with pytest.raises(InputError, match=r"its config.json has no pad_token_id"):
        check_reward_model(altered(judge, tmp_path / "unpadded", pad_token_id=None))
    with pytest.raises(InputError, match=r"no config.json there"):
        check_reward_model(str(tmp_path / "nowhere"))


def test_another_vocabulary_is_refused_with_a_token_that_differs(judge, models, tmp_path):
    policy = load_tokenizer(str(models["tied"]))
    check_vocabulary("reward.model", str(judge), str(models["tied"]), policy)
    other = tmp_path / "other"
    fit_tiny_reward_model(other, {"a": 1.0}, alphabet="abcxyz", hidden_size=64, num_steps=1)
    with pytest.raises(InputError) as caught:
        check_vocabulary("reward.model", str(other), str(models["tied"]), policy)
    assert "its vocabulary is not that of the policy" in str(caught.value)
    assert "set reward.model_input=text" in str(caught.value)


def test_a_critic_of_an_architecture_without_one_is_refused(models, tmp_path):
    assert config_for(str(models["tied"]), Head.value).num_labels == 1
    folder = altered(models["tied"], tmp_path / "opt", model_type="codegen")
    with pytest.raises(InputError, match="transformers has no AutoModelForTokenClassification of model_type 'codegen'"):
        config_for(folder, Head.value)


@pytest.mark.parametrize("kind", ["judge", "encoder"])
def test_what_is_scored_is_what_was_trained_on(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    model = RewardModel(str(folder), dtype=torch.float32, max_tokens=100)
    if kind == "judge":  # a template that goes on after the end of the turn, as ChatML does
        model.tokenizer.chat_template = model.tokenizer.chat_template.replace(
            "{{ eos_token }}", "{{ eos_token + ' ' }}"
        )
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "答案是", "chosen": "12", "rejected": "3"}), encoding="utf-8")
    config = RankingDataConfig(path=str(file))
    ((row, _),) = config.load(model.tokenizer, context_tokens=64, quarantine=config.quarantine())
    (inputs,) = model.encode([DIALOGUE])
    assert inputs["input_ids"].tolist() == row.token_ids.tolist()
    assert inputs["input_ids"][-1] == model.tokenizer.convert_tokens_to_ids("<eos>" if kind == "judge" else "2")
    columns = {"token_types": inputs["token_type_ids"].tolist()} if kind == "encoder" else {}
    assert {name: column.tolist() for name, column in row.columns.items()} == columns
