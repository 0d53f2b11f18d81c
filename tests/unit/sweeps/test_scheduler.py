"""Members go through a cluster: the bound holds, failures are survived, nothing is run twice."""

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlhf.sweeps.config import SweepConfig
from rlhf.sweeps.record import SWEEP, Member, State, Sweep, open_sweep, read_sweep
from rlhf.sweeps.scheduler import Scheduler
from rlhf.train.run_folder import CONFIG
from rlhf.types import InputError, RunError, Stopped

NAMES = ["a", "b", "c", "d", "e"]


def members(names: Sequence[str] = NAMES) -> list[Member]:
    return [Member(name=name, swept={"name": name}, overrides=(f"name={name}",)) for name in names]


@dataclass
class Cluster:
    """Jobs that take two looks each. Those that `fails` names end without a model."""

    fails: frozenset[str] = frozenset()
    looks: dict[str, int] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    most_at_once: int = 0
    refuses: bool = False

    def submit(self, submission_id: str, overrides: Sequence[str]) -> None:
        if self.refuses:
            raise RunError("no")
        assert submission_id not in self.looks
        self.looks[submission_id] = 2
        self.submitted.append(submission_id.partition("-")[0])
        if self.submitted[-1] in self.fails:
            self.failed.add(submission_id)
        assert overrides == (f"name={self.submitted[-1]}",)
        self.most_at_once = max(self.most_at_once, sum(left > 0 for left in self.looks.values()))

    def ending(self, submission_id: str) -> str | None:
        if submission_id not in self.looks:
            return "the cluster does not know it"
        name = submission_id.partition("-")[0]
        self.looks[submission_id] = max(self.looks[submission_id] - 1, 0)
        if self.looks[submission_id] > 0:
            return None
        if submission_id in self.failed:
            return f"{name} exploded"
        self.finished.add(name)
        return "it succeeded"

    def scheduler(self, sweep: Sweep, max_concurrent: int = 2) -> Scheduler:
        return Scheduler(
            sweep=sweep,
            jobs=self,
            max_concurrent=max_concurrent,
            is_finished=lambda member: member.name in self.finished,
            tell=lambda member: None,
        )


@contextmanager
def interruption(number: int):
    """A wait that is interrupted the `number`-th time."""
    waits = iter(range(number))

    def wait() -> None:
        if next(waits, None) is None:
            raise KeyboardInterrupt

    yield wait


def states(sweep: Sweep) -> dict[str, str]:
    return {member.name: member.state for member in sweep.members}


def no_wait() -> None: ...


@pytest.mark.parametrize("max_concurrent", [1, 2, 3, 10])
def test_every_member_runs_once_and_no_more_than_allowed_at_once(tmp_path, max_concurrent):
    cluster = Cluster()
    with open_sweep(str(tmp_path), members()) as sweep:
        cluster.scheduler(sweep, max_concurrent).run(no_wait)
        assert states(sweep) == dict.fromkeys(NAMES, "done")
    assert cluster.submitted == NAMES
    assert cluster.most_at_once == min(max_concurrent, len(NAMES))


def test_a_failing_member_stops_no_other_and_is_tried_again(tmp_path):
    cluster = Cluster(fails=frozenset("bd"))
    with open_sweep(str(tmp_path), members()) as sweep:
        cluster.scheduler(sweep).run(no_wait)
        assert states(sweep) == {"a": "done", "b": "failed", "c": "done", "d": "failed", "e": "done"}
        assert [member.error for member in sweep.having(State.failed)] == ["b exploded", "d exploded"]
    cluster.fails = frozenset("d")
    with open_sweep(str(tmp_path), members()) as sweep:
        cluster.scheduler(sweep).run(no_wait)
        assert [member.name for member in sweep.having(State.failed)] == ["d"]
        assert all(member.error is None for member in sweep.having(State.done))
    assert cluster.submitted == [*NAMES, "b", "d"]


def test_an_interruption_leaves_jobs_alone_and_the_same_sweep_finds_them(tmp_path):
    cluster = Cluster()
    with open_sweep(str(tmp_path), members()) as sweep, interruption(2) as wait:
        with pytest.raises(Stopped) as raised:
            cluster.scheduler(sweep).run(wait)
        running = [member.submission_id for member in sweep.having(State.running)]
    assert str(raised.value) == (
        "2 jobs keep running in the cluster, 1 members wait; the same command continues the sweep; "
        f"`ray job stop ID` ends one of {', '.join(running)}"
    )
    with open_sweep(str(tmp_path), members()) as sweep:
        cluster.scheduler(sweep).run(no_wait)
        assert states(sweep) == dict.fromkeys(NAMES, "done")
    assert cluster.submitted == NAMES
    assert cluster.most_at_once == 2


def test_a_submission_that_was_interrupted_is_not_said_to_run(tmp_path):
    class Interrupted(Cluster):
        def submit(self, submission_id: str, overrides: Sequence[str]) -> None:
            raise KeyboardInterrupt

    with (
        open_sweep(str(tmp_path), members(["a", "b"])) as sweep,
        pytest.raises(Stopped, match=r"^no job runs, 1 members wait; the same command continues the sweep$"),
    ):
        Interrupted().scheduler(sweep, max_concurrent=1).run(no_wait)
    cluster = Cluster()
    with open_sweep(str(tmp_path), members(["a", "b"])) as sweep:
        cluster.scheduler(sweep).run(no_wait)
    assert cluster.submitted == ["a", "b"]


def test_a_job_that_went_on_counts_against_the_bound(tmp_path):
    cluster = Cluster()
    with open_sweep(str(tmp_path), members()) as sweep:
        cluster.scheduler(sweep, max_concurrent=1).advance()
    cluster.looks = dict.fromkeys(cluster.looks, 10)
    with open_sweep(str(tmp_path), members()) as sweep:
        scheduler = cluster.scheduler(sweep, max_concurrent=1)
        scheduler.adopt()
        scheduler.advance()
        assert [member.name for member in sweep.having(State.running)] == ["a"]
    assert cluster.submitted == ["a"]


def test_a_member_that_never_reached_the_cluster_is_submitted_again(tmp_path):
    cluster = Cluster(refuses=True)
    with open_sweep(str(tmp_path), members(["a"])) as sweep, pytest.raises(RunError):
        cluster.scheduler(sweep).run(no_wait)
    assert read_sweep(tmp_path).members[0].submission_id is not None
    cluster.refuses = False
    with open_sweep(str(tmp_path), members(["a"])) as sweep:
        cluster.scheduler(sweep).run(no_wait)
        assert states(sweep) == {"a": "done"}


def test_a_finished_member_is_not_run_again_whoever_ran_it(tmp_path):
    cluster = Cluster(finished={"c"})
    with open_sweep(str(tmp_path), members()) as sweep:
        cluster.scheduler(sweep).run(no_wait)
        assert states(sweep) == dict.fromkeys(NAMES, "done")
    assert cluster.submitted == ["a", "b", "d", "e"]


def test_a_sweep_can_grow(tmp_path):
    cluster = Cluster()
    for names in (["a", "b"], NAMES):
        with open_sweep(str(tmp_path), members(names)) as sweep:
            cluster.scheduler(sweep).run(no_wait)
    assert cluster.submitted == NAMES


def test_the_record_on_disk_is_the_one_in_memory_at_every_change(tmp_path):
    seen: list[dict[str, str]] = []
    cluster = Cluster(fails=frozenset("b"))
    with open_sweep(str(tmp_path), members()) as sweep:
        scheduler = cluster.scheduler(sweep)

        def tell(member: Member) -> None:
            stored = read_sweep(tmp_path)
            assert stored.members == sweep.members
            assert member in stored.members
            seen.append(states(stored))

        scheduler.tell = tell
        scheduler.run(no_wait)
    assert len(seen) == 2 * len(NAMES)


def test_two_processes_do_not_drive_one_sweep(tmp_path):
    with (
        open_sweep(str(tmp_path), members()),
        pytest.raises(InputError, match="is running there"),
        open_sweep(str(tmp_path), members()),
    ):
        pass


def write_config(folder: Path) -> None:
    (folder / CONFIG).write_text("{}")


def write_torn(folder: Path) -> None:
    (folder / SWEEP).write_text('{"members": [{"na')


def write_foreign(folder: Path) -> None:
    (folder / SWEEP).write_text(json.dumps({"members": [{"name": "a"}]}))


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (write_config, "it holds a single run; name another folder for the sweep"),
        (write_torn, "it is not the record of a sweep"),
        (write_foreign, "it is not the record of a sweep"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path, write: Callable[[Path], None], sentence):
    write(tmp_path)
    with pytest.raises(InputError, match=sentence), open_sweep(str(tmp_path), members()):
        pass


@pytest.mark.parametrize("wrong", [{"max_concurrent": 0}, {"poll_s": 0.0}])
def test_a_sweep_that_could_not_go_on_is_refused(wrong):
    with pytest.raises(InputError, match="both must be positive"):
        SweepConfig(**wrong)
