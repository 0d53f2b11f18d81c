"""The folder of a run: who may use it, what may change, and which checkpoint it goes on from."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import OnlineConfig, as_plain
from rlhf.train.artifact import committing
from rlhf.train.run_folder import RunFolder, is_finished, look_at_run_folder, open_run_folder
from rlhf.types import InputError

CONFIG = {
    "model": "base",
    "seed": 0,
    "train": {"num_steps": 5, "num_minibatches": 1},
    "optimizer": {"betas": [0.9, 0.99]},
}
HOLD = (
    "import sys\n"
    "from rlhf.train.run_folder import open_run_folder\n"
    "with open_run_folder(sys.argv[1], {}):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.readline()\n"
)


def changed(config: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """The configuration with one dotted key set."""
    head, _, tail = key.partition(".")
    return {**config, head: changed(config.get(head, {}), tail, value) if tail else value}


def visit(path: Path, config: dict[str, Any] = CONFIG) -> RunFolder:
    with open_run_folder(str(path), config) as folder:
        return folder


def add_checkpoint(folder: RunFolder, step: int) -> Path:
    with committing(folder.checkpoint(step), {"step": step}) as staging:
        (staging / "weights.bin").write_bytes(bytes([step]))
    return folder.checkpoint(step)


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_starts_a_run(tmp_path, exists):
    path = tmp_path / "deep" / "run"
    if exists:
        path.mkdir(parents=True)
    folder = visit(path)
    assert folder.root == path.resolve()
    assert folder.newest_checkpoint() is None
    assert not is_finished(folder)
    visit(path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    sentence = f"output={tmp_path}: it holds files of something else; name a new or empty folder"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        visit(tmp_path)
    with pytest.raises(InputError, match=r"thesis\.txt: it is a file; set output to a folder$"):
        visit(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_before_it_wrote_its_configuration_can_start_again(tmp_path):
    (tmp_path / ".lock").write_text("123")
    visit(tmp_path)


@pytest.mark.parametrize("content", ["", '{"model": "ba'])
def test_a_torn_configuration_is_an_input_error(tmp_path, content):
    visit(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        visit(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("seed", 1, "0"),
        ("train.num_minibatches", 2, "1"),
        ("optimizer.betas", [0.9, 0.95], "[0.9, 0.99]"),
        ("train.brand_new", 3, "None"),
        ("checkpoint.keep_best", "validation/reward", "None"),
    ],
)
def test_another_configuration_is_refused_naming_the_key(tmp_path, key, value, before):
    visit(tmp_path)
    sentence = (
        f"output={tmp_path}: it holds a run of another configuration ({key} was {before} and is {value}); name another "
        "folder, or run with the same values to continue it"
    )
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        visit(tmp_path, changed(CONFIG, key, value))
    visit(tmp_path)  # a refused attempt changes nothing


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.num_steps", 50),
        ("checkpoint.every", 3),
        ("checkpoint.keep", 9),
        ("checkpoint.final", "best"),
        ("validation.patience", 4),
        ("log.tensorboard", False),
        ("dry_run", True),
        ("output", "elsewhere"),
        ("stop_at_reward", 0.5),
        ("stop_window", 7),
    ],
)
def test_a_continuation_may_change(tmp_path, key, value):
    """Keys of the real configuration, so that one that was renamed or moved shows."""
    config = as_plain(OnlineConfig(model="base", output="here"))
    head, _, tail = key.partition(".")
    assert key in config or tail in config[head]
    visit(tmp_path, config)
    visit(tmp_path, changed(config, key, value))
    visit(tmp_path, changed(config, key, value))


def test_a_second_process_is_refused_while_the_first_lives(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n"
        sentence = f"output={tmp_path}: process {first.pid} is running there; stop it or name another folder"
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
            visit(tmp_path, {})
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    visit(tmp_path, {})  # the lock dies with its process


def test_what_an_interrupted_run_left_is_removed(tmp_path):
    folder = visit(tmp_path)
    kept = add_checkpoint(folder, 3)
    for leftover in (tmp_path / ".tmp-model", kept.with_name(".tmp-step-000004"), kept.with_name(".old-step-000001")):
        (leftover / "trainer").mkdir(parents=True)
        (leftover / "trainer" / "shard.pt").write_bytes(b"half")
    visit(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000003"]
    assert not (tmp_path / ".tmp-model").exists()


def test_the_newest_checkpoint_is_chosen(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (2, 10, 9):
        add_checkpoint(folder, step)
    assert folder.newest_checkpoint().manifest["step"] == 10
    assert [path.name for path in folder.checkpoints()] == ["step-000010", "step-000009", "step-000002"]


@pytest.mark.parametrize("harm", ["file", "manifest", "no manifest"])
def test_a_corrupt_newest_checkpoint_is_passed_over(tmp_path, harm):
    folder = RunFolder(tmp_path)
    add_checkpoint(folder, 2)
    newest = add_checkpoint(folder, 4)
    if harm == "file":
        (newest / "weights.bin").write_bytes(b"x")
    elif harm == "manifest":
        (newest / "manifest.json").write_text('{"step": 4, "fil')
    else:
        (newest / "manifest.json").unlink()
    assert folder.newest_checkpoint().manifest["step"] == 2


def test_a_run_that_went_back_commits_the_corrupt_step_again(tmp_path):
    folder = RunFolder(tmp_path)
    add_checkpoint(folder, 2)
    (add_checkpoint(folder, 4) / "weights.bin").write_bytes(b"x")
    assert folder.newest_checkpoint().manifest["step"] == 2
    add_checkpoint(folder, 4)
    assert folder.newest_checkpoint().manifest["step"] == 4


def test_where_no_checkpoint_verifies_the_newest_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (2, 4):
        (add_checkpoint(folder, step) / "weights.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"step-000004/weights\.bin: it is not what was written"):
        folder.newest_checkpoint()


def test_keep_newest(tmp_path):
    folder = RunFolder(tmp_path)
    for step in range(1, 6):
        add_checkpoint(folder, step)
    folder.keep_newest(2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000004", "step-000005"]
    folder.keep_newest(2)
    assert folder.newest_checkpoint().manifest["step"] == 5


def test_a_run_is_finished_once_its_model_is_committed(tmp_path):
    folder = visit(tmp_path)
    with committing(folder.model, {}) as staging:
        (staging / "weights.bin").write_bytes(b"1")
        assert not is_finished(folder)
    assert is_finished(folder)


def test_a_folder_of_a_jobs_upload_is_refused(tmp_path, monkeypatch):
    """A job runs where Ray unpacked its working directory, and a relative folder would go with it."""
    package = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    package.mkdir(parents=True)
    monkeypatch.chdir(package)
    with pytest.raises(InputError, match=r"output=outputs/run: in a Ray job .* give an absolute path"):
        open_run_folder("outputs/run", {}).__enter__()
    assert list(package.iterdir()) == []
    with open_run_folder(str(tmp_path / "run"), {}) as folder:
        assert folder.root == tmp_path / "run"


def test_a_look_at_a_folder_makes_nothing_and_says_what_a_start_would_say(tmp_path):
    new = tmp_path / "deep" / "run"
    assert look_at_run_folder(str(new), CONFIG).root == new
    assert not list(tmp_path.iterdir())
    with open_run_folder(str(new), CONFIG), pytest.raises(InputError, match=r"process \d+ is running there; stop it"):
        look_at_run_folder(str(new), CONFIG)
    (new / ".tmp-model").mkdir()
    before = sorted(new.iterdir())
    look_at_run_folder(str(new), changed(CONFIG, "train.num_steps", 9))
    with pytest.raises(InputError, match=r"a run of another configuration \(seed was 0 and is 1\)"):
        look_at_run_folder(str(new), changed(CONFIG, "seed", 1))
    assert sorted(new.iterdir()) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(InputError, match="it holds files of something else"):
        look_at_run_folder(str(tmp_path / "mine"), CONFIG)
    visit(new)


@pytest.mark.parametrize(
    ("checkpoints", "kept"),
    [((), [9]), ((4,), [5, 9, 3]), ((5,), [9, 5]), ((2, 9), [9]), ((20,), [9]), ((1,), [3, 5, 9, 1])],
)
def test_best_models_are_kept_as_long_as_a_continued_run_may_need_them(tmp_path, checkpoints, kept):
    folder = RunFolder(tmp_path)
    for step in checkpoints:
        add_checkpoint(folder, step)
    for step in (1, 3, 5, 9):
        folder.best(step).mkdir(parents=True)
    folder.drop_old_bests()
    assert folder.bests() == [folder.best(step) for step in sorted(kept, reverse=True)]
    folder.drop_bests_after(4)
    assert folder.bests() == [folder.best(step) for step in sorted(kept, reverse=True) if step <= 4]
