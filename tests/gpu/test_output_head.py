"""On a GPU the head in chunks says what all the logits say, and its peak is far below their size."""

import torch
import torch.nn.functional as F

from rlhf.ops.chunked_head import ChunkedLogprobs, LogitShape

ROWS, HIDDEN, VOCABULARY = 4096, 1024, 151_936


def test_chunks_equal_the_whole_in_a_fraction_of_its_memory() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    scale = HIDDEN**-0.5
    states = torch.randn(ROWS, HIDDEN, generator=generator, device="cuda").requires_grad_()
    weight = (torch.randn(VOCABULARY, HIDDEN, generator=generator, device="cuda") * scale).requires_grad_()
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprobs = ChunkedLogprobs.apply(states, weight, None, targets, LogitShape(), False)[0]
    logprobs.sum().backward()
    peak = torch.cuda.max_memory_allocated() - before - weight.nbytes - states.nbytes  # their gradients
    found = [logprobs.detach(), states.grad, weight.grad]
    states.grad = weight.grad = None
    whole = F.linear(states, weight).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    whole.sum().backward()
    for one, other in zip(found, [whole.detach(), states.grad, weight.grad], strict=True):
        assert one is not None
        assert other is not None
        assert (one - other).norm() <= 1e-5 * other.norm()
    assert peak <= 0.5 * ROWS * VOCABULARY * 4, peak
