"""Attention of packed rows without a dense mask equals sdpa's with one, and makes no tensor of T x T."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from rlhf.models import varlen

NAME = "varlen"
LENGTHS = (9, 1, 14, 5)
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip


class Shapes(TorchDispatchMode):
    """Records the last two sizes of every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.made |= {tuple(leaf.shape[-2:]) for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)}
        return made


def ask(kind, way, lengths=LENGTHS, **settings):
    """Logits of a packed row, the gradients of all parameters, and the shapes that were made."""
    torch.manual_seed(0)
    varlen.register(NAME)
    config = AutoConfig.for_model(kind, **SIZES, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=way)
    ids = torch.randint(3, 60, (1, sum(lengths)))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with Shapes() as shapes:
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        logits.square().sum().backward()
    return logits.detach(), torch.cat([each.grad.flatten() for each in model.parameters()]), shapes.made


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen3", {}),
        ("llama", {}),
        ("gemma3_text", {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
        ("mistral", {"sliding_window": 6}),
        ("phi3", {"sliding_window": 1}),
    ],
)
def test_packed_rows_score_and_learn_as_with_a_dense_mask(kind, settings):
    expected, expected_gradients, with_mask = ask(kind, "sdpa", **settings)
    logits, gradients, without = ask(kind, NAME, **settings)
    torch.testing.assert_close(logits, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-5)
    square = (sum(LENGTHS), sum(LENGTHS))
    assert square in with_mask
    assert square not in without


def test_a_row_of_one_sequence_and_padded_rows_score_as_with_sdpa():
    expected, _, _ = ask("qwen3", "sdpa", lengths=(12,))
    torch.testing.assert_close(ask("qwen3", NAME, lengths=(12,))[0], expected, atol=2e-6, rtol=0)
    torch.manual_seed(0)
    ids = torch.randint(3, 60, (3, 8))
    scores = []
    for way in ("sdpa", NAME):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **SIZES), attn_implementation=way)
        with torch.no_grad():
            scores.append(model(input_ids=ids, position_ids=torch.arange(8).expand(3, 8), use_cache=False).logits)
    torch.testing.assert_close(*scores, atol=0, rtol=0)


def rows_of(lengths, make=create_causal_mask, **settings):
    varlen.register(NAME)
    config = AutoConfig.for_model("mistral", **SIZES, **settings)
    config._attn_implementation = NAME
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    embeddings = torch.zeros(1, positions.shape[1], SIZES["hidden_size"])
    return make(
        config=config, inputs_embeds=embeddings, attention_mask=None, past_key_values=None, position_ids=positions
    )


def test_layers_are_given_where_sequences_lie_and_how_far_tokens_see():
    plain = rows_of(LENGTHS)
    assert (plain.offsets.tolist(), plain.lengths, plain.window) == ([0, 9, 10, 24, 29], LENGTHS, None)
    assert plain.offsets.dtype == torch.int32
    sliding = rows_of(LENGTHS, create_sliding_window_causal_mask, sliding_window=6)
    assert (sliding.lengths, sliding.window) == (LENGTHS, 6)
    wide = rows_of(LENGTHS, create_sliding_window_causal_mask, sliding_window=14)
    assert wide.window is None  # as long as the longest: nothing is out of sight


def test_the_kernels_are_given_what_they_take():
    """PyTorch checks shapes on the meta device; what the kernels compute only a GPU says (tests/gpu)."""
    rows = rows_of(LENGTHS, create_sliding_window_causal_mask, sliding_window=6)
    query, key, value = (
        torch.empty(1, heads, sum(LENGTHS), 8, dtype=torch.bfloat16, device="meta") for heads in (4, 2, 2)
    )
    made = varlen.by_kernel(query, key, value, rows._replace(offsets=rows.offsets.to("meta")), None)
    assert made.shape == (1, sum(LENGTHS), 4, 8)
    assert not varlen.has_kernel(query, key, value)  # no GPU


@pytest.mark.parametrize(
    ("dtype", "key_dim", "value_dim", "fits"),
    [
        (torch.bfloat16, 128, 128, True),
        (torch.float16, 256, 256, True),
        (torch.float32, 128, 128, False),
        (torch.bfloat16, 100, 100, False),  # OpenLLaMA 3B: sdpa pads it, the kernels refuse it
        (torch.bfloat16, 192, 128, False),  # multi-head latent attention
        (torch.bfloat16, 512, 512, False),
    ],
)
def test_heads_that_the_kernels_do_not_take_attend_by_sequence(dtype, key_dim, value_dim, fits):
    assert varlen.fits_kernel(dtype, key_dim, value_dim) is fits


def test_no_token_of_a_sequence_sees_another_sequence():
    rows = rows_of((3, 2))
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 4) for _ in range(3))
    made = varlen.by_sequence(query, key, value, rows, None)
    first, second = (
        F.scaled_dot_product_attention(*(each[:, :, part] for each in (query, key, value)), is_causal=True)
        for part in (slice(0, 3), slice(3, 5))
    )
    torch.testing.assert_close(made, torch.cat([first, second], dim=2).transpose(1, 2))
