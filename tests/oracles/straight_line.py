"""GRPO as a straight line: one process, one row at a time, plain AdamW, the same seeded engine."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rlhf.types import Rollout


def logprobs_of(model: Any, rollout: Rollout, banned: list[int]) -> torch.Tensor:
    """Of the tokens the policy chose."""
    ids = torch.tensor(rollout.token_ids, dtype=torch.int64)
    logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1].clone()
    logits[:, banned] = float("-inf")
    chosen = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
    return chosen[torch.from_numpy(rollout.loss_mask[1:])]


def train(
    model_path: str,
    sample: Callable[[Any, int], tuple[list[list[Rollout]], list[list[float]]]],  # model and step -> groups, rewards
    membership: Callable[[list[list[Rollout]], int], Sequence[list[tuple[int, int]]]],  # -> minibatches of (group, row)
    *,
    learning_rates: list[float],
    banned: list[int],
    clip: tuple[float, float],
    kl_coef: float,
    clipping: float,
) -> tuple[Any, list[float], list[list[list[Rollout]]]]:
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    losses, history = [], []
    for step, lr in enumerate(learning_rates):
        optimizer.param_groups[0]["lr"] = lr
        groups, rewards = sample(model, step)
        history.append(groups)
        scores = [torch.tensor(group, dtype=torch.float64) for group in rewards]
        advantages = [(r - r.mean()) / (r.std() + 1e-6) for r in scores]
        with torch.no_grad():
            old = [[logprobs_of(model, rollout, banned) for rollout in group] for group in groups]
            ref = [[logprobs_of(reference, rollout, banned) for rollout in group] for group in groups]
        step_losses = []
        for minibatch in membership(groups, step):
            optimizer.zero_grad()
            count = sum(int(groups[g][i].loss_mask.sum()) for g, i in minibatch)
            total = 0.0
            for g, i in minibatch:
                now = logprobs_of(model, groups[g][i], banned)
                ratio, advantage = (now - old[g][i]).exp(), float(advantages[g][i])
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip[0], 1 + clip[1]) * advantage)
                log_ratio = ref[g][i] - now
                kl = log_ratio.exp() - log_ratio - 1
                loss = (-surrogate + kl_coef * kl).sum() / count
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clipping)
            optimizer.step()
            step_losses.append(total)
        losses.append(sum(step_losses) / len(step_losses))
    return model, losses, history
