"""Two simulated nodes: the preflight on each, workers where they were planned, and one node removed."""

import json
import os
import re
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("two_nodes.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the driver found, by check. It has a process of its own: this one may belong to another cluster."""
    folder = tmp_path_factory.mktemp("two_nodes")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    (folder / "run").mkdir()
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ray.two_nodes", folder / "run"], cwd=SCRIPT.parents[2], env=environment,
        capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["check"]: row for row in rows}


def test_nodes_that_agree_pass_and_nothing_is_left_behind(found):
    assert found["preflight"]["sentence"] is None
    assert found["preflight"]["left"] == []


def test_accelerators_are_real_where_any_node_names_their_kind(found):
    told = found["real accelerators"]
    assert (told["before"], told["after"]) == (False, True)
    assert told["nodes"] == [False, False, True]
    assert told["num_ranks"] == 7


def test_a_wide_engine_gets_a_whole_node_beside_small_groups(found):
    where = found["wide engine"]["where"]
    (engine,) = where["sampler"]
    assert set(where["policy"] + where["reference"]) == set(found["spread"]["nodes"]) - {engine}


def test_a_pair_that_cannot_talk_is_named(found):
    names, sentence = found["silent node"]["names"], found["silent node"]["sentence"]
    assert sentence.startswith(f"preflight: nodes {names[0]} and {names[1]} cannot exchange tensors")
    assert "no answer within preflight.timeout_s=5" in sentence


def test_a_node_with_another_installation_is_named(found):
    sentence = found["other installation"]["sentence"]
    assert sentence.startswith("preflight: transformers is ")
    assert f" and 4.0.0 on node {found['other installation']['name']}: install the same on all" in sentence


def test_workers_are_where_they_were_planned(found):
    spread = found["spread"]
    assert spread["where"] == spread["planned"]
    used = Counter(spread["where"]["policy"])
    (engine,) = spread["where"]["sampler"]
    assert sorted(used.values()) == [1, 3], "four learners fill one node of three and begin another"
    assert used[engine] == 1, "an engine of two accelerators is on one node, the one that has them"
    assert set(used) == set(spread["nodes"])


def test_workers_of_a_removed_node_are_named(found):
    told = found["removed node"]
    # Ray tells a node's loss or, if it comes first, a broken connection to the worker.
    named = rf"policy worker [0-3] on node {re.escape(told['name'])} (died|cannot be reached): \w+Error: .+"
    assert re.fullmatch(named, told["sentence"])
    assert told["seconds"] < 300
