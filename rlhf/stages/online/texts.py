"""General text whose perplexity a run measures, and the checks of it before accelerators are held."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rlhf.config import OnlineConfig
from rlhf.data.quarantine import Quarantine
from rlhf.data.text import SHORTEST, TextDataConfig, num_tokens
from rlhf.stages.console import CONSOLE
from rlhf.train.validation import ValidationConfig
from rlhf.types import InputError, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = re.compile(r"[A-Za-z0-9_-]+")


def load_texts(config: OnlineConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Unit]]:
    """Return the rows of each text by its name. Raises InputError."""
    check_keys(config)
    texts = {}
    for name, path in config.validation.texts.items():
        try:
            texts[name] = load_text(path, config, tokenizer)
        except InputError as error:
            raise InputError(f"validation.texts.{name}={path}: {error}") from error
    return texts


def load_text(path: str, config: OnlineConfig, tokenizer: PreTrainedTokenizerBase) -> list[Unit]:
    validation, context_tokens = config.validation, config.sampler.context_tokens
    source = TextDataConfig(
        path=path,
        text_key=validation.text_key,
        max_tokens=validation.text_tokens,
        limit=validation.text_documents,
    )
    return source.load(tokenizer, context_tokens=context_tokens, quarantine=Quarantine())


def check_keys(config: OnlineConfig) -> None:
    """Raise InputError for names and keys that cannot have an effect, or that rows cannot have."""
    validation, context_tokens, usual = config.validation, config.sampler.context_tokens, ValidationConfig()
    for key in ("text_key", "text_tokens", "text_documents"):
        value = getattr(validation, key)
        if value != getattr(usual, key) and not validation.texts:
            raise InputError(
                f"validation.{key}={value}: there is no text; add one, as in +validation.texts.wiki=wiki.txt"
            )
    if validation.text_tokens is not None and not SHORTEST <= validation.text_tokens <= context_tokens:
        raise InputError(
            f"validation.text_tokens={validation.text_tokens}: give at least {SHORTEST}, and at most "
            f"sampler.context_tokens={context_tokens}"
        )
    for name in validation.texts:
        if not NAME.fullmatch(name):
            raise InputError(f"validation.texts.{name}: name a text with letters, digits, _ and -")


def text_rows(config: OnlineConfig, texts: dict[str, list[Unit]]) -> list[tuple[str, object, str]]:
    """Return lines of a table: each text's number of tokens, and where they come from."""
    paths = config.validation.texts
    return [
        (f"tokens of text: {name}", num_tokens(units), f"validation.texts.{name}={paths[name]}, {len(units)} rows")
        for name, units in texts.items()
    ]


def text_panels(config: OnlineConfig) -> dict[str, str]:
    """Return the metric to plot of each text by the panel's title."""
    return {f"perplexity of {name}": f"perplexity/{name}" for name in config.validation.texts}


def say_unmeasured(config: OnlineConfig) -> None:
    """Print which texts a command with engines alone leaves out."""
    if config.validation.texts:
        CONSOLE.print(
            f"validation.texts ({', '.join(config.validation.texts)}): not measured here, since a perplexity is "
            "computed by the learner of a training run, and this command has engines alone",
            soft_wrap=True, markup=False,
        )  # fmt: skip
