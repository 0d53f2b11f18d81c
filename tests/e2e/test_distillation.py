"""On-policy distillation with a teacher on workers of its own is a straight line over the same rollouts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.config import OnlineConfig
from tests.conftest import ALPHABET
from tests.e2e.test_one_loop import assert_same_parameters, figures, run_system
from tests.oracles.straight_line import logprobs_of

DISTILL = ["algorithm=distill", "algorithm.kl_coef=0", "algorithm.gamma=0.5", "algorithm.reward_coef=0.3",
           "train.num_minibatches=1", "placement.teacher=2"]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deeper model whose embedding has unused rows that the policy's has not."""
    from rlhf.models.tiny import build_tiny_model

    folder = tmp_path_factory.mktemp("teacher")
    build_tiny_model(folder, alphabet=ALPHABET, hidden_size=64, num_layers=3, seed=5, shape={"vocab_size": 64})
    return folder


@pytest.fixture(scope="module")
def distilling(
    cluster: None, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any], teacher: Path
) -> Iterator[tuple[OnlineConfig, Any]]:
    from rlhf.actors.placement import reserved
    from rlhf.stages.online.job import prepare
    from rlhf.stages.online.run import start_roles
    from rlhf.train.clock import Clock

    config = compose(*DISTILL, f"teacher.model={teacher}")
    job = prepare(config)
    with reserved(job.plan, 300) as bundles:
        started = run_async(start_roles(job, bundles, Clock()))
        yield config, started
        run_async(started.samplers.close())


def discounted(log_ratios: torch.Tensor, gamma: float) -> torch.Tensor:
    returns = log_ratios.clone()
    for t in reversed(range(len(returns) - 1)):
        returns[t] += gamma * returns[t + 1]
    return returns


def test_three_steps_equal_a_straight_line_over_their_rollouts(
    distilling: tuple[OnlineConfig, Any], run_async: Callable[..., Any], teacher: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from rlhf.train.schedule import learning_rate

    config, roles = distilling
    recorder, job, weights = run_async(run_system(config, roles))
    banned = list(job.distribution.banned_token_ids)
    unused = list(range(weights["model.embed_tokens.weight"].shape[0], 64))
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    judge = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    losses, gaps = [], []
    for step, (report, groups) in enumerate(zip(recorder.reports, recorder.rollouts, strict=True)):
        optimizer.param_groups[0]["lr"] = learning_rate(config.optimizer, step, config.train.num_steps)
        optimizer.zero_grad()
        num_tokens = sum(int(rollout.loss_mask.sum()) for group in groups for rollout in group)
        total, gap = torch.zeros(()), 0.0
        for given, group in zip(report.groups, groups, strict=True):
            rewards = [info.score.value for info in given.infos]
            for i, rollout in enumerate(group):
                others = [reward for j, reward in enumerate(rewards) if j != i]
                now = logprobs_of(model, rollout, banned)
                np.testing.assert_allclose(now.detach(), rollout.logprobs[rollout.loss_mask], atol=1e-3)
                with torch.no_grad():
                    log_ratios = logprobs_of(judge, rollout, [*banned, *unused]) - now
                signal = 0.3 * (rewards[i] - sum(others) / len(others))
                total = total - ((discounted(log_ratios, 0.5) + signal) * (now - now.detach()).exp()).sum()
                gap -= log_ratios.sum().item()
        (total / num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.gradient_clipping)
        optimizer.step()
        losses.append(total.item() / num_tokens)
        gaps.append(gap / num_tokens)
    np.testing.assert_allclose(figures(recorder, "loss"), losses, atol=1e-5)
    np.testing.assert_allclose(figures(recorder, "teacher_kl_k1"), gaps, atol=1e-5)
    assert min(figures(recorder, "teacher_kl_k3")) > 0
    assert_same_parameters(weights, model)
