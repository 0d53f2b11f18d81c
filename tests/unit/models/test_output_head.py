"""The head in chunks says what all the logits at once say, with their gradients, in a fraction of their memory."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf.models import output_head
from rlhf.models.causal_lm import SamplingDistribution, TokenReadout, for_columns
from rlhf.ops import chunked_head
from rlhf.ops.chunked_head import ChunkedLogprobs, LogitShape
from rlhf.ops.microbatch import MicroBatch
from tests.unit.models.test_token_readout import make_rows

SHAPED = SamplingDistribution(temperature=0.7, banned_token_ids=(0, 2, 63))
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
KINDS = {
    "qwen3": {"tie_word_embeddings": False},
    "gemma2": {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
}


def make_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **KINDS[kind])
    config.attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)
    return model.double().float().eval()


def gradients(model: nn.Module, logprobs: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    (logprobs * torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_equal_the_whole_for_every_kind_of_head(kind, monkeypatch):
    monkeypatch.setattr(chunked_head, "ROWS", 3)
    model, readout = make_model(kind), TokenReadout(SHAPED)
    batch = MicroBatch.from_rows(*make_rows(0), [0.0] * 5, {}, packed=False)
    assert output_head.shape_of(model, batch) is not None
    chunked, whole = readout(model, batch), readout.from_logits(model, batch)
    learnt = batch.loss_mask
    assert whole.logprobs[learnt].abs().max() > 1
    torch.testing.assert_close(chunked.logprobs, whole.logprobs, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(chunked.entropy[learnt], whole.entropy[learnt], atol=2e-6, rtol=1e-6)
    assert torch.equal(chunked.first_choice[learnt], whole.first_choice[learnt])
    found, expected = gradients(model, chunked.logprobs), gradients(model, whole.logprobs)
    torch.testing.assert_close(found, expected, atol=1e-6 * max(1.0, float(expected.abs().max())), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_entropy_is_that_of_all_logits_at_once(kind, monkeypatch):
    """In double precision against the definition, -sum of p log p, alone and beside the logprobs."""
    monkeypatch.setattr(chunked_head, "ROWS", 3)
    model, readout = make_model(kind).double(), TokenReadout(SHAPED)
    batch = MicroBatch.from_rows(*make_rows(0), [0.0] * 5, {}, packed=False)

    def defined() -> torch.Tensor:
        logits = model(input_ids=batch.token_ids, position_ids=batch.position_ids, use_cache=False).logits[:, :-1]
        allowed = [token for token in range(logits.shape[-1]) if token not in SHAPED.banned_token_ids]
        logprobs = (logits[..., allowed] / SHAPED.temperature).log_softmax(-1)
        return torch.nn.functional.pad(-(logprobs.exp() * logprobs).sum(-1), (1, 0))

    for weight in (0.0, 1.0):
        logprobs = readout.from_logits(model, batch).logprobs
        wanted = gradients(model, defined().masked_fill(~batch.loss_mask, 0.0) + weight * logprobs)
        for read in (readout, readout.from_logits):
            outputs = read(model, batch)
            entropy = outputs.learnable_entropy.masked_fill(~batch.loss_mask, 0.0)
            found = gradients(model, entropy + weight * outputs.logprobs)
            torch.testing.assert_close(found, wanted, atol=3e-6 * max(1.0, float(wanted.abs().max())), rtol=1e-5)


def test_a_model_that_shapes_its_logits_in_its_own_way_keeps_its_own_logits():
    model = make_model("granite")
    model.config.logits_scaling = 1.0  # the model divides by it, the config no longer says so
    model.logits_scaling = 4.0
    forward = model.forward

    def divided(**inputs: torch.Tensor) -> object:
        outputs = forward(**inputs)
        outputs.logits = outputs.logits / 4.0
        return outputs

    model.forward = divided
    batch = MicroBatch.from_rows(*make_rows(0), [0.0] * 5, {}, packed=False)
    assert output_head.shape_of(model, batch) is None
    readout = TokenReadout(SHAPED)
    assert torch.equal(readout(model, batch).logprobs, readout.from_logits(model, batch).logprobs)


class LargestTensors(TorchDispatchMode):
    """The most bytes of distinct storages alive at once among those made within it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.see(tensor.untyped_storage())
        return made

    def see(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self.alive:
            self.alive[address] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, address, None)
        self.peak = max(self.peak, sum(self.alive.values()))


def test_the_peak_is_at_most_half_of_the_logits(monkeypatch):
    num_rows, vocab, width = 512, 4000, 8
    monkeypatch.setattr(chunked_head, "ROWS", 64)
    states = torch.randn(num_rows, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    with LargestTensors() as memory:
        logprobs, *_ = ChunkedLogprobs.apply(
            states, weight, None, torch.arange(num_rows), LogitShape(temperature=0.7), True
        )
        logprobs.sum().backward()
    assert 64 * vocab * 4 < memory.peak <= 0.5 * num_rows * vocab * 4


def test_the_peak_with_the_entropy_s_gradient_is_a_chunk_more(monkeypatch):
    num_rows, vocab, width, peaks = 512, 4000, 8, []
    monkeypatch.setattr(chunked_head, "ROWS", 64)
    for weight_of_entropy in (0.0, 1.0):
        states, weight = (torch.randn(size, width, requires_grad=True) for size in (num_rows, vocab))
        with LargestTensors() as memory:
            logprobs, entropy, _ = ChunkedLogprobs.apply(
                states, weight, None, torch.arange(num_rows), LogitShape(temperature=0.7), True
            )
            (logprobs + entropy if weight_of_entropy else logprobs).sum().backward()
        peaks.append(memory.peak)
    assert peaks[1] - peaks[0] <= 2 * 64 * vocab * 4


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_the_same_without_the_statistics_that_they_do_not_hold(kind):
    model, batch = make_model(kind), MicroBatch.from_rows(*make_rows(0), [0.0] * 5, {}, packed=False)
    readout, bare = TokenReadout(SHAPED), for_columns(TokenReadout(SHAPED))
    for ask, ask_bare in ((readout, bare), (readout.from_logits, bare.from_logits)):
        whole, column = ask(model, batch), ask_bare(model, batch)
        assert torch.equal(column.column, whole.column)
        assert whole.entropy.any()
        with pytest.raises(AssertionError, match="asked for a column alone"):
            _ = column.entropy
