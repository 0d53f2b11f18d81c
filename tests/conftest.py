"""Fixtures of every tier: tiny models built once, one Ray cluster per session."""

import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# The same examples in every run: a suite that fails by chance is not believed. New ones: --hypothesis-profile=default.
# No deadline of an example: a busy machine takes seconds for what takes milliseconds.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

# Without bytecode each of the hundreds of processes that tests start compiles the sources again, for 0.6 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")
# Ray Train gives its ranks a minute to come up and then starts others beside them: too little on a busy machine.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
# As in local clusters that a command starts: nothing preempts a machine of its own.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
# What is imported stays: collecting garbage among it takes a fifth of the unit tier's time.
gc.disable()

SHARED = {
    "roles": (
        "e2e/test_colocation.py", "e2e/test_lora_rl.py", "e2e/test_one_loop.py", "e2e/test_watching.py",
        "e2e/test_weight_sync.py",
    ),
    "ranks": (
        "ray/test_loading.py", "ray/test_lora.py", "ray/test_offline_losses.py", "ray/test_offload.py",
        "ray/test_perplexity.py", "ray/test_score_heads.py", "ray/test_sharding.py",
    ),
    "jobs": (
        "chaos/test_jobs.py", "chaos/test_search.py", "chaos/test_stops.py::test_an_interrupted_run_continues",
        "chaos/test_sweeps.py::test_jobs_outlive",
    ),
}  # fmt: skip
"""Tests that share what takes a minute to start, in the session of one worker: roles, ranks, a head with its jobs."""
ONE_BY_ONE = (
    "chaos/test_failover.py", "chaos/test_offline.py", "chaos/test_runs.py", "chaos/test_stops.py",
    "chaos/test_sweeps.py",
)  # fmt: skip
"""Files whose tests share nothing, and take a minute each."""

ALPHABET = "0123456789+-*=.,:?# abcdefghijklmnopqrstuvwxyz加减乘除等于多少答案是"
SMALL_BYTES = 400_000


class Scheduling(LoadScopeScheduling):
    """Deal groups of tests to workers in collection order: the tests of a file, unless a table above says otherwise."""

    def _split_scope(self, nodeid: str) -> str:
        place = nodeid.removeprefix("tests/")
        shared = next((name for name, tests in SHARED.items() if place.startswith(tests)), None)
        return shared or (nodeid if place.startswith(ONE_BY_ONE) else nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


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
def encoder(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with the same alphabet, which has no chat template."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(models["judge"])
    tokenizer.chat_template = None
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """This process as the only rank of a learner."""
    import torch
    from deepspeed.utils import groups

    from rlhf.ports import free_port

    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    ranks["MASTER_PORT"] = str(free_port())
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ranks.items():
            environment.setenv(name, value)
        # DeepSpeed keeps a copy of the world's group, which the next module's world does not know.
        environment.setattr(groups, "_WORLD_GROUP", None)
        yield
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One local Ray cluster with pretend accelerators, of this session alone."""
    import ray

    ray.init(address="local", num_cpus=20, num_gpus=16, include_dashboard=False, log_to_driver=False,
             object_store_memory=512 << 20)  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = f"size={SMALL_BYTES // 1000}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount")
    yield place
    subprocess.run(["umount", place], check=True)
