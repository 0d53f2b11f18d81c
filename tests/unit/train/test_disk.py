"""Folders that cannot be written: one sentence each, and what was committed before stays whole."""

import gc
import re
import subprocess
from pathlib import Path

import pytest

from rlhf.pipelines.record import open_pipeline
from rlhf.sweeps.record import open_sweep
from rlhf.train.artifact import committing, open_artifact
from rlhf.train.run_folder import RunFolder, look_at_run_folder, open_run_folder
from rlhf.types import InputError, RunError
from tests.conftest import SMALL_BYTES


def visit(path: Path | str) -> RunFolder:
    with open_run_folder(str(path), {"a": 1}) as folder:
        return folder


def add_checkpoint(folder: RunFolder, step: int, write) -> Path:
    with committing(folder.checkpoint(step), {"step": step}) as staging:
        write(staging / "weights")
    return folder.checkpoint(step)


def by_python(path: Path) -> None:
    path.write_bytes(bytes(2 * SMALL_BYTES))


def by_torch(path: Path) -> None:
    import torch

    torch.save(torch.zeros(SMALL_BYTES // 2), path)


def by_safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(SMALL_BYTES // 2)}, path)


@pytest.mark.parametrize("write", [by_python, by_torch, by_safetensors])
def test_a_disk_that_fills_up_loses_nothing(small_disk, write):
    folder = visit(small_disk / "run")
    kept = add_checkpoint(folder, 1, lambda path: path.write_bytes(b"small"))
    with pytest.raises(RunError, match=r"step-000002: the disk is full; .* free some space, and the same command"):
        add_checkpoint(folder, 2, write)
    gc.collect()  # the error keeps torch's file open, and so its blocks taken
    assert [path.name for path in kept.parent.iterdir()] == ["step-000001"]
    again = visit(small_disk / "run")
    assert again.newest_checkpoint().manifest["step"] == 1
    assert open_artifact(add_checkpoint(again, 2, lambda path: path.write_bytes(b"x"))).manifest["step"] == 2


def test_a_read_only_disk_is_an_input_error(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(InputError, match=r"^output=\S+: it cannot be written \(Read-only file system\); set output"):
        visit(small_disk / "run")
    with pytest.raises(InputError, match=r"^output=\S+: it cannot be written \(Read-only file system\); set output"):
        look_at_run_folder(str(small_disk / "run"), {})


def test_something_in_the_way_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, sentence in (
        ("file", "it is a file; set output to a folder"),
        ("file/run", "it cannot be written (Not a directory)"),
        ("link", f"it is a link to {tmp_path}/nowhere, which does not exist"),
        ("x" * 300, "it cannot be written (File name too long)"),
    ):
        for opened in (lambda path: open_run_folder(path, {}), lambda path: open_pipeline(path, {}),
                       lambda path: open_sweep(path, [])):  # fmt: skip
            with pytest.raises(InputError, match=re.escape(sentence)), opened(str(tmp_path / name)):
                pass
        with pytest.raises(InputError, match=re.escape(sentence)):
            look_at_run_folder(str(tmp_path / name), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_new_disk_counts_as_empty(tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".gitkeep").touch()
    visit(tmp_path)


def test_what_is_not_a_leftover_of_ours_stays(tmp_path):
    folder = visit(tmp_path)
    (tmp_path / ".tmp-file").write_text("an editor's")
    (tmp_path / ".old-link").symlink_to(tmp_path)
    (folder.root / ".tmp-model" / ".tmp-inner").mkdir(parents=True)
    visit(tmp_path)
    assert {".tmp-file", ".old-link"} == {path.name for path in tmp_path.glob(".[to]*-*")}


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert visit("~/run").root == tmp_path / "run"
