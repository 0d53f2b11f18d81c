"""A single process, one row at a time, plain AdamW: what the sharded learner must equal."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM


def train(
    model_path: str,
    steps: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],  # per step, rows of (token_ids, loss_mask)
    *,
    lr: float,
    clipping: float,
    dtype: torch.dtype = torch.float32,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    """Mean negative log likelihood per step, gradient norm per step, trained parameters at the end. `prepare`
    makes of the loaded model what is trained."""
    model = prepare(AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=lr, weight_decay=0.0)
    losses, norms = [], []
    for rows in steps:
        count = sum(int(mask.sum()) for _, mask in rows)
        optimizer.zero_grad()
        total = 0.0
        for token_ids, mask in rows:
            ids = torch.tensor(token_ids, dtype=torch.int64).unsqueeze(0)
            logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            chosen = logprobs[torch.arange(len(token_ids) - 1), ids[0, 1:]]
            loss = -chosen[torch.from_numpy(mask[1:])].sum() / count
            loss.backward()
            total += loss.item()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), clipping)))
        optimizer.step()
        losses.append(total)
    return losses, norms, {name: p.detach().float().numpy() for name, p in trained.items()}
