"""Searches with a cluster that trains nothing: members' figures follow from their values."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.sweeps.config import Direction, Pruning, Sampler, SweepConfig, check_search_keys
from rlhf.sweeps.grid import member_name
from rlhf.sweeps.record import Member, State, Sweep, open_sweep, read_sweep
from rlhf.sweeps.report import conclude_sweep
from rlhf.sweeps.scheduler import Scheduler
from rlhf.sweeps.search import Search
from rlhf.sweeps.space import Choices, Numbers, Space
from rlhf.types import InputError, RunError

SPACE: Space = {"lr": Numbers(low=1e-6, high=1e-2, log=True), "clip": Numbers(low=0.1, high=0.5)}
NUM_STEPS = 20


def reward(swept: Mapping[str, str]) -> float:
    """1 at the best place of the space, less elsewhere."""
    return 1 - (math.log10(float(swept["lr"])) + 4) ** 2 / 8 - (float(swept["clip"]) - 0.2) ** 2 * 4


def make(swept: Mapping[str, str]) -> Member:
    words = tuple(f"{key}={value}" for key, value in swept.items())
    return Member(name=member_name(swept), swept=swept, overrides=words)


def search_of(space: Space = SPACE, make: Callable[[Mapping[str, str]], Member] = make, **keys: Any) -> Search:
    return Search(config=SweepConfig(search=True, **keys), space=space, make=make)


@dataclass
class Cluster:
    """Jobs that take `steps_per_look` steps between two looks, and end after `NUM_STEPS`."""

    root: Path
    steps_per_look: int = 5
    metric: str = "reward"
    taken: dict[str, int] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    lingering: int = 0
    """Looks after which a stopped job has ended."""
    submitted: list[tuple[str, ...]] = field(default_factory=list)
    most_at_once: int = 0

    def submit(self, submission_id: str, overrides: Sequence[str]) -> None:
        self.submitted.append(tuple(overrides))
        self.taken[submission_id] = 0
        folder = self.folder(submission_id)
        folder.mkdir(exist_ok=True)
        (folder / "words.json").write_text(json.dumps(list(overrides)))
        self.most_at_once = max(self.most_at_once, sum(self.runs(job) for job in self.taken))

    def folder(self, submission_id: str) -> Path:
        return self.root / submission_id.rpartition("-")[0]

    def runs(self, submission_id: str) -> bool:
        if submission_id in self.stopped:
            return self.lingering > 0
        return self.taken[submission_id] < NUM_STEPS

    def ending(self, submission_id: str) -> str | None:
        if submission_id not in self.taken:
            return "the cluster does not know it"
        if submission_id in self.stopped:
            self.lingering -= 1
            return None if self.lingering >= 0 else "it was stopped"
        folder = self.folder(submission_id)
        swept = dict(word.split("=") for word in json.loads((folder / "words.json").read_text()))
        first = self.taken[submission_id]
        self.taken[submission_id] = min(first + self.steps_per_look, NUM_STEPS)
        with (folder / "metrics.jsonl").open("a") as file:
            for step in range(first, self.taken[submission_id]):
                figure = reward(swept) * (step + 1) / NUM_STEPS
                file.write(json.dumps({"step": step, self.metric: figure, "seconds/step": 1.0}) + "\n")
        return None if self.runs(submission_id) else "it succeeded"

    def stop(self, submission_id: str) -> None:
        self.stopped.append(submission_id)


def scheduler(sweep: Sweep, cluster: Cluster, search: Search, max_concurrent: int = 1) -> Scheduler:
    def is_finished(member: Member) -> bool:
        file = sweep.folder(member) / "metrics.jsonl"
        return file.is_file() and len(file.read_text().splitlines()) == NUM_STEPS

    return Scheduler(sweep=sweep, jobs=cluster, max_concurrent=max_concurrent, is_finished=is_finished,
                     tell=lambda member: None, source=search)  # fmt: skip


def run(
    root: Path, cluster: Cluster, search: Search, max_concurrent: int = 1, looks: int | None = None
) -> list[Member]:
    """Run or continue a search, for as many looks, and return the members in its record."""
    before = read_sweep(root).members if (root / "sweep.json").is_file() else []
    with open_sweep(str(root), search.restore(before)) as sweep:
        driver = scheduler(sweep, cluster, search, max_concurrent)
        driver.adopt()
        while driver.advance() and looks != 0:
            looks = None if looks is None else looks - 1
        return sweep.members


def names(members: Sequence[Member]) -> list[str]:
    return [member.name for member in members]


@pytest.mark.parametrize("max_concurrent", [1, 3])
def test_a_search_has_the_members_asked_for_each_once(tmp_path, max_concurrent):
    cluster = Cluster(tmp_path)
    members = run(tmp_path, cluster, search_of(num_trials=7), max_concurrent)
    assert {member.state for member in members} == {State.done}
    assert len(set(names(members))) == len(cluster.submitted) == 7
    assert cluster.most_at_once == max_concurrent


@pytest.mark.parametrize("sampler", list(Sampler))
def test_the_same_seed_draws_the_same_members(tmp_path, sampler):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        members = run(tmp_path / name, Cluster(tmp_path / name), search_of(num_trials=13, sampler=sampler, seed=seed))
        found.append(names(members))
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_tpe_learns_where_random_does_not(tmp_path):
    means = {}
    for sampler in Sampler:
        late = []
        for seed in range(3):
            root = tmp_path / f"{sampler}{seed}"
            root.mkdir()
            members = run(root, Cluster(root, NUM_STEPS), search_of(num_trials=30, sampler=sampler, seed=seed))
            late += [reward(member.swept) for member in members[20:]]
        means[sampler] = sum(late) / len(late)
    assert 1 - means[Sampler.tpe] < 0.7 * (1 - means[Sampler.random])


@pytest.mark.parametrize("looks", [0, 1, 5, 16, 30])
def test_a_killed_search_continues_with_the_same_members(tmp_path, looks):
    """The process dies after some looks; jobs go on."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    keys = {"num_trials": 14, "pruning": Pruning.median, "pruning_start": 8}
    whole = run(tmp_path / "whole", Cluster(tmp_path / "whole"), search_of(**keys))
    cluster = Cluster(tmp_path / "killed")
    run(tmp_path / "killed", cluster, search_of(**keys), looks=looks)
    killed = run(tmp_path / "killed", cluster, search_of(**keys))
    assert [(member.name, member.state) for member in killed] == [(member.name, member.state) for member in whole]
    assert State.pruned in {member.state for member in whole}
    assert len(cluster.submitted) == 14


def test_more_trials_continue_a_search(tmp_path):
    few = run(tmp_path, Cluster(tmp_path), search_of(num_trials=3))
    more = run(tmp_path, Cluster(tmp_path), search_of(num_trials=5))
    assert names(more)[:3] == names(few)
    assert len(more) == 5


def test_a_smaller_space_leaves_members_outside_it_out_of_the_evidence(tmp_path):
    run(tmp_path, Cluster(tmp_path), search_of(num_trials=12))
    small = {**SPACE, "clip": Numbers(low=0.1, high=0.2)}
    members = run(tmp_path, Cluster(tmp_path), search_of(small, num_trials=16))
    assert all(float(member.swept["clip"]) <= 0.2 for member in members[12:])


def test_less_is_better_where_that_is_said(tmp_path):
    members = run(tmp_path, Cluster(tmp_path, metric="train/kl"),
                  search_of(num_trials=12, objective="kl", direction=Direction.minimize))  # fmt: skip
    with open_sweep(str(tmp_path), members) as sweep:
        worst = min(members, key=lambda member: reward(member.swept))
        search = search_of(num_trials=12, objective="kl", direction=Direction.minimize)
        assert search.describe_best(sweep).startswith(
            f"Best: lr={worst.swept['lr']} clip={worst.swept['clip']}, with kl "
        )


@pytest.mark.parametrize("rule", list(Pruning))
def test_hopeless_members_are_stopped_and_saved_as_pruned(tmp_path, rule, capsys):
    cluster, search = Cluster(tmp_path), search_of(num_trials=15, pruning=rule, pruning_start=5)
    members = run(tmp_path, cluster, search)
    pruned = [member for member in members if member.state is State.pruned]
    done = [member for member in members if member.state is State.done]
    assert pruned
    assert len(pruned) + len(done) == 15
    assert [member.submission_id for member in pruned] == cluster.stopped
    assert max(members, key=lambda member: reward(member.swept)) in done
    with open_sweep(str(tmp_path), members) as sweep:
        for member in members:
            sweep.record(member)
        conclude_sweep(sweep, search)
    best = max(done, key=lambda member: reward(member.swept))
    text = (tmp_path / "sweep.md").read_text()
    assert f"Best: lr={best.swept['lr']} clip={best.swept['clip']}, with reward " in text
    assert text.count("| pruned |") == len(pruned)


def test_the_place_of_a_pruned_member_is_free_once_its_job_has_ended(tmp_path):
    cluster = Cluster(tmp_path)
    search = search_of(num_trials=9, pruning=Pruning.median, pruning_start=5)
    with open_sweep(str(tmp_path), []) as sweep:
        driver = scheduler(sweep, cluster, search)
        while not driver.sweep.having(State.pruned):
            cluster.lingering = 3
            assert driver.advance()
        count = len(cluster.submitted)
        while driver.stopping:
            assert len(cluster.submitted) == count
            assert driver.advance()
        assert len(cluster.submitted) == count + 1


def test_a_pruned_job_that_outlived_its_driver_is_stopped_again(tmp_path):
    search = search_of(num_trials=1)
    (tmp_path / "job").mkdir()
    cluster = Cluster(tmp_path, taken={"job-1": 0})
    (member,) = run(tmp_path, Cluster(tmp_path), search)
    with open_sweep(str(tmp_path), [member]) as sweep:
        sweep.record(member, state=State.pruned, submission_id="job-1")
        (tmp_path / "job" / "words.json").write_text(json.dumps(list(member.overrides)))
        driver = scheduler(sweep, cluster, search)
        driver.adopt()
        assert cluster.stopped == ["job-1"]
        assert [left.state for left in sweep.members] == [State.pruned]


def test_a_member_that_is_wrong_is_a_failed_trial_and_the_search_goes_on(tmp_path):
    def make_some(swept: Mapping[str, str]) -> Member:
        if float(swept["clip"]) <= 0.3:
            return make(swept)
        return replace(make(swept), state=State.failed, error="clip: too large")

    cluster = Cluster(tmp_path)
    members = run(tmp_path, cluster, search_of(make=make_some, num_trials=10))
    failed = [member for member in members if member.state is State.failed]
    assert 0 < len(failed) < 10
    assert len(cluster.submitted) == 10 - len(failed)
    assert names(run(tmp_path, cluster, search_of(make=make_some, num_trials=10))) == names(members)


def test_a_finite_space_is_searched_without_repetition(tmp_path):
    space: Space = {"lr": Choices(values=("1e-4", "1e-5")), "clip": Numbers(low=0.1, high=0.3, step=0.1)}
    members = run(tmp_path, Cluster(tmp_path), search_of(space, num_trials=6))
    assert len(set(names(members))) == 6
    with pytest.raises(InputError, match="num_trials=7: the space has 6 members; give fewer trials, or drop"):
        search_of(space, num_trials=7)


def test_an_objective_that_is_never_measured_ends_the_search(tmp_path):
    with pytest.raises(RunError, match=r"sweep.objective=validation/x: member .* never measured it; .* reward,"):
        run(tmp_path, Cluster(tmp_path), search_of(num_trials=3, objective="validation/x"))
    members = run(tmp_path, Cluster(tmp_path), search_of(num_trials=3))
    assert len(members) == 3


def test_a_folder_that_varies_other_keys_is_refused(tmp_path):
    run(tmp_path, Cluster(tmp_path), search_of(num_trials=1))
    with pytest.raises(InputError, match="the sweep there varies clip, lr, this one lr; name another folder"):
        run(tmp_path, Cluster(tmp_path), search_of({"lr": SPACE["lr"]}, num_trials=1))


def test_both_ends_of_every_key_are_tried_beside_the_middle_of_the_others():
    space: Space = {"a": Numbers(low=1, high=4, step=1), "b": Choices(values=("x", "y"))}
    assert search_of(space, num_trials=2).corners() == [
        {"a": "1", "b": "x"}, {"a": "4", "b": "x"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"num_trials": 0}, "sweep.num_trials=0: give at least 1"),
        ({"pruning_start": 0}, "sweep.pruning_start=0: give at least 1"),
        ({"pruning": Pruning.median, "objective": "success_after"}, "success_after is measured at the end alone"),
    ],
)
def test_a_search_that_cannot_be_is_refused(keys, sentence):
    with pytest.raises(InputError, match=sentence):
        SweepConfig(search=True, **keys)


def test_keys_of_a_search_need_one():
    check_search_keys(SweepConfig(search=True), ["sweep.seed=1"])
    check_search_keys(SweepConfig(), ["sweep.max_concurrent=2"])
    with pytest.raises(InputError, match=r"sweep.seed: a grid has no use for it; add sweep.search=true, or drop it"):
        check_search_keys(SweepConfig(), ["sweep.seed=1"])
