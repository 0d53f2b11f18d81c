"""Documents for continued pretraining: a domain's documents, mixed with general ones so that less is forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rlhf.data.arrow import DEFAULT_SPLIT
from rlhf.data.base import Parts, SFTDataConfig
from rlhf.data.dialogues import digest
from rlhf.data.fields import BadRow, Defect, take_text
from rlhf.data.files import Refuse, Row, refuse_splits
from rlhf.data.quarantine import Quarantine
from rlhf.data.split import prompt_groups, split_held_out
from rlhf.types import InputError, TrainingRow, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST = 3
"""Smallest `max_tokens`: with it every chunk of a document has at least 2 tokens, so that one can be learnt."""


@dataclass(kw_only=True, slots=True)
class TextDataConfig(SFTDataConfig):
    """Documents, learnt from the second token to the end-of-sequence token.

    A .txt file is one document, since blank lines part paragraphs too; a folder of .txt files has one in each.
    """

    max_tokens: int | None = None
    """Tokens of the longest row. A longer document is cut into consecutive rows of about equal length, and no token is
    lost; a row never holds more than one document. None: the model's context."""
    text_key: str = "text"
    """The field that holds a document in .jsonl, .parquet and folders that datasets can load."""
    general_path: str | None = None
    """Documents to mix in, against forgetting, in the same formats as `path`. None: only the domain's."""
    ratio: float = 5.0
    """General tokens for each token of the domain, which is read once."""
    seed: int = 0
    """Seed of the draw of general documents; if there are too few, all are drawn again, which a metric counts."""

    def __post_init__(self) -> None:
        super(TextDataConfig, self).__post_init__()
        if not 0 <= self.ratio < math.inf:
            raise InputError(f"ratio={self.ratio}: give general tokens for each token of the domain, as in 5.0")
        if self.general_path is not None and self.ratio == 0:
            raise InputError(f"ratio={self.ratio} leaves out {self.general_path}: give more, or general_path=null")
        if self.max_tokens is not None and self.max_tokens < SHORTEST:
            raise InputError(f"max_tokens={self.max_tokens}: rows of a document have at least {SHORTEST}; raise it")

    def at(self, path: str) -> Self:
        """Return the settings for the documents of another file, with none mixed in."""
        alone = replace(super(TextDataConfig, self).at(path), general_path=None)
        return replace(alone, split=DEFAULT_SPLIT, subset=None) if text_files(Path(path)) else alone

    def load(self, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int, quarantine: Quarantine) -> list[Unit]:
        """Return the mixture: the domain's rows in file order, then the general ones."""
        domain, general = self.corpora(tokenizer, context_tokens, quarantine)
        return self.mix(domain, general)[0]

    def load_parts(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_tokens: int,
        quarantine: Quarantine,
        held_out_fraction: float,
        seed: int,
    ) -> Parts:
        """Return the mixture of the training rows, and `held_out_domain` and `held_out_general` separately.

        At most as many general rows are held out as domain rows.
        """
        domain, general = self.corpora(tokenizer, context_tokens, quarantine)
        held_out: dict[str, list[Unit]] = {}
        if held_out_fraction:
            domain, held_out["held_out_domain"] = split_held_out(domain, held_out_fraction, seed)
        if held_out_fraction and general:
            fraction = min(held_out_fraction, len(held_out["held_out_domain"]) / len(general))
            general, held_out["held_out_general"] = split_held_out(general, fraction, seed)
        train, figures = self.mix(domain, general)
        return Parts(train=train, held_out=held_out, figures=figures)

    def corpora(
        self, tokenizer: PreTrainedTokenizerBase, context_tokens: int, quarantine: Quarantine
    ) -> tuple[list[Unit], list[Unit]]:
        """Return the rows of the domain, and the general rows."""
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"{tokenizer.name_or_path} has no end-of-sequence token to end documents with: set eos_token in "
                "tokenizer_config.json"
            )
        make = self.encoder(tokenizer, min(self.max_tokens or context_tokens, context_tokens))
        domain = quarantine.collect(self.documents(quarantine.refuse), make, self.limit, source=self.path)
        if self.general_path is None:
            return domain, []
        general = self.at(self.general_path)
        return domain, quarantine.collect(general.documents(quarantine.refuse), make, None, source=general.path)

    def documents(self, refuse: Refuse) -> Iterator[tuple[str, Row]]:
        files = [] if self.reader else text_files(Path(self.path))
        if not files:
            return self.rows(refuse)
        refuse_splits(self.path, self.split, self.subset)
        return read_text_files(files, self.text_key, refuse)

    def encoder(
        self, tokenizer: PreTrainedTokenizerBase, size: int
    ) -> Callable[[str, Mapping[str, Any]], Iterator[Unit]]:
        def make(where: str, row: Mapping[str, Any]) -> Iterator[Unit]:
            text = take_text(row, self.text_key, remedy="set text_key to the field that holds the document")
            # Includes the tokens that the tokenizer puts before every text, as in the model's own training.
            token_ids = np.array(tokenizer(text, verbose=False)["input_ids"], dtype=np.int32)
            if not len(token_ids) or token_ids[-1] != tokenizer.eos_token_id:
                token_ids = np.append(token_ids, tokenizer.eos_token_id).astype(np.int32)
            if len(token_ids) < 2:
                raise BadRow(
                    f"the field '{self.text_key}' is only an end of sequence: fill it in, or remove the row",
                    Defect.unlearnable,
                )
            for chunk in chunks(token_ids, size):
                mask = np.arange(len(chunk)) > 0
                yield (TrainingRow(token_ids=chunk, loss_mask=mask, source=where, prompt_id=digest(text)),)

        return make

    def mix(self, domain: Sequence[Unit], general: Sequence[Unit]) -> tuple[list[Unit], dict[str, float]]:
        domain_tokens, available = num_tokens(domain), num_tokens(general)
        taken = sample_documents(general, self.ratio * domain_tokens, self.seed) if general else []
        figures = {"domain_tokens": float(domain_tokens)}
        if general:
            general_tokens = num_tokens(taken)
            figures |= {"general_tokens": float(general_tokens), "general_passes": general_tokens / available}
        return [*domain, *taken], figures


def num_tokens(units: Sequence[Unit]) -> int:
    return sum(row.num_tokens for unit in units for row in unit)


def chunks(token_ids: np.ndarray, size: int) -> list[np.ndarray]:
    """Split the tokens into the fewest pieces of at most `size` tokens, whose lengths differ by at most one."""
    return np.array_split(token_ids, -(-len(token_ids) // size))


def sample_documents(units: Sequence[Unit], wanted: float, seed: int) -> list[Unit]:
    """Return whole documents in a random order, and again in another, until they have `wanted` tokens."""
    documents: dict[int, list[Unit]] = {}
    for number, unit in zip(prompt_groups(units), units, strict=True):
        documents.setdefault(number, []).append(unit)
    taken: list[Unit] = []
    found, num_passes = 0, 0
    while found < wanted:
        for number in np.random.Generator(np.random.PCG64([seed, num_passes])).permutation(len(documents)).tolist():
            if found >= wanted:
                break
            taken += documents[number]
            found += num_tokens(documents[number])
        num_passes += 1
    return taken


def text_files(path: Path) -> list[Path]:
    """Return a .txt file, or the files of a folder that has only .txt files; none for any other path."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        return files if all(file.suffix == ".txt" for file in files) else []
    return [path] if path.suffix == ".txt" else []


def read_text_files(files: Sequence[Path], key: str, refuse: Refuse) -> Iterator[tuple[str, Row]]:
    for file in files:
        try:
            yield f"{file}:1", {key: file.read_text(encoding="utf-8-sig")}
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}): check the path and its permissions") from error
        except UnicodeDecodeError as error:
            sentence = (
                f"byte {error.start + 1} of the file (0x{error.object[error.start]:02x}) is not UTF-8: convert it"
            )
            refuse(f"{file}:1", str(file), InputError(sentence))
