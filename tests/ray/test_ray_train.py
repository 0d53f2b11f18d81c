"""What ends ranks of Ray Train at once, and what is tried again."""

import re
import time
from pathlib import Path

import pytest
import ray.train

from rlhf.actors.ray_train import run_on_ranks
from rlhf.runtimes.configs import BackendConfig
from rlhf.train.run_folder import open_run_folder
from rlhf.types import RunError
from tests.conftest import SMALL_BYTES


def fill_the_disk(root: str) -> None:
    """The second rank fills the disk while the first waits for it, in a folder that they write together."""
    if ray.train.get_context().get_world_rank() == 0:
        with (Path(root) / "starts").open("a") as file:
            file.write("x")
        (Path(root) / ".tmp-model").mkdir()
        time.sleep(600)
    while not (Path(root) / ".tmp-model").exists():
        time.sleep(0.1)
    (Path(root) / ".tmp-model" / "weights").write_bytes(bytes(2 * SMALL_BYTES))


def fail_twice(root: str) -> None:
    starts = Path(root) / "starts"
    with starts.open("a") as file:
        file.write("x")
    if starts.stat().st_size < 3:
        raise ConnectionError("a peer went away")


def test_a_full_disk_ends_the_run_at_once(cluster, small_disk):
    full = r"^\S+run: the disk is full; .* free some space, and the same command continues$"
    with pytest.raises(RunError, match=full), open_run_folder(str(small_disk / "run"), {}) as folder:
        run_on_ranks(
            fill_the_disk, str(folder.root), num_ranks=2, root=folder.root, max_restarts=3, backend=BackendConfig()
        )
    assert (folder.root / "starts").read_text() == "x"
    assert not (folder.root / ".tmp-model").exists()


def test_what_another_start_may_cure_is_tried_again(cluster, tmp_path):
    root = tmp_path / "run"
    root.mkdir()
    run_on_ranks(fail_twice, str(root), num_ranks=1, root=root, max_restarts=2, backend=BackendConfig())
    assert (root / "starts").read_text() == "xxx"
    (root / "starts").unlink()
    with pytest.raises(RunError, match=re.escape("learner rank 0 failed after 1 restarts (train.max_restarts)")):
        run_on_ranks(fail_twice, str(root), num_ranks=1, root=root, max_restarts=1, backend=BackendConfig())
