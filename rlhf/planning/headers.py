"""Comment in a recipe on the memory that it takes, computed from its configuration."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from rlhf.actors.plan import AcceleratorGroup, Plan
from rlhf.config import OnlineConfig
from rlhf.offline_config import OfflineConfig, RewardModelRunConfig
from rlhf.planning.memory import ASLEEP, KEPT_FREE, Footprint, cache_tokens, engine_bytes, frozen_model, learner
from rlhf.planning.shapes import BYTES, shape_of

MARKER = "Computed, not measured"
WIDTH = 120
SHOWN_FROM = 5e7
"""Bytes from which a size is listed: it rounds to 0.1 GB."""
ACCELERATOR_GB = 80
"""Memory of the accelerators that recipes are written for."""


def footprints(config: OnlineConfig | OfflineConfig, plan: Plan) -> dict[str, Footprint]:
    """Return the peak memory of a rank of each role, except engines."""
    shape = shape_of(config.model)
    if isinstance(config, OfflineConfig):
        vocabulary = not isinstance(config, RewardModelRunConfig)
        ranks = plan.role("policy").num_workers
        rank = learner(shape, config.backend, ranks, vocabulary=vocabulary, lora_rank=config.lora.rank)
        return {"policy": rank}
    ranks = plan.role("policy").num_workers
    found = {"policy": learner(shape, config.backend, ranks, lora_rank=config.lora.rank)}
    if plan.has("reference"):
        found["reference"] = frozen_model(shape, config.backend, plan.role("reference").num_workers)
    if config.teacher.model is not None:
        teacher = shape_of(config.teacher.model)
        found["teacher"] = frozen_model(teacher, config.backend, plan.role("teacher").num_workers)
    if plan.has("critic"):
        critic = shape_of(config.critic.model or config.model)
        ranks, adapter = plan.role("critic").num_workers, config.critic.lora.rank
        found["critic"] = learner(critic, config.backend, ranks, vocabulary=False, lora_rank=adapter)
    if config.reward.model is not None:
        found["reward"] = frozen_model(shape_of(config.reward.model), config.backend, 1, vocabulary=False)
    return found


def peaks(config: OnlineConfig | OfflineConfig, plan: Plan) -> dict[str, float]:
    """Return the peak bytes on an accelerator of each group, by the group's name."""
    ranks = footprints(config, plan)
    return {group.name: peak(config, group, ranks) for group in plan.groups}


def peak(config: OnlineConfig | OfflineConfig, group: AcceleratorGroup, ranks: Mapping[str, Footprint]) -> float:
    """Return the peak bytes of a group. Roles that share accelerators take turns, and idle roles keep their contexts; a
    weight sync holds policy and engine."""
    names = [role.role for role in group.roles]
    at_work = {name: ranks[name].total for name in names if name in ranks}
    if "sampler" in names:
        assert isinstance(config, OnlineConfig)
        at_work["sampler"] = engine_bytes(config.sampler, ACCELERATOR_GB * 1e9)
        if "policy" in names:
            policy = ranks["policy"]
            weights = BYTES * shape_of(config.model).num_parameters / config.sampler.tensor_parallel_size
            buckets = 3 * config.weight_sync.bucket_bytes
            at_work["sync"] = policy.states + policy.buffers + KEPT_FREE + weights + buckets
    return max(at_work.values()) + ASLEEP * (len(names) - 1)


def header(config: OnlineConfig | OfflineConfig, plan: Plan) -> list[str]:
    """Return the comment lines of a recipe on the memory that it takes."""
    parts = [in_words(name, rank) for name, rank in footprints(config, plan).items()]
    if isinstance(config, OnlineConfig):
        shape, taken = shape_of(config.model), engine_bytes(config.sampler, ACCELERATOR_GB * 1e9)
        tokens = cache_tokens(shape, config.sampler, ACCELERATOR_GB * 1e9)
        parts.append(f"engine {taken / 1e9:.0f}, its KV cache has room for {tokens // 1000} thousand tokens")
    shared = [(name, most) for name, most in peaks(config, plan).items() if "+" in name]
    parts += [f"sharing {name} at most {most / 1e9:.0f}" for name, most in shared]
    text = f"{MARKER}, GB of each {ACCELERATOR_GB} GB accelerator with {KEPT_FREE / 1e9:.0f} kept free: "
    return textwrap.wrap(text + "; ".join(parts) + ".", WIDTH, initial_indent="# ", subsequent_indent="# ")


def in_words(name: str, rank: Footprint) -> str:
    sizes = [("states", rank.states), ("buffers", rank.buffers), ("activations", rank.activations), ("head", rank.head)]
    listed = " + ".join(f"{what} {size / 1e9:.1f}" for what, size in sizes if size >= SHOWN_FROM)
    return f"{name} {rank.total / 1e9:.0f} ({listed})"


def header_in(text: str) -> list[str]:
    """Return the computed lines of a recipe: from the marker to the end of its comment."""
    found = re.search(rf"^# {MARKER}.*\n(?:#.*\n)*", text, re.MULTILINE)
    return found[0].splitlines() if found else []


def with_header(text: str, lines: list[str]) -> str:
    """Return the recipe with its computed lines replaced; they are the end of the comment at its top."""
    bare = text.replace("".join(f"{line}\n" for line in header_in(text)), "") if header_in(text) else text
    comment = re.match(r"(?:#.*\n)*", bare)
    assert comment is not None
    end = comment.end()
    return bare[:end] + "".join(f"{line}\n" for line in lines) + bare[end:]


def rewrite(recipe: Path, lines: list[str]) -> None:
    recipe.write_text(with_header(recipe.read_text(encoding="utf-8"), lines), encoding="utf-8")
