"""Model folders: what is refused, and the tiny model that is made on the spot."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.models.causal_lm import context_length, read_model_config, vocab_size
from rlhf.models.tiny import build_tiny_model
from rlhf.types import InputError


def make_folder(folder: Path, config: object, *, weights: bool = True) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights:
        (folder / "model.safetensors").write_bytes(b"weights")
    return str(folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "absent"), "Qwen/Qwen3-0.6B"):
        sentence = (
            f"model {path!r}: no config.json there; give a local folder in Hugging Face format, or an id of the Hub "
            "such as Qwen/Qwen3-0.6B"
        )
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
            read_model_config(path)


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/models/base"}))
    with pytest.raises(InputError, match=r"it is an adapter \(LoRA\) of /models/base, not a model; give the model"):
        read_model_config(str(tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path):
    path = make_folder(tmp_path / "m", {"vocab_size": 5}, weights=False)
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"no \*\.safetensors there; save the weights in safetensors format"):
        read_model_config(path)


def test_remote_code_is_refused_naming_a_successor(tmp_path):
    path = make_folder(tmp_path / "m", {"auto_map": {"AutoModel": "m.M", "AutoConfig": "c.C"}})
    with pytest.raises(InputError, match=r"its own remote code \(AutoConfig, AutoModel\).*GLM-4 for ChatGLM3"):
        read_model_config(path)


@pytest.mark.parametrize("nested", [False, True])
def test_sizes_are_read_from_the_text_model(tmp_path, nested):
    sizes = {"max_position_embeddings": 128, "vocab_size": 11}
    written = {"text_config": sizes, "vocab_size": 3} if nested else sizes
    config = read_model_config(make_folder(tmp_path / "m", written))
    assert (context_length(config), vocab_size(config)) == (128, 11)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tiny_model_loads_and_round_trips_text(tmp_path, tied):
    build_tiny_model(tmp_path / "m", alphabet="0123456789+= 你好é", hidden_size=32, num_layers=1, tied=tied)
    config = read_model_config(str(tmp_path / "m"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert vocab_size(config) == model.get_input_embeddings().num_embeddings >= len(tokenizer)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    for text in ("1+2=3", "你好 é = 好", " 0 "):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
    messages = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "1+1=2<eos>"
    logits = model(torch.tensor([tokenizer("1+1=")["input_ids"]])).logits
    assert logits.shape == (1, 4, vocab_size(config))
    assert torch.isfinite(logits).all()


def test_a_tiny_model_follows_from_its_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build_tiny_model(tmp_path / name, alphabet="01", hidden_size=32, num_layers=1, seed=seed)
    first, same, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == same
    assert first != other
