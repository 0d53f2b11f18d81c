"""Runs as Ray jobs on a head of this machine, as the README tells: edits reach them, a stop saves, they continue."""

import shutil
from pathlib import Path

from tests.chaos.conftest import ONLINE, REPOSITORY, metrics
from tests.chaos.gate import Gate
from tests.chaos.head import Head, wait_until
from tests.chaos.test_runs import figures
from tests.e2e.conftest import SMALL_RUN


def test_a_stopped_job_continues_to_the_same_numbers(
    head: Head, undisturbed: Path, models: dict[str, Path], sums: Path, tmp_path: Path
) -> None:
    """The recipe and a source file were edited in a copy of the clone; the installed clone is another one."""
    clone, output = tmp_path / "clone", tmp_path / "job"
    for name in ("rlhf", "conf", "launch"):
        shutil.copytree(REPOSITORY / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / ".rayignore", clone)
    (clone / "conf/experiment/edited.yaml").write_text("# @package _global_\ntrain: {num_steps: 5}\nseed: 3\n")
    with (clone / "rlhf/stages/console.py").open("a") as file:
        file.write('\n\nCONSOLE.print("this source was edited")\n')
    base = [entry for entry in SMALL_RUN if not entry.startswith(("output=", "train.num_steps="))]
    # The recipe has the number of steps and the seed.
    online = [entry for entry in ONLINE if entry.partition("=")[0] not in ("train.num_steps", "seed")]
    gate = Gate(tmp_path / "gate", output)
    recipe = [*base, f"model={models['tied']}", f"data.path={sums}", *online, *gate.overrides]

    overrides = ["experiment=edited", *recipe, f"output={output}"]
    head.submit("first", clone, 120, overrides)
    wait_until(gate.holds, lambda: head.logs("first"))
    assert head.ray("job", "stop", "first").returncode == 0
    head.wait_until("first", "was stopped")
    log = head.logs("first")
    assert "this source was edited" in log
    (saved,) = (output / "checkpoints").iterdir()
    assert f"stopped: {saved} is saved, the same command continues from it" in log
    assert saved.name == f"step-{len(metrics(output)):06d}"

    gate.open()
    head.submit("second", clone, 120, overrides)
    head.wait_until("second", "succeeded")
    assert f"continuing from {saved}" in head.logs("second")

    assert len(figures(output)) == 5
    assert figures(output) == figures(undisturbed)


def test_a_job_with_a_relative_output_is_refused(head: Head, models: dict[str, Path], sums: Path) -> None:
    overrides = [*SMALL_RUN, f"model={models['tied']}", f"data.path={sums}", "output=outputs/run"]
    head.submit("relative", REPOSITORY, 10, overrides)
    head.wait_until("relative", "failed")
    assert "error: output=outputs/run: in a Ray job that is a folder of the upload" in head.logs("relative")
