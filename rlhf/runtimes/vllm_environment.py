"""Environment of vLLM on every machine. Imported before vllm, which reads its environment once."""

from __future__ import annotations

import os
from typing import Any

import torch

# A sampler's engine then lives in its Ray actor's process, so that arguments reach the model without a copy; a server's
# on a CPU has one child process, not two.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# Killed workers of a tensor-parallel engine leave their shared memory behind, and vLLM kills them after 5 s, in which a
# busy machine does not end them.
os.environ.setdefault("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "60")
if not torch.cuda.is_available():
    # Compiled helpers take 20 s at the first request on a CPU and gain nothing there.
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

CPU_BATCHED_TOKENS = 4096
"""Tokens of one engine step on a CPU."""


def whole_prefills(context_tokens: int) -> dict[str, Any]:
    """Return settings under which no prompt is computed in parts, on a CPU; on a GPU none.

    After a part vLLM 0.32 takes back the draw of a seeded request's generator, which a CPU generator cannot do: the
    engine would die ("CPU Generator does not use offset").
    """
    if torch.cuda.is_available():
        return {}
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context_tokens, CPU_BATCHED_TOKENS)}
