"""Metrics by prompt set."""

from collections.abc import Sequence
from dataclasses import replace

from rlhf.train.metrics import set_metrics
from rlhf.types import Failure, Group, Score
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
        "math/without_spread": 2 / 3,
        "math/prompts": 3.0,
        "math/reward": 0.75,
        "math/completion_tokens": (2 * 3 + 3 * 6) / 5,
        "math/truncated": 0.6,
    }


def test_one_set_has_none():
    assert set_metrics([group("", [1, 0])], []) == {}
    assert not any("without_spread" in name for name in make_report(0).figures)
