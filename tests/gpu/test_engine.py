"""An engine on a GPU: bans are in force under the model runner that vLLM has there, and it scores as the model does."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf.runtimes.configs import Precision, SamplerConfig
from rlhf.types import Completion, Sampling
from tests.gpu.conftest import apart
from tests.gpu.test_colocation import BF16_NATS

BANNED, STOP = [0, 2, 20, 21, 22], [1]


async def sample(model: Path) -> tuple[list[Completion], Completion, np.ndarray]:
    """Completions, the first of them once more, and after a sleep the logprobs of its row."""
    from rlhf.runtimes.vllm_sampler import VLLMSampler

    config = SamplerConfig(context_tokens=64, accelerator_memory_fraction=0.2)
    engine = VLLMSampler(
        str(model), config, Precision.bf16, banned_token_ids=BANNED, stop_token_ids=STOP, takes_turns=True
    )
    sampling = [Sampling(temperature=1.0, max_tokens=40, seed=i) for i in range(16)]
    completions = [await engine.generate([3 + i, 13, 4], each) for i, each in enumerate(sampling)]
    again = await engine.generate([3, 13, 4], sampling[0])
    await engine.offload()
    await engine.onload()
    scored = await engine.logprobs([3, 13, 4, *completions[0].token_ids.tolist()])
    await engine.close()
    return completions, again, scored


def sample_in_a_process(model: Path) -> tuple[list[Completion], Completion, np.ndarray]:
    return asyncio.run(sample(model))


@pytest.mark.timeout(600)
def test_banned_tokens_are_never_sampled_and_logprobs_are_the_models(models: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    completions, again, scored = apart(sample_in_a_process, models["tied"])
    assert not set(BANNED) & {int(token) for each in completions for token in each.token_ids}
    assert again.token_ids.tolist() == completions[0].token_ids.tolist()

    row = [3, 13, 4, *completions[0].token_ids.tolist()]
    model = AutoModelForCausalLM.from_pretrained(models["tied"], dtype=torch.float32)
    with torch.no_grad():
        logprobs = model(torch.tensor([row])).logits[0, :-1].log_softmax(-1)
    expected = logprobs.gather(-1, torch.tensor(row[1:]).unsqueeze(-1)).squeeze(-1).numpy()
    assert np.abs(scored[1:] - expected).max() < BF16_NATS
