"""The algorithm of docs/extending.md is a short file, and RLOO."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.config import OnlineConfig, compose
from rlhf.types import Failure, Sampling, Score
from tests.architecture.test_extending import ROOT, files_of
from tests.unit.train.fakes import make_group, make_info, make_prompt

SAMPLING = Sampling(temperature=1.0, max_tokens=4)
FAILED = Failure(kind="reward_timeout", message="10 s")
REWARDS = [0.3, None, -1.2, 2.0, 0.0]
"""None: a failure, which is in no baseline."""


def rloo(folder: Path, *words: str) -> PolicyGradient:
    (folder / "rloo.py").write_text(files_of("docs/extending.md")["rloo.py"], encoding="utf-8")
    needed = ["model=m", "output=o", "data.path=p", f"algorithm={folder}/rloo.py:RLOOConfig"]
    return compose(ROOT / "conf", "online", [*needed, *words], OnlineConfig).algorithm.build(SAMPLING)


def test_it_has_at_most_40_lines():
    assert len(files_of("docs/extending.md")["rloo.py"].splitlines()) <= 40


@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_baseline_is_the_mean_of_the_others(tmp_path, limit):
    words = [] if limit is None else [f"algorithm.max_advantage={limit}"]
    survivors = [reward for reward in REWARDS if reward is not None]
    expected = []
    for i, reward in enumerate(survivors):
        others = [survivors[j] for j in range(len(survivors)) if j != i]
        advantage = reward - sum(others) / len(others)
        expected.append(advantage if limit is None else max(-limit, min(limit, advantage)))
    group = make_group(0, [make_info(FAILED if reward is None else Score(value=reward)) for reward in REWARDS])
    assert rloo(tmp_path, *words).group_advantages(group) == pytest.approx(expected, abs=1e-12)


def test_the_rest_is_that_of_every_method(tmp_path):
    algorithm = rloo(tmp_path, "algorithm.group_size=5", "algorithm.kl_coef=0.1", "algorithm.kl_target=0.01")
    assert algorithm.requests(make_prompt(0)) == [SAMPLING] * 5
    good = make_info(Score(value=1.0))
    assert not algorithm.admits(make_group(0, [good, make_info(FAILED)]))
    assert algorithm.admits(make_group(0, [good, good]))
    algorithm.adapt(1.0, 5000)
    assert algorithm.state() == {"kl_coef": pytest.approx(0.11)}  # clipped to +0.2, times 5000 / 10000 rollouts
    algorithm.restore({"kl_coef": 0.3})
    assert algorithm.loss.kl_coef == 0.3
    with pytest.raises(AssertionError, match="RLOO has no critic"):
        _ = algorithm.critic_loss
