import json
import re
from pathlib import Path

import pytest

from rlhf.models.tokenizer import completion_text, eos_token_ids, load_tokenizer, special_ids_to_ban
from rlhf.types import InputError


@pytest.fixture
def folder(tmp_path, bytes_tokenizer) -> Path:
    bytes_tokenizer.save_pretrained(tmp_path)
    return tmp_path


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def test_a_saved_tokenizer_loads_as_it_was(folder, bytes_tokenizer):
    tokenizer = load_tokenizer(str(folder))
    text = "你好 🙂<|im_end|>\n the answer"
    assert tokenizer(text)["input_ids"] == bytes_tokenizer(text)["input_ids"]
    assert tokenizer.chat_template == bytes_tokenizer.chat_template
    assert tokenizer.name_or_path == str(folder)


def test_folders_without_a_tokenizer(tmp_path):
    remedy = "give a local model folder with config.json and tokenizer.json"
    with pytest.raises(InputError, match=f"^Qwen/Qwen3-0.6B does not exist: {remedy}$"):
        load_tokenizer("Qwen/Qwen3-0.6B")
    with pytest.raises(InputError, match=f"^{tmp_path} is empty: {remedy}$"):
        load_tokenizer(str(tmp_path))
    write(tmp_path, "config.json", {"model_type": "qwen2"})  # transformers would build an empty Qwen2Tokenizer
    with pytest.raises(InputError, match=f"^{tmp_path} has no tokenizer: copy tokenizer.json and tokenizer_config"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(InputError, match=f"config.json is a file, not a folder: {remedy}"):
        load_tokenizer(f"{tmp_path}/config.json")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"added_tokens": [], "model": {"type": "BPE"}}'])
def test_a_broken_tokenizer(tmp_path, content):
    write(tmp_path, "tokenizer.json", content)
    with pytest.raises(InputError, match=f"^{tmp_path} has a tokenizer that does not load .*: copy tokenizer.json"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_with_what_to_use_instead(folder, name):
    write(folder, name, {"model_type": "chatglm", "auto_map": {"AutoTokenizer": ["tokenization_chatglm.T", None]}})
    sentence = (
        f"{folder}/{name} has auto_map, so the model needs remote code, which is never run: use a model that "
        f"transformers supports itself (GLM-4 or Qwen3 instead of ChatGLM3 or Baichuan2), or remove auto_map "
        f"if transformers supports this one"
    )
    with pytest.raises(InputError, match=re.escape(sentence)):
        load_tokenizer(str(folder))


def test_ban_special_and_padded_ids_but_not_the_ends(bytes_tokenizer):
    size = len(bytes_tokenizer)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    endoftext, start, end = bytes_tokenizer.convert_tokens_to_ids(names)
    padded = list(range(size, size + 8))
    assert special_ids_to_ban(bytes_tokenizer, size + 8, [end]) == [endoftext, start, *padded]
    assert special_ids_to_ban(bytes_tokenizer, size, [end, endoftext]) == [start]
    assert special_ids_to_ban(bytes_tokenizer, start, []) == [endoftext], "no id outside the model's vocabulary"


def test_what_a_completion_can_contain_is_sampled_and_read(byte_level, bytes_tokenizer):
    content = ["<think>", "</think>", "<tool_call>", "[TOOL_CALLS]", "<|scratchpad|>"]
    never = ["<|image_pad|>", "<start_of_image>", "<|reserved_special_token_7|>", "<unused3>", "<|fim_prefix|>"]
    tokenizer = byte_level(bytes_tokenizer.chat_template)
    tokenizer.add_special_tokens({"additional_special_tokens": [*content, *never]})
    end = tokenizer.eos_token_id
    banned = tokenizer.convert_ids_to_tokens(special_ids_to_ban(tokenizer, len(tokenizer), [end]))
    assert set(banned) == {"<|endoftext|>", "<|im_start|>", *never}
    token_ids = tokenizer("<think>a</think>[TOOL_CALLS]b<|im_end|>", add_special_tokens=False)["input_ids"]
    assert completion_text(tokenizer, token_ids, [end]) == "<think>a</think>[TOOL_CALLS]b"


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [(None, None, [2]), (0, None, [0, 2]), ([2, 0], 1, [0, 1, 2]), (None, [7, 1], [1, 2, 7])],
)
def test_eos_ids_are_the_union(folder, bytes_tokenizer, generation, config, expected):
    assert bytes_tokenizer.eos_token_id == 2
    write(folder, "generation_config.json", {"eos_token_id": generation})
    write(folder, "config.json", {} if config is None else {"eos_token_id": config})
    assert eos_token_ids(str(folder), bytes_tokenizer) == expected


def test_eos_ids_that_are_none_or_no_ids(folder):
    tokenizer = load_tokenizer(str(folder))
    write(folder, "config.json", {"eos_token_id": "</s>"})
    with pytest.raises(InputError, match=f"{folder}/config.json has eos_token_id=</s>: write an integer or a list of"):
        eos_token_ids(str(folder), tokenizer)
    write(folder, "config.json", "{")
    with pytest.raises(InputError, match=f"{folder}/config.json is not JSON .*: copy it from the model again"):
        eos_token_ids(str(folder), tokenizer)
    write(folder, "config.json", [])
    with pytest.raises(InputError, match=f"{folder}/config.json is not a JSON object: copy it from the model again"):
        eos_token_ids(str(folder), tokenizer)
    write(folder, "config.json", {})
    tokenizer.eos_token = None
    with pytest.raises(InputError, match=f"^{folder} names no end-of-sequence token: set eos_token_id in generation"):
        eos_token_ids(str(folder), tokenizer)
