"""Tiny Qwen3 models with a character-level tokenizer, built on the fly, that learn in a minute on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)
from transformers.utils.logging import disable_progress_bar

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
PEAK_LR = 3e-3
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per character; the chat template joins the turns, with `<eos>` after the
    assistant's."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *dict.fromkeys(alphabet)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, chat_template=CHAT_TEMPLATE
    )


def build_tiny_model(
    folder: Path,
    *,
    alphabet: str,
    hidden_size: int = 96,
    num_layers: int = 2,
    tied: bool = True,
    context_tokens: int = 256,
    seed: int = 0,
    shape: Mapping[str, Any] | None = None,
) -> None:
    """Write an untrained Qwen3 with its tokenizer to `folder`, as `from_pretrained` and vLLM read it.

    `shape`: further settings of its config, such as those of a large model for measurements of speed and memory.
    """
    disable_progress_bar()
    tokenizer = character_tokenizer(alphabet)
    torch.manual_seed(seed)
    settings = {"tie_word_embeddings": tied, **(shape or {})}
    model = Qwen3ForCausalLM(tiny_config(tokenizer, hidden_size, num_layers, context_tokens, settings))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fit_tiny_reward_model(
    folder: Path,
    rated: Mapping[str, float],
    *,
    alphabet: str,
    hidden_size: int = 128,
    num_layers: int = 2,
    context_tokens: int = 256,
    num_steps: int = 400,
    rows_per_step: int = 128,
    seed: int = 0,
) -> float:
    """Write a Qwen3 that scores texts, ended by `<eos>`, as `rated` does; return the mean absolute error over all.

    It is fitted by plain regression on the scores in torch, without a preference loss.
    """
    disable_progress_bar()
    tokenizer = character_tokenizer(alphabet)
    torch.manual_seed(seed)
    model = Qwen3ForSequenceClassification(
        tiny_config(tokenizer, hidden_size, num_layers, context_tokens, {"num_labels": 1})
    )
    encoded = tokenizer([text + EOS for text in rated], padding=True, return_tensors="pt")
    ids, mask, targets = encoded["input_ids"], encoded["attention_mask"], torch.tensor(list(rated.values()))
    # Rare scores are drawn as often as common ones: right answers are few.
    _, kinds, counts = targets.unique(return_inverse=True, return_counts=True)
    frequency = 1 / counts[kinds].float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=num_steps)
    for _ in range(num_steps):
        chosen = torch.multinomial(frequency, rows_per_step, replacement=True)
        scores = model(input_ids=ids[chosen], attention_mask=mask[chosen]).logits.squeeze(-1)
        (scores - targets[chosen]).square().mean().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.no_grad():
        error = (model(input_ids=ids, attention_mask=mask).logits.squeeze(-1) - targets).abs().mean()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return float(error)


def tiny_config(
    tokenizer: PreTrainedTokenizerFast,
    hidden_size: int,
    num_layers: int,
    context_tokens: int,
    settings: Mapping[str, Any],
) -> Qwen3Config:
    shape: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 8) * 8,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 32,
        "num_key_value_heads": hidden_size // 32,
        "head_dim": 32,
        "max_position_embeddings": context_tokens,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return Qwen3Config(**{**shape, **settings})
