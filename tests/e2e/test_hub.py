"""A training by ids of the Hub: through a server that speaks its routes, then offline from the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from rlhf.config import SFTRunConfig, compose
from rlhf.train.artifact import open_artifact
from tests.oracles.hub import files_of, serving

REPOSITORY = Path(__file__).parents[2]
SMALL = ["backend.precision=fp32", "backend.max_tokens_per_microbatch=128", "optimizer.lr=1e-3", "placement.policy=1",
         "train.rows_per_step=8", "train.num_steps=2", "data.response_key=answer", "log.tensorboard=false",
         "preflight.timeout_s=60"]  # fmt: skip


def test_a_model_and_rows_of_the_hub_are_trained_on_and_read_again_offline(
    cluster: None, models: dict[str, Path], sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf.stages.offline import sft

    ids = ["model=owner/tiny@main", "data.path=owner/sums:train.jsonl", f"output={tmp_path / 'run'}"]
    with serving() as hub:
        model = hub.publish("owner/tiny", files_of(models["tied"]))
        rows = hub.publish("owner/sums", {"train.jsonl": sums.read_bytes()}, "datasets")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home/hub"))
        sft.run(compose(REPOSITORY / "conf", "sft", [*SMALL, *ids], SFTRunConfig))
    manifest = open_artifact(tmp_path / "run" / "model").manifest
    (parent,) = manifest["parents"]
    assert (parent["id"], parent["commit"]) == ("owner/tiny@main", model)
    assert Path(parent["path"]).is_relative_to(tmp_path / "home")
    assert (manifest["step"], manifest["config"]["model"]) == (2, "owner/tiny@main")
    assert manifest["config"]["hub"]["data.path"] == {"id": "owner/sums:train.jsonl", "commit": rows}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["hub"] == manifest["config"]["hub"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    # The server is gone: a command finds model and rows in the cache, and that they are those of the run.
    again = subprocess.run(
        [sys.executable, "launch/sft.py", *SMALL, *ids],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout
    assert f"model=owner/tiny@main: commit {model}, in {tmp_path / 'home'}" in again.stdout
    assert "this run is finished" in again.stdout
