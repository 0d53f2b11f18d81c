"""Memory and time of an output head's logprobs and gradients: all logits at once against chunks of rows.

python -m benchmarks.head_memory
"""

from __future__ import annotations

import multiprocessing
import resource
import time

import torch
from torch import Tensor

from rlhf.ops.chunked_head import ChunkedLogprobs, LogitShape
from rlhf.ops.logprobs import is_first_choice, next_token_entropy, next_token_logprobs

VOCAB, WIDTH = 151_936, 1024
CASES = [("whole", 1024), ("whole", 2048), ("whole", 4096)] + [("chunked", n) for n in (1024, 2048, 4096, 8192)]


def whole(states: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    logits = (states @ weight.T)[None].float()
    logprobs = next_token_logprobs(logits, ids[None])[0, 1:]
    with torch.no_grad():
        next_token_entropy(logits)
        is_first_choice(logits, ids[None])
    return logprobs


def chunked(states: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    logprobs, _, _ = ChunkedLogprobs.apply(states[:-1], weight, None, ids[1:], LogitShape(), True)
    return logprobs


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(way: str, num_tokens: int) -> tuple[float, float, float, float]:
    """Return the peak beyond the head, its gradient and the states, in GB and in T V float32; seconds; the gradient's
    sum."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(num_tokens, WIDTH, generator=generator).requires_grad_()
    weight = (torch.randn(VOCAB, WIDTH, generator=generator) / WIDTH**0.5).requires_grad_()
    ids = torch.randint(0, VOCAB, (num_tokens,), generator=generator)
    weight.grad, states.grad = torch.zeros_like(weight), torch.zeros_like(states)
    before, start = peak_bytes(), time.perf_counter()
    logprobs = (whole if way == "whole" else chunked)(states, weight, ids)
    logprobs.mean().backward()
    taken = peak_bytes() - before
    norm = float(states.grad.double().norm())
    return taken / 1e9, taken / (num_tokens * VOCAB * 4), time.perf_counter() - start, norm


def main() -> None:
    print(f"V = {VOCAB}, hidden = {WIDTH}, fp32; the peak has the new gradient of the head in it")
    print(f"{'head':>8} {'T':>6} {'peak GB':>8} {'x T V 4':>8} {'seconds':>8}  norm of the states' gradient")
    context = multiprocessing.get_context("spawn")  # the peak is per process
    for way, num_tokens in CASES:
        with context.Pool(1) as pool:
            gigabytes, ratio, seconds, norm = pool.apply(measure, (way, num_tokens))
        print(f"{way:>8} {num_tokens:6d} {gigabytes:8.2f} {ratio:8.2f} {seconds:8.1f}  {norm:.9f}", flush=True)


if __name__ == "__main__":
    main()
