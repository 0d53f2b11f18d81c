"""Metrics by prompt set."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlhf.train.metrics import set_metrics
from rlhf.train.online import row_group
from rlhf.train.rollouts import info_of
from rlhf.types import Episode, Failure, Group, Rollout, Score
from tests.unit.train.fakes import make_group, make_info, make_report

FAILED = Failure(kind="reward_timeout", message="late")


def group(data_set: str, rewards: Sequence[float | None], stop: str = "stop", length: int = 3) -> Group:
    infos = [
        make_info(FAILED if reward is None else Score(value=reward), sample=i, stop=stop, num_loss_tokens=length)
        for i, reward in enumerate(rewards)
    ]
    made = make_group(0, infos)
    return replace(made, prompt=replace(made.prompt, data_set=data_set))


def test_each_set_has_its_figures():
    groups = [group("math", [1, 0]), group("math", [1, 1, None], "length", 6), group("code", [2.0, 2.0])]
    rejected = [group("math", [0, 0]), group("chat", [1, 1])]
    assert set_metrics(groups, rejected) == {
        "chat/without_spread": 1.0,
        "chat/prompts": 1.0,
        "code/without_spread": 1.0,
        "code/prompts": 1.0,
        "code/reward": 2.0,
        "code/completion_tokens": 3.0,
        "code/truncated": 0.0,
        "code/repetition": 0.0,
        "math/without_spread": 2 / 3,
        "math/prompts": 3.0,
        "math/reward": 0.75,
        "math/completion_tokens": (2 * 3 + 3 * 6) / 5,
        "math/truncated": 0.6,
        "math/repetition": 0.0,
    }


def test_one_set_has_none():
    assert set_metrics([group("", [1, 0])], []) == {}
    assert not any("without_spread" in name for name in make_report(0).figures)


def test_rows_know_the_set_of_their_prompt():
    made = row_group(group("math", [1, None, 0]), [0.5, -0.5])
    assert [(row.data_set, row.signal) for row in made.scalars] == [("math", 0.5), ("math", -0.5)]


def test_repetition_is_of_the_tokens_that_the_policy_chose():
    def info(answer: list[int]):
        token_ids = np.array([1, 2, 3, 4, *answer], dtype=np.int32)
        row = Rollout(prompt_id="p0", token_ids=token_ids, loss_mask=np.arange(len(token_ids)) >= 4,
                      logprobs=np.zeros(len(token_ids), np.float32), versions=np.zeros(len(token_ids), np.int32),
                      stop="stop", text="")  # fmt: skip
        return info_of(Episode(rows=[row], score=Score(value=1.0)), "p0/0/0", "rows.jsonl:1", True, 0)

    infos = [info([1, 2, 3, 4]), info([7, 7, 7, 7, 7])]
    assert [each.repetition for each in infos] == [0.0, 0.5]
    groups = [make_group(0, infos)]
    report = replace(make_report(0), groups=groups)
    assert report.figures["repetition"] == 0.25
