"""Fixtures of every tier: tiny models built once, one Ray cluster per session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

ALPHABET = "0123456789+-*=.,:?# abcdefghijklmnopqrstuvwxyz加减乘除等于多少答案是"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained tiny models by name: `tied`, `untied`, and `judge`, a reward model."""
    from rlhf.models.tiny import build_tiny_model, fit_tiny_reward_model

    root = tmp_path_factory.mktemp("models")
    for name in ("tied", "untied"):
        build_tiny_model(root / name, alphabet=ALPHABET, hidden_size=64, tied=name == "tied")
    rated = {str(number): number / 9 for number in range(10)}
    fit_tiny_reward_model(root / "judge", rated, alphabet=ALPHABET, hidden_size=64, num_steps=3)
    return {name: root / name for name in ("tied", "untied", "judge")}


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One local Ray cluster with pretend accelerators, of this session alone."""
    import ray

    ray.init(address="local", num_cpus=20, num_gpus=10, include_dashboard=False, log_to_driver=False,
             object_store_memory=512 << 20)  # fmt: skip
    yield
    ray.shutdown()
