"""PyTorch's variable-length kernels compute what one sdpa per sequence does, with gradients, in linear memory."""

import pytest
import torch

from rlhf.models.varlen import PackedRows, by_kernel, by_sequence, has_kernel

LENGTHS = (700, 1, 130, 1217)
HEADS, KV_HEADS, HEAD_DIM = 16, 8, 128


def states(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(1, heads, sum(LENGTHS), HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [torch.randn(shape, generator=generator, device="cuda").to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("window", [None, 64])
def test_the_kernels_equal_attention_by_sequence(window: int | None) -> None:
    offsets = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32, device="cuda")
    rows = PackedRows(offsets, LENGTHS, window)
    weights = torch.randn(1, sum(LENGTHS), HEADS, HEAD_DIM, device="cuda", generator=torch.Generator("cuda"))
    results = []
    for compute, dtype in ((by_kernel, torch.bfloat16), (by_sequence, torch.float32)):
        query, key, value = states(torch.bfloat16) if dtype is torch.bfloat16 else states(torch.float32)
        if dtype is torch.float32:  # the same numbers, rounded alike
            query, key, value = (each.detach().bfloat16().float().requires_grad_() for each in (query, key, value))
        assert has_kernel(query, key, value) is (dtype is torch.bfloat16)
        made = compute(query, key, value, rows, None)
        (made.float() * weights).sum().backward()
        results.append([made.float(), *(each.grad.float() for each in (query, key, value) if each.grad is not None)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() <= 1e-2 * expected.norm()


def test_memory_grows_with_tokens_and_not_with_their_square() -> None:
    peaks = []
    for num_tokens in (4096, 16384):
        lengths = (1024,) * (num_tokens // 1024)
        offsets = torch.arange(0, num_tokens + 1, 1024, dtype=torch.int32, device="cuda")
        query, key, value = (
            torch.randn(1, heads, num_tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for heads in (HEADS, KV_HEADS, KV_HEADS)
        )
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        by_kernel(query, key, value, PackedRows(offsets, lengths, None), None).float().sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] <= 4.5 * peaks[0], peaks
