"""Weights & Biases for real, offline: what it leaves in the run folder, read back from its own file."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.train.wandb_log import wandb_log
from rlhf.types import RunError

BLOCK, FULL, LAST = 32768, 1, 4


@pytest.fixture
def server(monkeypatch) -> Iterator[socket.socket]:
    """Where wandb would go, were it to go anywhere."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield listening


def records(file: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: a LevelDB log of protocol buffers behind seven bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = file.read_bytes()
    assert b":W&B".startswith(content[:4])
    offset, payload = 7, b""
    while offset + 7 <= len(content):
        if (left := BLOCK - offset % BLOCK) < 7:
            offset += left
            continue
        length, kind = struct.unpack("<HB", content[offset + 4 : offset + 7])
        if offset + 7 + length > len(content):  # it is being written
            return
        payload += content[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (FULL, LAST):
            yield Record.FromString(payload)
            payload = b""


def only_run(folder: Path) -> tuple[list[dict[str, Any]], Any, int]:
    """Of the only run in the folder: its figures, its record, its exit code. `finish` returns before all is written."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 30
    while not any(record.HasField("exit") for record in records(file)):
        assert time.monotonic() < end, file
        time.sleep(0.05)
    found = list(records(file))
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    (run,) = (record.run for record in found if record.WhichOneof("record_type") == "run")
    (exit_code,) = (record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit")
    return rows, run, exit_code


def row(step: int, reward: float) -> dict[str, float]:
    return {"step": step, "reward": reward, "train/kl": 0.5}


def test_offline_figures_are_in_the_run_folder_and_nothing_is_sent(tmp_path, server):
    config = {"optimizer": {"lr": 0.001}, "reward": {"functions": ["exact"]}}
    with wandb_log(tmp_path, "my-project", "outputs/mine", config, []) as log:
        for step in range(3):
            log.write(row(step, 0.25 * step))
    rows, run, exit_code = only_run(tmp_path)
    assert [(row["_step"], row["reward"], row["train/kl"]) for row in rows] == [
        (0, 0, 0.5),
        (1, 0.25, 0.5),
        (2, 0.5, 0.5),
    ]
    assert (run.project, run.display_name, exit_code) == ("my-project", "outputs/mine", 0)
    stored = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: stored[key] for key in config} == config
    with pytest.raises(BlockingIOError):
        server.accept()


def test_a_failed_run_that_is_continued_is_one_run_without_repeated_steps(tmp_path, server):
    def run_that_fails() -> None:
        with wandb_log(tmp_path, "p", "mine", {}, []) as log:
            for step in range(4):
                log.write(row(step, float(step)))
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        run_that_fails()
    rows, first, exit_code = only_run(tmp_path)
    assert (len(rows), exit_code) == (4, 1)

    # Its checkpoint is older than its last step: the log of metrics goes back to it.
    with wandb_log(tmp_path, "p", "mine", {}, [row(0, 0.0), {**row(1, 1.0), "train/loss": None}]) as log:
        for step in range(2, 5):
            log.write(row(step, 10.0 * step))
    rows, run, exit_code = only_run(tmp_path)
    assert [(row["_step"], row["reward"]) for row in rows] == [(0, 0), (1, 1), (2, 20), (3, 30), (4, 40)]
    assert (run.run_id, exit_code) == (first.run_id, 0)
    assert (tmp_path / "wandb_run_id").read_text() == run.run_id


def test_a_key_that_is_none_is_told_in_a_sentence(tmp_path, server, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x")
    sentence = r"^log.wandb_project=p: wandb did not start: .*; correct WANDB_API_KEY, or set WANDB_MODE=offline"
    with pytest.raises(RunError, match=sentence), wandb_log(tmp_path, "p", "mine", {}, []):
        pass
