"""A model made on the spot has the shape that was asked for."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from rlhf.models.tiny import build_tiny_model


@pytest.mark.parametrize("tied", [True, False])
def test_a_given_shape_replaces_every_setting(tmp_path: Path, tied: bool) -> None:
    """Those too that have an argument of their own, such as the hidden size."""
    sizes = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "head_dim": 8}
    shape = {**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied}
    build_tiny_model(tmp_path, alphabet="01", shape=shape)
    config = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(config, name) for name in shape} == shape
