"""Committed folders: complete or absent, and every byte checked."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlhf.train.artifact import (
    MANIFEST,
    FileRecords,
    committing,
    describe,
    files_in,
    files_of_rank,
    off_loop,
    open_artifact,
    record,
)
from rlhf.types import InputError

FILES = {"config.json": b"{}", "weights.bin": bytes(range(256)) * 40, "trainer/zero/rank0.pt": b"state", "empty": b""}


def commit(folder: Path, **manifest: object) -> None:
    with committing(folder, {"kind": "model", **manifest}) as staging:
        for name, content in FILES.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content)


def test_a_committed_folder_opens_with_what_it_says_of_itself(tmp_path):
    commit(tmp_path / "runs" / "model", step=7, parents=[{"path": "/base"}])
    artifact = open_artifact(tmp_path / "runs" / "model")
    assert artifact.folder == tmp_path / "runs" / "model"
    assert {name: (artifact.folder / name).read_bytes() for name in FILES} == FILES
    files = artifact.manifest["files"]
    assert {name: entry["size"] for name, entry in files.items()} == {name: len(FILES[name]) for name in FILES}
    assert files["empty"]["sha256"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert {key: artifact.manifest[key] for key in ("kind", "step", "parents")} == {
        "kind": "model", "step": 7, "parents": [{"path": "/base"}]
    }  # fmt: skip


def test_nothing_is_there_before_the_block_ends(tmp_path):
    with committing(tmp_path / "model", {}) as staging:
        (staging / "weights.bin").write_bytes(b"1")
        assert not (tmp_path / "model").exists()
        assert staging.parent == tmp_path
        inode = staging.stat().st_ino
    assert (tmp_path / "model").stat().st_ino == inode  # renamed, not copied
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [RuntimeError("disk"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_nothing_is_left_when_the_block_raises(tmp_path, error):
    def write_and_raise() -> None:
        with committing(tmp_path / "model", {}) as staging:
            (staging / "weights.bin").write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write_and_raise()
    assert os.listdir(tmp_path) == []


def test_a_manifest_that_json_cannot_hold_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        commit(tmp_path / "model", config=object())
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    program = (
        "import os, pathlib, signal, sys\n"
        "from rlhf.train.artifact import committing\n"
        "with committing(pathlib.Path(sys.argv[1]), {}) as staging:\n"
        "    (staging / 'stale.bin').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "model")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".tmp-model"]
    commit(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]
    assert not (tmp_path / "model" / "stale.bin").exists()


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]])
@pytest.mark.parametrize("harm", ["flipped", "truncated", "longer", "missing"])
def test_every_harm_is_found_and_named(tmp_path, name, harm):
    commit(tmp_path / "model")
    path, content = tmp_path / "model" / name, FILES[name]
    if harm == "missing":
        path.unlink()
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"flipped": flipped, "truncated": content[:-1], "longer": content + b"\0"}[harm])
    state = "is missing" if harm == "missing" else "is not what was written"
    sentence = f"{path}: it {state} (see {MANIFEST}); use an earlier checkpoint or restore the file"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        open_artifact(tmp_path / "model")


def test_a_folder_that_was_not_committed_is_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"1")
    sentence = f"{tmp_path}: it has no {MANIFEST}, so it was not committed by this project; choose another folder"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        open_artifact(tmp_path)


@pytest.mark.parametrize("harm", ["", '{"kind": "model", "fi', "[]", '{"kind": "model"}'])
def test_a_broken_manifest_is_an_input_error(tmp_path, harm):
    commit(tmp_path / "model")
    (tmp_path / "model" / MANIFEST).write_text(harm)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "model"))):
        open_artifact(tmp_path / "model")


def test_a_moved_artifact_still_opens(tmp_path):
    commit(tmp_path / "model")
    shutil.move(tmp_path / "model", tmp_path / "elsewhere")
    assert open_artifact(tmp_path / "elsewhere").manifest["files"].keys() == FILES.keys()


def test_manifests_are_json_for_any_reader(tmp_path):
    """JSON has no NaN: a metric that is not finite must not make the manifest unreadable elsewhere."""
    commit(tmp_path / "model", metrics={"loss": float("nan")})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    manifest = json.loads((tmp_path / "model" / MANIFEST).read_text(), parse_constant=refuse)
    assert manifest["metrics"] == {"loss": None}


def write_as_rank(staging: Path, rank: int, stage: int) -> None:
    """Files named as DeepSpeed names them."""
    zero = staging / "trainer" / "policy" / "zero"
    zero.mkdir(parents=True, exist_ok=True)
    (zero / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"moments" * (rank + 1))
    if stage == 3:
        (zero / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").write_bytes(b"weights" * (rank + 1))
    elif rank == 0:
        (zero / "mp_rank_00_model_states.pt").write_bytes(b"all weights")
    if rank == 0:
        (zero.parent / "zero_to_fp32.py").write_text("pass")


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("num_ranks", [1, 2, 12])
def test_every_file_is_recorded_by_the_rank_that_wrote_it(tmp_path, num_ranks, stage):
    records: FileRecords = {}
    with committing(tmp_path / "step", {}, records) as staging:
        for rank in range(num_ranks):
            write_as_rank(staging, rank, stage)
        shares = [files_of_rank(staging / "trainer", rank) for rank in range(num_ranks)]
        assert sorted(path for share in shares for path in share) == files_in(staging)
        assert all(f"rank_{rank}_" in share[0].name for rank, share in enumerate(shares) if stage == 3 or rank)
        for share in shares:
            records |= record(share)
        (staging / "state.json").write_text("{}")
    artifact = open_artifact(tmp_path / "step")
    names = {str(path.relative_to(tmp_path / "step")) for path in files_in(tmp_path / "step")}
    assert artifact.manifest["files"].keys() == names - {MANIFEST}


def test_what_was_recorded_is_not_hashed_again_unless_it_changed(tmp_path):
    records: FileRecords = {}
    with committing(tmp_path / "model", {}, records) as staging:
        for name in ("kept", "changed"):
            (staging / name).write_bytes(b"1")
            records[str(staging / name)] = {"size": 1, "sha256": "the writer's"}
        (staging / "changed").write_bytes(b"23")
    files = json.loads((tmp_path / "model" / MANIFEST).read_text())["files"]
    assert files["kept"] == {"size": 1, "sha256": "the writer's"}
    assert files["changed"] == describe(tmp_path / "model" / "changed")


async def test_the_event_loop_goes_on_while_a_folder_is_committed():
    reached, released = threading.Event(), threading.Event()

    @contextmanager
    def slow() -> Iterator[str]:
        yield "value"
        reached.set()
        assert released.wait(20), "the loop did not run"

    async def release() -> None:
        while not reached.is_set():
            await asyncio.sleep(0.01)
        released.set()

    task = asyncio.create_task(release())
    async with off_loop(slow()) as value:
        assert value == "value"
    await task


async def test_an_error_within_leaves_nothing_off_the_loop_either(tmp_path):
    async def write_and_raise() -> None:
        async with off_loop(committing(tmp_path / "model", {})) as staging:
            (staging / "weights.bin").write_bytes(b"half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        await write_and_raise()
    assert os.listdir(tmp_path) == []
