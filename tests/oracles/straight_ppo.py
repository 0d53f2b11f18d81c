"""PPO with a critic as a straight line: one process, one row at a time, plain AdamW, the same seeded engine."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

from rlhf.types import Rollout
from tests.oracles.straight_line import logprobs_of


def load_critic(model_path: str) -> Any:
    config = AutoConfig.from_pretrained(model_path, num_labels=1)
    config.classifier_dropout = 0.0
    critic = AutoModelForTokenClassification.from_pretrained(model_path, config=config, dtype=torch.float32)
    for parameter in critic.score.parameters():
        torch.nn.init.zeros_(parameter)
    return critic


def values_of(critic: Any, rollout: Rollout) -> torch.Tensor:
    """Before each token the policy chose."""
    ids = torch.tensor(rollout.token_ids, dtype=torch.int64).unsqueeze(0)
    return critic(input_ids=ids).logits[0, :-1, 0][torch.from_numpy(rollout.loss_mask[1:])]


def advantages_of(rewards: torch.Tensor, values: torch.Tensor, gamma: float, gae_lambda: float) -> torch.Tensor:
    advantages, running = torch.zeros_like(values), 0.0
    for t in reversed(range(len(values))):
        after = values[t + 1] if t + 1 < len(values) else 0.0
        running = rewards[t] + gamma * after - values[t] + gamma * gae_lambda * running
        advantages[t] = running
    return advantages


def train(
    model_path: str,
    sample: Callable[[Any, int], tuple[list[list[Rollout]], list[list[float]]]],  # model and step -> groups, rewards
    membership: Callable[[list[list[Rollout]], int], Sequence[list[tuple[int, int]]]],  # -> minibatches of (group, row)
    *,
    learning_rates: list[tuple[float, float]],  # of policy and critic, per step
    banned: list[int],
    clip: tuple[float, float],
    kl_coef: float,
    gamma: float,
    gae_lambda: float,
    clip_value: float,
    value_coef: float,
    clipping: float,
) -> tuple[Any, Any, list[tuple[float, float]], list[list[list[Rollout]]]]:
    """Policy, critic, and per step the mean loss of each over its minibatches, and the groups."""
    policy = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    critic = load_critic(model_path)
    optimizers = [torch.optim.AdamW(model.parameters(), weight_decay=0.0) for model in (policy, critic)]
    losses, history = [], []
    for step, rates in enumerate(learning_rates):
        for optimizer, lr in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = lr
        groups, scores = sample(policy, step)
        history.append(groups)
        old, values, advantages, returns = {}, {}, {}, {}
        with torch.no_grad():
            for key, rollout in rows_of(groups):
                old[key], values[key] = logprobs_of(policy, rollout, banned), values_of(critic, rollout)
                rewards = -kl_coef * (old[key] - logprobs_of(reference, rollout, banned))
                rewards[-1] += scores[key[0]][key[1]]
                advantages[key] = advantages_of(rewards, values[key], gamma, gae_lambda)
                returns[key] = advantages[key] + values[key]
        together = torch.cat(list(advantages.values())).double()
        mean, std = together.mean(), together.std(correction=0) + 1e-8
        step_losses = []
        for minibatch in membership(groups, step):
            for optimizer in optimizers:
                optimizer.zero_grad()
            count = sum(int(groups[g][i].loss_mask.sum()) for g, i in minibatch)
            policy_loss, value_loss = 0.0, 0.0
            for g, i in minibatch:
                ratio = (logprobs_of(policy, groups[g][i], banned) - old[g, i]).exp()
                advantage = ((advantages[g, i].double() - mean) / std).float()
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip[0], 1 + clip[1]) * advantage)
                (-surrogate.sum() / count).backward()
                policy_loss -= surrogate.sum().item() / count
                now, before, target = values_of(critic, groups[g][i]), values[g, i], returns[g, i]
                near = before + (now - before).clamp(-clip_value, clip_value)
                error = torch.maximum((now - target) ** 2, (near - target) ** 2).sum() / 2
                (value_coef * error / count).backward()
                value_loss += value_coef * error.item() / count
            for model, optimizer in zip((policy, critic), optimizers, strict=True):
                torch.nn.utils.clip_grad_norm_(model.parameters(), clipping)
                optimizer.step()
            step_losses.append((policy_loss, value_loss))
        losses.append(tuple(sum(column) / len(step_losses) for column in zip(*step_losses, strict=True)))
    return policy, critic, losses, history


def rows_of(groups: list[list[Rollout]]) -> list[tuple[tuple[int, int], Rollout]]:
    return [((g, i), rollout) for g, group in enumerate(groups) for i, rollout in enumerate(group)]
