"""The tokenizer of a local model folder, and the ids that end or never appear in a completion."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.data.chat import turn_end_id, turn_opener_ids
from rlhf.data.turns import named_ids, special_ids
from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Without any of these files transformers 5 silently builds an empty tokenizer of the class that config.json names.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json",
)  # fmt: skip

_NO_CONTENT = re.compile(
    r"(?<![a-z])(image|img|video|audio|vision|speech|reserved|unused|fim|pad)|(begin|end|start).?of.?(text|sentence)|endoftext",
    re.IGNORECASE,
)
"""Tokens that are not content: placeholders of images and sound, reserved tokens, code infilling, text boundaries."""


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the folder `path`. Nothing is downloaded, and no code of the folder is run."""
    folder = Path(path)
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{path} {found}: give a local model folder with config.json and tokenizer.json")
    if not any(folder.iterdir()):
        raise InputError(f"{path} is empty: give a local model folder with config.json and tokenizer.json")
    _refuse_remote_code(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(f"{path} has no tokenizer: copy tokenizer.json and tokenizer_config.json of its model into it")

    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises Exception itself
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path} has a tokenizer that does not load ({reason}): copy tokenizer.json and tokenizer_config.json "
            f"of its model into it again"
        ) from error


def special_ids_to_ban(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_token_ids: Collection[int]
) -> list[int]:
    """Return the ids below `vocab_size` that no completion may contain, except end tokens: ids without a token, special
    tokens with a name (`pad_token`), tokens that open a turn, and placeholders of images and the like.

    Other special tokens are content: a completion may think between `<think>` and `</think>`, or call a tool.
    """
    unused = set(range(vocab_size)) - set(tokenizer.get_vocab().values())
    special = sorted(special_ids(tokenizer))
    tokens = zip(special, tokenizer.convert_ids_to_tokens(special), strict=True)
    never = {token_id for token_id, token in tokens if _NO_CONTENT.search(token)}
    banned = (unused | named_ids(tokenizer) | never | turn_opener_ids(tokenizer)) - set(eos_token_ids)
    return sorted(token_id for token_id in banned if token_id < vocab_size)


def completion_text(
    tokenizer: PreTrainedTokenizerBase, token_ids: Iterable[int], stop_token_ids: Collection[int]
) -> str:
    """Return a completion as rewards read it: without end tokens, and with `<think>` even if that token is special."""
    kept = [token_id for token_id in map(int, token_ids) if token_id not in stop_token_ids]
    return str(tokenizer.decode(kept, skip_special_tokens=False))


def eos_token_ids(path: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every id that ends a sequence according to the tokenizer, generation_config.json or config.json; at least
    one."""
    ids: set[int] = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        value = _read_json(Path(path, name)).get("eos_token_id")
        found = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token_id) is int for token_id in found):
            raise InputError(f"{path}/{name} has eos_token_id={value}: write an integer or a list of integers")
        ids.update(found)
    if not ids:
        raise InputError(f"{path} names no end-of-sequence token: set eos_token_id in generation_config.json")
    return sorted(ids)


def stop_token_ids(path: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every id that ends a rollout, in rising order: the ends of a sequence and of the assistant's turn."""
    return tuple(sorted({*eos_token_ids(path, tokenizer), turn_end_id(tokenizer)}))


def _refuse_remote_code(folder: Path) -> None:
    for name in ("tokenizer_config.json", "config.json"):
        if _read_json(folder / name).get("auto_map"):
            raise InputError(
                f"{folder / name} has auto_map, so the model needs remote code, which is never run: use a model that "
                f"transformers supports itself (GLM-4 or Qwen3 instead of ChatGLM3 or Baichuan2), or remove auto_map "
                f"if transformers supports this one"
            )


def _read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in the file; empty if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): copy it from the model again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: copy it from the model again")
    return value
