"""Location of turns in the tokens of a rendered dialogue, and the tokens that open and end turns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAG = re.compile(r"<(/?)([\w-]{2,})>")
_NAMED = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id",
          "mask_token_id")  # fmt: skip


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the special tokens, also of those without a name such as `eos_token` (ChatML's `<|im_start|>`)."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}


def named_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the special tokens that have a name in the tokenizer: `bos_token`, `pad_token` and so on."""
    return {token_id for name in _NAMED if (token_id := getattr(tokenizer, name)) is not None}


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the special tokens that are not content. Pairs of tags (`<think>`, `</think>`, `<tool_call>`) are content:
    some tokenizers flag them as special, though answers contain them."""
    return _control_ids(tokenizer, len(tokenizer))


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token for text that the tokenizer has no token for; None if it has no such token, or the token has
    another meaning too (Qwen2's `<|endoftext|>`)."""
    others = {getattr(tokenizer, name) for name in _NAMED if name != "unk_token_id"}
    return None if tokenizer.unk_token_id in others else tokenizer.unk_token_id


@lru_cache(maxsize=8)
def _control_ids(tokenizer: PreTrainedTokenizerBase, _num_tokens: int) -> frozenset[int]:
    """Compute `control_ids` once; `_num_tokens` changes the cache's key when tokens are added."""
    special, named = special_ids(tokenizer), named_ids(tokenizer)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    tokens = tokenizer.convert_ids_to_tokens(list(special))
    tags = {token_id for token_id, token in zip(special, tokens, strict=True) if is_tag(token, added)}
    return frozenset(special - (tags - named) - {unknown_id(tokenizer)})


def is_tag(token: str, added: Collection[str]) -> bool:
    """Return whether the token opens or closes a pair of tags, whose other half is among the `added` tokens too."""
    match = _TAG.fullmatch(token)
    return match is not None and f"<{'' if match[1] else '/'}{match[2]}>" in added


class Tokens(NamedTuple):
    """A text's tokens and where they are in it."""

    ids: np.ndarray  # [T] int32
    starts: np.ndarray  # [T] int64, the first character of each
    ends: np.ndarray  # [T] int64, the character after its last
    is_control: np.ndarray  # [T] bool
    is_blank: np.ndarray  # [T] bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
        if not tokenizer.is_fast:
            raise InputError(
                f"{tokenizer.name_or_path} has no fast tokenizer, which maps tokens to text: add tokenizer.json"
            )
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = encoded["input_ids"]
        starts, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        control = control_ids(tokenizer)
        is_control: np.ndarray = np.array([token_id in control for token_id in ids], dtype=bool)
        is_blank = np.array([not text[start:end].strip() for start, end in zip(starts, ends, strict=True)], dtype=bool)
        return cls(np.array(ids, dtype=np.int32), starts, ends, is_control, is_blank)

    @classmethod
    def after_prompts(cls, tokenizer: PreTrainedTokenizerBase, text: str, starts: Sequence[int]) -> Tokens:
        """Return the tokens of `text`, in which an answer begins at each of `starts`, after the tokens of its prompt.

        A prompt that ends in a blank, or in `<think>` and a newline, may share its last token with the answer's
        beginning. In a rollout it never does, since the answer continues after the prompt's own tokens, so the text is
        cut there.
        """
        whole = cls.of(tokenizer, text)
        cuts = [start for start in starts if not whole.begin_with(cls.of(tokenizer, text[:start]))]
        if not cuts:
            return whole
        edges = [0, *cuts, len(text)]
        parts = [cls.of(tokenizer, text[i:j]).shift(i) for i, j in itertools.pairwise(edges)]
        joined = cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        if tokenizer.decode(joined.ids) != tokenizer.decode(whole.ids):
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} ends its prompts within a token, and its tokenizer "
                f"cannot continue from there: set chat_template to a file whose generation prompt ends in a special "
                f"token or a newline"
            )
        return joined

    def begin_with(self, prompt: Tokens) -> bool:
        return np.array_equal(self.ids[: len(prompt.ids)], prompt.ids)

    def shift(self, by: int) -> Tokens:
        return self._replace(starts=self.starts + by, ends=self.ends + by)

    def inside(self, start: int, stop: int) -> np.ndarray:  # [N] int64
        """Indices of the tokens that hold some of the characters from `start` to before `stop`."""
        # Compares ends: a byte-level tokenizer with trim_offsets gives leading blanks no width, where they end.
        return np.flatnonzero((self.ends > start) & (self.starts < stop))

    def closing(self, inside: np.ndarray, known: Collection[int] = ()) -> int | None:
        """Return the index of the special token that closes a turn, after the written tokens of `inside`: the first of
        the `known` ends, else the first special token."""
        written = inside[~self.is_control[inside] & ~self.is_blank[inside]]
        tail = inside[inside > written[-1]] if written.size else inside
        closing = tail[self.is_control[tail]]
        ends = [index for index in closing if self.ids[index] in known]
        return int((ends or closing)[0]) if closing.size else None

    def next_opener(self, inside: np.ndarray) -> int | None:
        """Return the index of the special token that opens the next turn and thereby ends the turn `inside`, as GLM's
        `<|user|>` does. None if there is no such token, or it opens every turn, this one too (`<|im_start|>`)."""
        following = int(inside[-1]) + 1 if inside.size else len(self.ids)
        if following >= len(self.ids) or not self.is_control[following]:
            return None
        openers = np.flatnonzero(self.is_control[:following])
        return None if openers.size and self.ids[openers[-1]] == self.ids[following] else following

    def closed_by(self, token_id: int, text: str) -> Tokens:
        """Return these tokens with one more at the end, which is not in the text."""
        end = (token_id, len(text), len(text), True, True)
        return Tokens(*(np.append(column, value).astype(column.dtype) for column, value in zip(self, end, strict=True)))
