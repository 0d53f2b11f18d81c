"""Models that cannot become a reward model are refused before Ray starts."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf.config import RewardModelRunConfig, compose
from rlhf.models.tokenizer import load_tokenizer
from rlhf.stages.offline.reward_model import check_model
from rlhf.types import InputError

CONF = Path(__file__).parents[4] / "conf"


def configured(model: Path, *overrides: str) -> RewardModelRunConfig:
    base = [f"model={model}", "output=unused", "data.path=unused"]
    return compose(CONF, "reward_model", [*base, *overrides], RewardModelRunConfig)


def test_policies_reward_models_and_encoders_will_do(models: dict[str, Path], encoder: Path) -> None:
    for folder in (models["tied"], models["judge"]):
        check_model(configured(folder), load_tokenizer(str(folder)))
    check_model(configured(encoder, "backend.packed=false"), load_tokenizer(str(encoder)))


def test_a_head_of_several_labels_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "three"
    shutil.copytree(models["judge"], folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    with pytest.raises(
        InputError, match="it is a Qwen3ForSequenceClassification with 3 labels, a reward model has one"
    ):
        check_model(configured(folder), load_tokenizer(str(folder)))


def test_an_encoder_s_rows_cannot_lie_end_to_end(encoder: Path) -> None:
    with pytest.raises(InputError, match=r"^backend.packed=true: .* set backend.packed=false"):
        check_model(configured(encoder, "backend.packed=true"), load_tokenizer(str(encoder)))


def test_a_model_without_a_padding_token_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "unpadded"
    shutil.copytree(models["tied"], folder)
    for name in ("config.json", "tokenizer_config.json"):
        raw = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in raw.items() if "pad_token" not in key}))
    with pytest.raises(InputError, match=r"neither its config.json nor its tokenizer has a padding token"):
        check_model(configured(folder), load_tokenizer(str(folder)))


def test_padding_with_the_token_that_ends_a_turn_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "same"
    shutil.copytree(models["tied"], folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "pad_token_id": raw["eos_token_id"]}))
    with pytest.raises(InputError, match="its padding token is the one that ends a turn"):
        check_model(configured(folder), load_tokenizer(str(folder)))
