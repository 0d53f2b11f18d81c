"""Policy losses, corrections and advantages compared with veRL's and TRL's own functions on the same tensors.

    PYTHONPATH=$PWD python benchmarks/peer_losses.py PATH

PATH is a folder with the package `verl` or `trl`: a checkout, or the target of `pip install --no-deps --target`. Three
files of veRL are loaded, with empty modules in place of the rest; TRL's trainer is created without its constructor. All
in double precision; gradients are with respect to the logprobs. Rows note where definitions differ.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf.algorithms.base import AlgorithmConfig, Normalisation, Objective, TokenOutputs, TokenStatistics
from rlhf.algorithms.clipped_loss import ClippedLoss, correct
from rlhf.algorithms.correction import CorrectionConfig
from rlhf.algorithms.token_rewards import token_rewards
from rlhf.ops.advantages import (
    generalized_advantages,
    group_relative_advantages,
    leave_one_out_advantages,
    returns_to_go,
)
from rlhf.ops.correction import CorrectionKind
from rlhf.ops.kl import KLEstimator, kl_divergence
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.mismatch import mismatch_figures, mismatch_sums
from rlhf.ops.policy_loss import Ratio
from rlhf.ops.whitening import moments, whiten
from rlhf.stages.console import CONSOLE, show_table
from rlhf.types import Row

NUM_GROUPS, GROUP_SIZE, LENGTH = 3, 4, 12
SAME = "same"
CORRECTIONS = {
    CorrectionKind.token_truncate: {"high": 1.2},
    CorrectionKind.token_mask: {"low": 0.8, "high": 1.25},
    CorrectionKind.sequence_truncate: {"high": 1.5},
    CorrectionKind.sequence_mask: {"low": 0.6, "high": 1.6},
    CorrectionKind.geometric_mask: {"low": 0.9, "high": 1.1},
}
OFF = CorrectionConfig(kind=CorrectionKind.off)
Line = tuple[str, str, str, str]


@dataclass(frozen=True)
class Tensors:
    """Rows of completions alone, left-aligned: [R, T] in double precision, 0 after a row's last token."""

    mask: Tensor  # bool
    new: Tensor
    old: Tensor
    rollout: Tensor
    ref: Tensor
    entropy: Tensor
    values: Tensor
    rewards: Tensor  # [R]
    index: np.ndarray  # [R], the prompt of each row

    @property
    def advantages(self) -> Tensor:  # [R, T]
        centred = [value for group in self.by_group for value in group_relative_advantages(group, scale_by_std=True)]
        return torch.tensor(centred, dtype=torch.float64)[:, None] * self.mask

    @property
    def by_group(self) -> list[list[float]]:
        return self.rewards.reshape(NUM_GROUPS, GROUP_SIZE).tolist()

    @property
    def token_rewards(self) -> Tensor:  # [R, T], each row's reward at its last token
        last = self.mask.sum(-1) - 1
        return torch.zeros_like(self.new).scatter_(1, last[:, None], self.rewards[:, None])

    def batch(self, signals: Sequence[float], **columns: Tensor) -> MicroBatch:
        """Lay the rows out as a micro-batch; its tensors are put in afterwards, in double precision."""
        masks = [row.numpy() for row in self.mask]
        ids = [np.zeros(LENGTH, dtype=np.int32) for _ in masks]
        batch = MicroBatch.from_rows(ids, masks, list(signals), {}, packed=False)
        batch.signals = batch.signals.double()
        for name, column in columns.items():
            setattr(batch, name, column)
        return batch


def draw(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    num_rows = NUM_GROUPS * GROUP_SIZE

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths = torch.randint(3, LENGTH + 1, (num_rows,), generator=generator)
    lengths[0] = LENGTH
    mask = torch.arange(LENGTH) < lengths[:, None]
    new = -normal(num_rows, LENGTH).abs() - 0.1
    near = [(new + 0.5 * normal(num_rows, LENGTH)) * mask for _ in range(3)]
    return Tensors(
        mask, new * mask, *near, entropy=normal(num_rows, LENGTH).abs() * mask,
        values=normal(num_rows, LENGTH) * mask, rewards=normal(num_rows),
        index=np.repeat(np.arange(NUM_GROUPS), GROUP_SIZE),
    )  # fmt: skip


def ours(tensors: Tensors, **keys: Any) -> Callable[[Tensor], Tensor]:
    """Return our loss as a function of the logprobs."""
    config = AlgorithmConfig(**{"correction": OFF, **keys})
    loss = ClippedLoss(config, config.kl_coef, max_tokens=LENGTH)
    rows = [Row(group=0, index=i, num_tokens=LENGTH, num_loss_tokens=int(n)) for i, n in enumerate(tensors.mask.sum(1))]
    batch = tensors.batch(
        [0.0] * len(rows), old_logprobs=tensors.old, rollout_logprobs=tensors.rollout, ref_logprobs=tensors.ref,
        advantages=tensors.advantages,
    )  # fmt: skip

    def value(new: Tensor) -> Tensor:
        statistics = TokenStatistics(entropy=tensors.entropy, first_choice=tensors.mask)
        return loss(TokenOutputs(new, statistics), batch)[0] / loss.count(rows)

    return value


def compare(name: str, mine: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], at: Tensor,
            definition: str = SAME) -> Line:  # fmt: skip
    """Compare two losses and their gradients."""
    found = []
    for loss in (mine, theirs):
        leaf = at.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        found.append((value.detach(), leaf.grad))
    (one, gradient), (other, other_gradient) = found
    return name, apart(one, other), apart(gradient, other_gradient), definition


def apart(one: Tensor | None, other: Tensor | None) -> str:
    assert one is not None
    assert other is not None
    return f"{(one - other).abs().max().item():.0e}"


def same_tensors(name: str, one: Tensor, other: Tensor, definition: str = SAME) -> Line:
    return name, apart(one, other), "", definition


# veRL


class Stand(ModuleType):
    """A module that has every name, as an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (), {}))
        return self.__dict__[name]


def load_verl(folder: Path) -> tuple[ModuleType, ModuleType]:
    """Load veRL's losses and corrections, and the masked sums that they call, without the packages that it needs."""
    names = (
        "verl", "verl.utils", "verl.utils.device", "verl.utils.import_utils", "verl.trainer", "verl.trainer.config",
        "verl.trainer.config.algorithm", "verl.trainer.ppo", "verl.workers", "verl.workers.config",
        "verl.workers.config.actor", "verl.protocol",
    )  # fmt: skip
    for name in names:
        sys.modules[name] = Stand(name)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, sys.modules[name])
    if importlib.util.find_spec("tensordict") is None:
        sys.modules["tensordict"] = Stand("tensordict")
    sys.modules["verl.utils.import_utils"].deprecated = lambda *_: lambda function: function  # type: ignore[attr-defined]
    sys.modules["verl.utils.device"].get_device_name = lambda: "cpu"  # type: ignore[attr-defined]
    load_file("verl.utils.torch_functional", folder / "verl/utils/torch_functional.py")
    sys.modules["verl.utils"].torch_functional = sys.modules["verl.utils.torch_functional"]  # type: ignore[attr-defined]
    losses = load_file("verl.trainer.ppo.core_algos", folder / "verl/trainer/ppo/core_algos.py")
    return losses, load_file("verl_corrections", folder / "verl/trainer/ppo/rollout_corr_helper.py")


def load_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def verl_loss(losses: ModuleType, name: str, tensors: Tensors, *, mode: str = "token-mean", low: float = 0.2,
              high: float = 0.28, weights: Tensor | None = None) -> Callable[[Tensor], Tensor]:  # fmt: skip
    config = sys.modules["verl.workers.config"].ActorConfig()
    config.clip_ratio, config.clip_ratio_low, config.clip_ratio_high, config.global_batch_info = low, low, high, {}
    config.get = lambda key, default: default  # clip_ratio_c, the dual clip, is 3
    function = losses.get_policy_loss_fn(name)
    mask = tensors.mask.double()

    def value(new: Tensor) -> Tensor:
        return function(tensors.old, new, tensors.advantages, mask, mode, config, weights)[0]

    return value


def verl_losses(losses: ModuleType, tensors: Tensors) -> list[Line]:
    usual = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
    num_rows = len(tensors.mask)
    modes = {
        "token-mean": Normalisation.tokens,
        "seq-mean-token-mean": Normalisation.sequences,
        "seq-mean-token-sum": Normalisation.sequence_sums,
    }
    table = [
        compare(
            f"clip, dual clip 3, {mode}",
            ours(tensors, **usual, normalisation=normalisation),
            verl_loss(losses, "vanilla", tensors, mode=mode),
            tensors.new,
        )
        for mode, normalisation in modes.items()
    ]
    summed = verl_loss(losses, "vanilla", tensors, mode="seq-mean-token-sum-norm")
    constant = ours(tensors, **usual, normalisation=Normalisation.constant)
    gspo = {"ratio": Ratio.sequence, "normalisation": Normalisation.sequences, "clip_low": 0.02, "clip_high": 0.03}
    cispo = ours(tensors, objective=Objective.cispo, clip_low=0.2, clip_high=0.28)
    return [
        *table,
        compare(
            "seq-mean-token-sum-norm",
            constant,
            lambda new: summed(new) / num_rows,
            tensors.new,
            "veRL's is a sum over rows; divided by their number here",
        ),
        compare("GSPO", ours(tensors, **gspo), verl_loss(losses, "gspo", tensors, low=0.02, high=0.03), tensors.new),
        compare("CISPO", cispo, verl_loss(losses, "cispo", tensors), tensors.new),
        *(
            same_tensors(
                f"KL {name}",
                kl_divergence(tensors.new, tensors.ref, KLEstimator(name)),
                losses.kl_penalty(tensors.new, tensors.ref, name),
            )
            for name in ("k1", "k2", "k3")
        ),
    ]


def verl_corrections(losses: ModuleType, helper: ModuleType, tensors: Tensors) -> list[Line]:
    log_ratio, mask = tensors.old - tensors.rollout, tensors.mask.double()
    statistics = {
        CorrectionKind.token_mask: "token_k1",
        CorrectionKind.sequence_mask: "seq_sum_k1",
        CorrectionKind.geometric_mask: "seq_mean_k1",
    }
    table = []
    for kind, bounds in CORRECTIONS.items():
        config = AlgorithmConfig(correction=CorrectionConfig(kind=kind, **bounds), clip_high=0.28, dual_clip=3.0)
        batch = tensors.batch([0.0] * len(mask), rollout_logprobs=tensors.rollout)
        weights = mask
        if kind is not CorrectionKind.geometric_mask:
            level = "token" if kind.value.startswith("token") else "sequence"
            weights, _ = helper.compute_rollout_correction_weights(log_ratio, mask, level, bounds["high"])
        if kind in statistics:
            # The thresholds bound behaviour / learner, the inverse of the ratio.
            thresholds = f"{1 / bounds['high']}_{1 / bounds['low']}"
            kept, _ = helper.compute_rollout_rejection_mask(log_ratio, mask, statistics[kind], thresholds)
            weights = weights * kept
        table.append(
            same_tensors(f"weights, {kind.value}", correct(config, tensors.old, batch).weights * mask, weights)
        )
        theirs = verl_loss(losses, "vanilla", tensors, weights=weights)
        mine = ours(tensors, correction=config.correction, clip_high=0.28, dual_clip=3.0)
        table.append(compare(f"clip with {kind.value}", mine, theirs, tensors.new))
    gauges = mismatch_figures(mismatch_sums(tensors.old, tensors.rollout, tensors.mask).tolist())
    found = helper.compute_offpolicy_metrics(tensors.old, tensors.rollout, mask)
    pairs = {"kl_k1": "kl", "kl_k3": "k3_kl"}
    return [*table, *(same_tensors(f"gauge {a}", *map(torch.tensor, (gauges[a], found[b]))) for a, b in pairs.items())]


def verl_advantages(losses: ModuleType, tensors: Tensors) -> list[Line]:
    rewards, mask, index = tensors.token_rewards, tensors.mask.double(), tensors.index
    config = SimpleNamespace(gamma=1.0)
    kl_coef = 0.3
    lowered = losses.compute_rewards(rewards, tensors.old, tensors.ref, kl_coef) * mask
    batch = tensors.batch(tensors.rewards.tolist(), old_logprobs=tensors.old, ref_logprobs=tensors.ref)
    batch.signals = tensors.rewards
    ours_lowered = token_rewards(batch, kl_coef=kl_coef, estimator=KLEstimator.k1)

    def spread(advantages: list[list[float]]) -> Tensor:
        return torch.tensor([value for group in advantages for value in group], dtype=torch.float64)[:, None] * mask

    def whitened(values: Tensor) -> Tensor:
        """Whiten over all tokens, with veRL's variance of the sample instead of the population's."""
        flat = values[tensors.mask].numpy()
        result = torch.zeros_like(values)
        result[tensors.mask] = torch.from_numpy(whiten(flat, moments(flat))).double()
        return result * ((len(flat) - 1) / len(flat)) ** 0.5

    sample = "veRL's variance is the sample's, ours the population's; ours scaled by sqrt((n - 1) / n) here"
    no_std = {"norm_adv_by_std_in_grpo": False}
    greedy = torch.full((len(mask),), 0.25, dtype=torch.float64)
    values = generalized_advantages(rewards, tensors.values, gamma=0.9, gae_lambda=0.8)
    theirs = {
        "GRPO": losses.compute_grpo_outcome_advantage(rewards, mask, index),
        "GRPO without std": losses.compute_grpo_outcome_advantage(rewards, mask, index, **no_std),
        "RLOO": losses.compute_rloo_outcome_advantage(rewards, mask, index),
        "ReMax": losses.compute_remax_outcome_advantage(rewards, greedy, mask),
        "REINFORCE++, KL in the reward": losses.compute_reinforce_plus_plus_outcome_advantage(lowered, mask, config),
        "REINFORCE++-baseline": losses.compute_reinforce_plus_plus_baseline_outcome_advantage(rewards, mask, index),
        "PPO, GAE": losses.compute_gae_advantage_return(rewards, tensors.values, mask, 0.9, 0.8),
    }
    mine = {
        "GRPO": spread([group_relative_advantages(group, scale_by_std=True) for group in tensors.by_group]),
        "GRPO without std": spread([group_relative_advantages(g, scale_by_std=False) for g in tensors.by_group]),
        "RLOO": spread([leave_one_out_advantages(group) for group in tensors.by_group]),
        "ReMax": (tensors.rewards[:, None] - 0.25) * mask,
        "REINFORCE++, KL in the reward": whitened(returns_to_go(ours_lowered)),
        "REINFORCE++-baseline": whitened(
            spread([group_relative_advantages(group, scale_by_std=False) for group in tensors.by_group])
        ),
        "PPO, GAE": whitened(values),
    }
    single = {"REINFORCE++, KL in the reward", "REINFORCE++-baseline", "PPO, GAE"}
    return [
        same_tensors(f"advantages, {name}", mine[name], found[0] * mask, sample if name in single else SAME)
        for name, found in theirs.items()
    ]


# TRL


def trl_loss(trainer_class: Any, tensors: Tensors, **keys: Any) -> Callable[[Tensor], Tensor]:
    weights = keys.pop("weights", None)
    trainer = object.__new__(trainer_class)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        sync_gradients=True,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    attributes = {
        "model": SimpleNamespace(training=True), "accelerator": accelerator, "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token",
        "beta": 0.0, "loss_type": "dapo", "epsilon_low": 0.2, "epsilon_high": 0.28, "_entropy_bonus_enabled": False,
        "use_adaptive_entropy": False, "current_gradient_accumulation_steps": 1, "max_completion_length": LENGTH,
        "use_vllm": weights is not None, "vllm_importance_sampling_correction": True,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "args": SimpleNamespace(delta=keys.pop("delta", None), use_bias_correction_kl=False),
    }  # fmt: skip
    trainer.__dict__.update({**attributes, **keys})
    ids = torch.zeros(len(tensors.mask), LENGTH, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids,
        "completion_mask": tensors.mask.double(), "advantages": tensors.advantages[:, 0],
        "old_per_token_logps": tensors.old, "ref_per_token_logps": tensors.ref,
        "num_items_in_batch": tensors.mask.sum(), "importance_sampling_ratio": weights,
    }  # fmt: skip

    def value(new: Tensor) -> Tensor:
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new, tensors.entropy, None)
        return trainer._compute_loss(None, inputs)

    return value


def trl_losses(trainer: Any, tensors: Tensors) -> list[Line]:
    clip = {"clip_low": 0.2, "clip_high": 0.28}
    kinds = {
        "dapo": Normalisation.tokens,
        "bnpo": Normalisation.tokens,
        "grpo": Normalisation.sequences,
        "dr_grpo": Normalisation.constant,
    }
    table = [
        compare(
            f"loss_type={kind}, beta=0.1",
            ours(tensors, **clip, kl_coef=0.1, normalisation=normalisation),
            trl_loss(trainer, tensors, loss_type=kind, beta=0.1),
            tensors.new,
        )
        for kind, normalisation in kinds.items()
    ]
    gspo = {"ratio": Ratio.sequence, "normalisation": Normalisation.sequences, "clip_low": 0.02, "clip_high": 0.03}
    cispo = {"objective": Objective.cispo, "clip_low": 1.0, "clip_high": 0.2}
    level = {"importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon_low": 0.02, "epsilon_high": 0.03}
    table += [
        compare("GSPO", ours(tensors, **gspo), trl_loss(trainer, tensors, **level), tensors.new),
        compare(
            "CISPO",
            ours(tensors, **cispo),
            trl_loss(trainer, tensors, loss_type="cispo", epsilon_high=1.2),
            tensors.new,
            "same; TRL's epsilon_high is our 1 + clip_high",
        ),
        compare("dual clip", ours(tensors, **clip, dual_clip=1.5), trl_loss(trainer, tensors, delta=1.5), tensors.new),
        compare(
            "entropy bonus",
            ours(tensors, **clip, entropy_coef=0.1),
            trl_loss(trainer, tensors, _entropy_bonus_enabled=True, entropy_coef=0.1),
            tensors.new,
        ),
    ]
    for kind, bounds in CORRECTIONS.items():
        config = AlgorithmConfig(correction=CorrectionConfig(kind=kind, **bounds))
        batch = tensors.batch([0.0] * len(tensors.mask), rollout_logprobs=tensors.rollout)
        weights = correct(config, tensors.old, batch).weights
        mine = ours(tensors, **clip, kl_coef=0.1, correction=config.correction)
        theirs = trl_loss(trainer, tensors, beta=0.1, weights=weights)
        table.append(compare(f"{kind.value}, with KL", mine, theirs, tensors.new, "same, given our weights"))
    return table


def main(folder: Path) -> None:
    tensors = draw(0)
    if (folder / "verl/trainer/ppo/core_algos.py").is_file():
        name, (losses, helper) = "veRL", load_verl(folder)
        table = verl_losses(losses, tensors) + verl_corrections(losses, helper, tensors)
        table += verl_advantages(losses, tensors)
    elif (folder / "trl/trainer/grpo_trainer.py").is_file():
        sys.path.insert(0, str(folder))
        name, table = "TRL", trl_losses(importlib.import_module("trl.trainer.grpo_trainer").GRPOTrainer, tensors)
    else:
        sys.exit(f"{folder}: neither verl/ nor trl/ is in it; give a checkout, or the target of pip install --target")
    columns = ("what", "values apart", "gradients apart", "definition")
    show_table(f"Ours and {name}'s on the same tensors: the largest difference", columns, table)
    CONSOLE.print(f"{NUM_GROUPS} prompts of {GROUP_SIZE} rollouts of up to {LENGTH} tokens, double precision")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/peer_losses.py PATH, a folder with the package verl or trl")
    main(Path(sys.argv[1]))
