"""Policies that are compared are scored under the distributions they were sampled from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray

from rlhf.config import CompareConfig, compose
from rlhf.models.causal_lm import SamplingDistribution
from rlhf.stages.online.compare import compute_logprobs, divergence, plan_roles, with_layout
from rlhf.stages.online.job import prepare
from rlhf.train.batching import RowGroup, minibatch, packing_of
from rlhf.train.offline import as_group
from rlhf.types import Batch, TrainingRow

CONF = Path(__file__).parents[2] / "conf"
BANNED = {"one": (3, 4, 5), "other": (20, 21)}


def test_every_policy_and_the_reference_are_scored_with_the_policys_own_banned_tokens(cluster, models, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(4)))
    given = [f"model={models['tied']}", f"data.path={rows}", f"output={tmp_path / 'run'}", "sampling.max_tokens=4",
             "sampler.context_tokens=64", "backend.precision=fp32", "reward.functions=[exact]",
             f"+policies.one={models['untied']}", f"+policies.other={models['tied']}"]  # fmt: skip
    config = compose(CONF, "compare", given, CompareConfig)
    jobs = {name: prepare(replace(config, model=folder)) for name, folder in config.policies.items()}
    asked = {name: replace(job, distribution=SamplingDistribution(banned_token_ids=BANNED[name]))
             for name, job in jobs.items()}  # fmt: skip
    # What one said has tokens that the other may not sample.
    said = {"one": [8, 9, 20, 21], "other": [8, 9, 3, 5]}
    batches = {name: batch_of(config, token_ids) for name, token_ids in said.items()}
    logprobs = compute_logprobs(config, asked, plan_roles(config).only("policy"), batches)
    for name, token_ids in said.items():
        for folder, found in zip((config.policies[name], config.model), logprobs[name], strict=True):
            with torch.no_grad():
                logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([token_ids])).logits[0].double()
            logits[:, list(BANNED[name])] = -torch.inf
            expected = logits.log_softmax(-1)[torch.arange(1, 3), torch.tensor(token_ids[2:])].numpy()
            np.testing.assert_allclose(found[0][2:], expected, atol=1e-5)
    nats, _ = divergence(batches["other"], *logprobs["other"])
    assert (nats == 0).all(), "it is the reference"
    assert np.isfinite(divergence(batches["one"], *logprobs["one"])[0]).all()


def batch_of(config: CompareConfig, token_ids: list[int]) -> Batch:
    """A rollout of two tokens after two of a prompt."""
    row = TrainingRow(token_ids=np.array(token_ids, dtype=np.int32), loss_mask=np.arange(4) > 1)
    group = RowGroup(rows=ray.put((row,)), scalars=as_group((row,)).scalars, whole=True)
    return Batch(step=0, minibatches=(minibatch([group], packing_of(with_layout(config.backend), 1)),), order=(0,))
