"""In bf16 the learner scores what the engine sampled as the engine does: a ratio that is not 1 is a gradient."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf.runtimes.configs import BackendConfig, Precision, SamplerConfig
from rlhf.types import Completion, Sampling
from tests.gpu.conftest import WIDE, apart, become_the_only_rank

TEMPERATURE = 0.25
BANNED = list(range(0, int(WIDE["vocab_size"]), 7))
"""A side that forgets them is off by the logarithm of 7/6, 0.15 nats."""
PROMPTS = [[3 + i, 13, 4 + i % 7] for i in range(32)]
MEAN_NATS, BIAS_NATS = 0.05, 0.01
Scores = list[np.ndarray]


async def sample(model: Path) -> list[Completion]:
    from rlhf.runtimes.vllm_sampler import VLLMSampler

    # On a GPU the memory fraction would do; a CPU takes only a number.
    config = SamplerConfig(context_tokens=128, accelerator_memory_fraction=0.2, kv_cache_bytes=256 << 20)
    engine = VLLMSampler(str(model), config, Precision.bf16, banned_token_ids=BANNED, stop_token_ids=[1])
    sampling = [Sampling(temperature=TEMPERATURE, max_tokens=64, seed=i) for i in range(len(PROMPTS))]
    pairs = zip(PROMPTS, sampling, strict=True)
    completions = await asyncio.gather(*(engine.generate(prompt, each) for prompt, each in pairs))
    await engine.close()
    return completions


def sample_in_a_process(model: Path) -> list[Completion]:
    return asyncio.run(sample(model))


def score(model: Path, rows: list[np.ndarray], masks: list[np.ndarray]) -> dict[bool, Scores]:
    """Logprobs of the completions under the learner, for rows end to end and for padded ones."""
    become_the_only_rank()
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.ops.microbatch import MicroBatch
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    backend = DeepSpeedBackend(str(model), BackendConfig(precision=Precision.bf16), None)
    readout = TokenReadout(SamplingDistribution(temperature=TEMPERATURE, banned_token_ids=tuple(BANNED)))
    scores: dict[bool, Scores] = {True: [], False: []}
    for packed, columns in scores.items():
        for start in range(0, len(rows), 8):
            some = slice(start, start + 8)
            batch = MicroBatch.from_rows(rows[some], masks[some], [0.0] * len(rows[some]), {}, packed=packed)
            column = batch.flatten(backend.forward(batch, readout, grad=False).logprobs)
            columns.append(column[np.concatenate(masks[some])])
    return scores


def exact_scores(model: Path, rows: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    """The same in fp32 on the CPU, row by row."""
    from transformers import AutoModelForCausalLM

    exact = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    columns = []
    for row, mask in zip(rows, masks, strict=True):
        ids = torch.from_numpy(row).long()
        with torch.no_grad():
            logits = exact(ids.unsqueeze(0)).logits[0, :-1] / TEMPERATURE
        logits[:, BANNED] = float("-inf")
        logprobs = logits.log_softmax(-1).gather(-1, ids[1:].unsqueeze(-1)).squeeze(-1)
        columns.append(logprobs.numpy()[mask[1:]])
    return np.concatenate(columns)


@pytest.mark.timeout(900)
def test_learner_and_engine_agree_in_bf16(wide_model: Path) -> None:
    completions = apart(sample_in_a_process, wide_model)
    pairs = list(zip(PROMPTS, completions, strict=True))
    rows = [np.array([*prompt, *completion.token_ids], dtype=np.int32) for prompt, completion in pairs]
    masks = [np.arange(len(row)) >= len(prompt) for row, (prompt, _) in zip(rows, pairs, strict=True)]
    sampled = np.concatenate([completion.logprobs for completion in completions])
    learnt = {packed: np.concatenate(columns) for packed, columns in apart(score, wide_model, rows, masks).items()}
    exact = exact_scores(wide_model, rows, masks)
    assert len(sampled) > 1000
    compared = {"engine and fp32": sampled - exact}
    for packed, scores in learnt.items():
        compared[f"learner and fp32, {packed=}"] = scores - exact
        compared[f"learner and engine, {packed=}"] = scores - sampled
    figures = {name: (float(np.abs(nats).mean()), float(nats.mean())) for name, nats in compared.items()}
    print(figures)
    assert all(mean < MEAN_NATS and abs(bias) < BIAS_NATS for mean, bias in figures.values()), figures
