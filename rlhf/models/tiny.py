"""A Qwen3 small enough to learn in a minute on a CPU, with a character-level tokenizer, made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token per character; the chat template is the turns end to end, `<eos>` after the assistant's."""
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
) -> None:
    """Write an untrained Qwen3 with its tokenizer to `folder`, as `from_pretrained` and vLLM read it."""
    disable_progress_bar()
    tokenizer = character_tokenizer(alphabet)
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=-(-len(tokenizer) // 8) * 8,
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=hidden_size // 32,
            num_key_value_heads=hidden_size // 32,
            head_dim=32,
            max_position_embeddings=context_tokens,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
