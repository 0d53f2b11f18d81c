"""One table and one plot of what the members' folders hold."""

import json
from pathlib import Path

import pytest

from rlhf.sweeps.record import Member, State, Sweep, open_sweep, read_sweep
from rlhf.sweeps.report import LAST_STEPS, conclude_sweep, key_names
from rlhf.types import RunError


def member(name: str, clip: str, kl: str) -> Member:
    return Member(name=name, swept={"algorithm.clip_low": clip, "algorithm.kl_coef": kl}, overrides=(name,))


def write_run(folder: Path, rewards: list[float | None], after: float | None) -> None:
    folder.mkdir()
    rows = [
        {"step": step, "reward": reward, "train/kl": 0.01 * step, "seconds/step": 2.0}
        for step, reward in enumerate(rewards)
    ]
    rows += [{"step": step, "validation/success": 0.5} for step in (-1, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "rew')
    (folder / "success_before.json").write_text(json.dumps({"rate": 0.25, "samples": []}))
    if after is not None:
        (folder / "model").mkdir()
        (folder / "model" / "manifest.json").write_text(json.dumps({"metrics": {"success_after": after}}))


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A member that is done, one that stopped in its second step, and one that never began."""
    with open_sweep(
        str(tmp_path), [member("a", "0.1", "0.0"), member("b", "0.1", "0.1"), member("c", "2", "0.1")]
    ) as s:
        write_run(tmp_path / "a", [0.0, 0.1, 0.2, 0.3, None, 0.5, 0.6], after=0.75)
        write_run(tmp_path / "b", [0.0, 0.1], after=None)
        return s


def test_the_table_says_what_the_folders_hold(sweep, capsys):
    for name in sweep.members:
        sweep.record(name, state=State.done)
    conclude_sweep(sweep)
    lines = (sweep.root / "sweep.md").read_text().splitlines()
    assert lines[:5] == [
        "| clip_low | kl_coef | state | steps | reward | KL | success before | success after | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 0.1 | 0.0 | done | 7 | 0.4 | 0.04 | 0.25 | 0.75 | 14 |",
        "| 0.1 | 0.1 | done | 2 | 0.05 | 0.005 | 0.25 |  | 4 |",
        "| 2 | 0.1 | done | 0 |  |  |  |  | 0 |",
    ]
    assert LAST_STEPS == 5
    figures = read_sweep(sweep.root).members[0].figures
    assert figures == pytest.approx(
        {"steps": 7, "reward": 0.4, "kl": 0.04, "success_before": 0.25, "success_after": 0.75, "seconds": 14}
    )
    assert (sweep.root / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "Reward and KL: means of the last 5 steps" in capsys.readouterr().out


def test_a_failed_member_is_in_the_report_and_ends_it_with_an_error(sweep):
    done, failed, late = sweep.members
    sweep.record(done, state=State.done)
    sweep.record(failed, state=State.failed, error="the policy has diverged")
    sweep.record(late, state=State.failed, error="never began")
    with pytest.raises(RunError, match="2 of 3 members failed, the first with: the policy has diverged; the same"):
        conclude_sweep(sweep)
    text = (sweep.root / "sweep.md").read_text()
    assert "| 0.1 | 0.1 | failed | 2 |" in text
    assert text.endswith("* b: the policy has diverged\n* c: never began\n")


def test_keys_are_shortened_where_they_stay_apart():
    assert key_names(["algorithm.clip_low", "seed"]) == ["clip_low", "seed"]
    assert key_names(["optimizer.lr", "critic.optimizer.lr"]) == ["optimizer.lr", "critic.optimizer.lr"]
