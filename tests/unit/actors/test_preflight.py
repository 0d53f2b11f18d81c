"""What is asked of nodes: every pair once, and a sentence with node, value and remedy for everything that is wrong."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from rlhf.actors.accelerators import AcceleratorReport
from rlhf.actors.preflight import NONCE, NodeReport, PreflightConfig, examine, judge, pairings, rounds, versions
from rlhf.types import InputError

GOOD = NodeReport(
    node="10.0.0.1 (aaaa)",
    versions={"python": "3.11.2", "torch": "2.13.0"},
    shm_bytes=8 << 30,
    free_bytes={"/shared/run": 1 << 40, "/tmp/ray/session": 1 << 40},
    shares_output=True,
)
OTHER = replace(GOOD, node="10.0.0.2 (bbbb)")


def test_nodes_that_agree_have_no_problems():
    assert judge([GOOD, OTHER], PreflightConfig()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"versions": {"python": "3.11.2", "torch": "2.12.1"}},
            "torch is 2.13.0 on node 10.0.0.1 (aaaa) and 2.12.1 on node 10.0.0.2 (bbbb): install the same on all",
        ),
        ({"shm_bytes": 1 << 20}, "node 10.0.0.2 (bbbb) has 1.05 MB of /dev/shm, less than preflight.min_shm_bytes="),
        (
            {"free_bytes": {"/shared/run": 1 << 40, "/tmp/ray/session": 1000}},
            "node 10.0.0.2 (bbbb) has 0.001 MB free at /tmp/ray/session, less than preflight.min_disk_bytes=",
        ),
        (
            {"unseen": ["/cache/snapshots/abc"]},
            "node 10.0.0.2 (bbbb) does not see the model /cache/snapshots/abc: put it on a file system that every node",
        ),
        ({"shares_output": False}, "node 10.0.0.2 (bbbb) does not see the output folder that the driver sees"),
    ],
)
def test_what_is_wrong_is_said_with_node_and_value(change, sentence):
    (problem,) = judge([GOOD, replace(OTHER, **change)], PreflightConfig())
    assert problem.startswith(sentence)


def test_all_problems_are_told_together():
    bad = replace(OTHER, shm_bytes=0, shares_output=False, versions={"python": "3.12.1", "torch": "absent"})
    assert len(judge([GOOD, bad], PreflightConfig())) == 4


def test_limits_are_those_of_the_configuration():
    assert judge([GOOD], PreflightConfig(min_shm_bytes=8 << 30, min_disk_bytes=1 << 40)) == []
    assert len(judge([GOOD], PreflightConfig(min_shm_bytes=1 + (8 << 30), min_disk_bytes=1 + (1 << 40)))) == 3
    with pytest.raises(InputError, match=r"preflight\.timeout_s=0"):
        PreflightConfig(timeout_s=0)


@pytest.mark.parametrize("count", range(1, 10))
def test_every_pair_meets_once_and_nobody_twice_in_a_round(count):
    played = list(rounds(count))
    pairs = [pair for pairs in played for pair in pairs]
    assert sorted(pairs) == list(itertools.combinations(range(count), 2))
    assert all(len(set(itertools.chain(*pairs))) == 2 * len(pairs) for pairs in played)
    assert len(played) <= count


@pytest.mark.parametrize("count", [17, 18, 64])
def test_many_nodes_meet_their_neighbours_on_a_ring(count):
    played = list(pairings(count))
    pairs = sorted(pair for pairs in played for pair in pairs)
    assert pairs == sorted([(0, count - 1), *((i, i + 1) for i in range(count - 1))])
    assert all(len(set(itertools.chain(*pairs))) == 2 * len(pairs) for pairs in played)
    assert len(played) == 2 + count % 2
    assert list(pairings(16)) == list(rounds(16)), "fewer meet each other"


def test_nodes_with_gpus_need_more_shared_memory():
    gpu = AcceleratorReport(
        devices=(), failure=None, driver_cuda=(13, 0), torch_cuda=(13, 0), engine_for_cpu=False
    )  # fmt: skip
    small = replace(GOOD, shm_bytes=64 << 20)
    assert judge([small], PreflightConfig()) == []
    (problem,) = judge([replace(small, accelerators=gpu)], PreflightConfig())
    assert "less than preflight.min_shm_bytes=1073741824: enlarge it" in problem
    assert judge([replace(small, accelerators=gpu)], PreflightConfig(min_shm_bytes=1)) == []


def test_a_node_examines_itself(tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    (meeting / NONCE).write_text("7")
    report = examine("a", meeting, "7", tmp_path / "ray")
    assert report.shares_output
    assert list(report.free_bytes) == [str(tmp_path)], "a folder that is not there has no free space to tell"
    assert report.shm_bytes > 0
    assert not examine("a", meeting, "8", tmp_path).shares_output, "another folder of the same name"
    assert not examine("a", tmp_path / "nowhere", "7", tmp_path).shares_output
    read = [str(tmp_path), str(tmp_path / "nowhere")]
    assert examine("a", meeting, "7", tmp_path, model_folders=read).unseen == read[1:]


def test_versions_are_of_what_is_installed():
    import torch
    import transformers

    found = versions()
    assert (found["torch"], found["transformers"]) == (torch.__version__, transformers.__version__)
    assert "absent" not in found.values()
