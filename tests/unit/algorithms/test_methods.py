"""Methods beside GRPO and PPO: what they ask for, learn from and credit, against loops; and what they refuse."""

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from rlhf.algorithms.base import AlgorithmConfig, Normalisation, Objective
from rlhf.algorithms.cispo import CISPOConfig
from rlhf.algorithms.dapo import DAPOConfig
from rlhf.algorithms.dr_grpo import DrGRPOConfig
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.algorithms.gspo import GSPOConfig
from rlhf.algorithms.reinforce_pp import ReinforcePPConfig
from rlhf.algorithms.reinforce_pp_baseline import ReinforcePPBaselineConfig
from rlhf.algorithms.remax import ReMaxConfig
from rlhf.algorithms.rloo import RLOOConfig
from rlhf.ops.advantages import leave_one_out_advantages
from rlhf.ops.kl import KLEstimator
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.policy_loss import Ratio
from rlhf.train.batching import deal
from rlhf.train.learner import Learner
from rlhf.train.online import row_group
from rlhf.train.report import StepReport
from rlhf.train.stats import Stats
from rlhf.types import EpisodeInfo, Failure, Group, InputError, RunError, Sampling, Score
from tests.unit.train.fakes import PACKING, READOUT, FakeBackend, make_group, make_info, make_prompt, rollout_groups

SAMPLING = Sampling(temperature=0.7, max_tokens=10)
FAILED = Failure(kind="reward_timeout", message="10 s")


def group(*infos: EpisodeInfo) -> Group:
    return make_group(0, infos)


def scored(*rewards: float | None) -> Group:
    return group(*(make_info(FAILED if reward is None else Score(value=reward)) for reward in rewards))


def test_a_method_s_own_defaults_are_those_of_its_paper():
    """Keys whose default differs from the class it derives from."""

    def own(config: type[Any], base: type[Any]) -> dict[str, Any]:
        one, other = config(), base()
        names = {field.name for field in fields(base)}
        return {name: getattr(one, name) for name in names if getattr(one, name) != getattr(other, name)}

    assert own(DAPOConfig, GRPOConfig) == {"clip_high": 0.28, "dynamic_sampling": True, "mask_truncated": True}
    assert own(DrGRPOConfig, GRPOConfig) == {"scale_by_std": False, "normalisation": Normalisation.constant}
    assert own(CISPOConfig, GRPOConfig) == {"objective": Objective.cispo, "clip_low": 1.0, "clip_high": 4.0}
    assert own(GSPOConfig, GRPOConfig) == {
        "ratio": Ratio.sequence, "clip_low": 3e-4, "clip_high": 4e-4, "normalisation": Normalisation.sequences
    }  # fmt: skip
    assert own(RLOOConfig, AlgorithmConfig) == {"group_size": 4, "normalisation": Normalisation.sequence_sums}
    assert own(ReinforcePPConfig, AlgorithmConfig) == {"group_size": 1, "kl_estimator": KLEstimator.k1}
    assert own(ReinforcePPBaselineConfig, AlgorithmConfig) == {"kl_estimator": KLEstimator.k2}
    assert own(ReMaxConfig, AlgorithmConfig) == {"group_size": 1, "normalisation": Normalisation.sequence_sums}


# RLOO


@pytest.mark.parametrize("rewards", [[1.0, 0.0], [0.3, -1.2, 2.0, 0.0], [5.0] * 6])
def test_rloo_s_baseline_is_the_mean_of_the_others(rewards):
    expected = [
        reward - sum(rewards[j] for j in range(len(rewards)) if j != i) / (len(rewards) - 1)
        for i, reward in enumerate(rewards)
    ]
    assert leave_one_out_advantages(rewards) == pytest.approx(expected, abs=1e-12)
    with_failure = scored(*rewards, None)
    assert RLOOConfig().build(SAMPLING).group_advantages(with_failure) == pytest.approx(expected, abs=1e-12)


# ReMax


def remax_group(sampled: Sequence[float | None], greedy: float | None) -> Group:
    infos = [make_info(FAILED if reward is None else Score(value=reward)) for reward in [*sampled, greedy]]
    return group(*infos[:-1], replace(infos[-1], trained=False))


def test_remax_asks_for_a_greedy_episode_that_is_not_learnt_from():
    requests = ReMaxConfig(group_size=2).build(SAMPLING).requests(make_prompt(0))
    assert requests == [SAMPLING, SAMPLING, Sampling(temperature=0.0, max_tokens=10, trained=False)]


def test_remax_s_baseline_is_the_greedy_reward():
    algorithm = ReMaxConfig(group_size=3).build(SAMPLING)
    given = remax_group([1.0, None, 0.25], 0.5)
    assert algorithm.admits(given)
    advantages = algorithm.group_advantages(given)
    assert advantages == [0.5, -0.25, 0.0]
    rows = row_group(given, advantages, algorithm.trains).scalars
    assert [row.signal for row in rows] == [0.5, -0.25]


@pytest.mark.parametrize(("sampled", "greedy"), [([1.0], None), ([None], 1.0), ([None, None], None)])
def test_remax_needs_its_baseline_and_something_to_learn(sampled, greedy):
    assert not ReMaxConfig().build(SAMPLING).admits(remax_group(sampled, greedy))


def test_the_greedy_episode_is_not_in_the_mean_reward():
    report = StepReport(
        step=0, groups=[remax_group([1.0, 0.0], 0.25)], rejected=[], stats=Stats(), seconds={"step": 1.0}, use={}
    )
    assert (report.figures["reward"], report.figures["reward_baseline"]) == (0.5, 0.25)


# DAPO


def test_dapo_lowers_the_reward_of_long_answers():
    """The last fifth of 10 tokens costs up to 1: nothing at 8, half at 9, all at 10."""
    lengths = (3, 8, 9, 10)
    given = group(*(make_info(Score(value=1.0), sample=i, num_loss_tokens=n) for i, n in enumerate(lengths)))
    assert DAPOConfig().build(SAMPLING).rewards(given) == [1.0, 1.0, 0.5, 0.0]
    assert DAPOConfig(overlong_buffer=0.0).build(SAMPLING).rewards(given) == [1.0] * 4
    advantages = DAPOConfig().build(SAMPLING).group_advantages(given)
    rewards = np.array([1.0, 1.0, 0.5, 0.0])
    assert advantages == pytest.approx((rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6))


def test_dapo_compares_rewards_before_the_penalty():
    """Equal rewards of different lengths hold nothing to learn but brevity: the paper filters by accuracy."""
    equal = group(make_info(Score(value=1.0), num_loss_tokens=3), make_info(Score(value=1.0), num_loss_tokens=9))
    assert not DAPOConfig().build(SAMPLING).admits(equal)
    assert DAPOConfig(dynamic_sampling=False).build(SAMPLING).admits(equal)


def test_truncated_episodes_are_in_the_baseline_and_not_in_the_loss():
    algorithm = DAPOConfig(overlong_buffer=0.0, scale_by_std=False).build(SAMPLING)
    given = group(make_info(Score(value=1.0)), make_info(Score(value=0.0), stop="length"), make_info(Score(value=0.5)))
    advantages = algorithm.group_advantages(given)
    assert advantages == [0.5, -0.5, 0.0]
    assert [row.signal for row in row_group(given, advantages, algorithm.trains).scalars] == [0.5, 0.0]
    cut = group(*(make_info(Score(value=float(i)), stop="length") for i in range(3)))
    assert not algorithm.admits(cut)
    assert GRPOConfig().build(SAMPLING).admits(cut)


def test_dynamic_sampling_compares_a_part_of_the_reward():
    algorithm = GRPOConfig(dynamic_sampling=True, dynamic_sampling_part="exact").build(SAMPLING)

    def of(*exact: float) -> Group:
        return group(
            *(make_info(Score(value=float(i), parts={"exact": part, "length": -i})) for i, part in enumerate(exact))
        )

    assert algorithm.admits(of(1.0, 0.0))
    assert not algorithm.admits(of(1.0, 1.0))
    with pytest.raises(
        RunError, match="dynamic_sampling_part=exact: an episode of prompt p0 has no such part, only no"
    ):
        algorithm.admits(scored(1.0, 0.0))


# REINFORCE++


class MeetingBackend(FakeBackend):
    """A rank that meets the others: `gather` returns the values of all."""

    def __init__(self, rank: int, values: dict[int, Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, barrier.parties)
        self.values, self.barrier = values, barrier

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait(10)
        return [self.values[rank] for rank in range(self.num_ranks)]


def credit(config: Any, num_ranks: int, packed: bool) -> list[tuple[str, np.ndarray]]:
    """Advantages of every row by its signal, whitened over all ranks, with columns drawn for each row."""
    batch = deal(
        rollout_groups(3, [3, 2, 4]), step=0, num_minibatches=1, num_epochs=1, seed=0,
        packing=replace(PACKING, packed=packed, num_ranks=num_ranks),
    )  # fmt: skip
    columns: dict[str, list[np.ndarray]] = {"old_logprobs": [], "ref_logprobs": []}
    for pack in batch.minibatches[0].packs:
        for name in columns:
            columns[name].append(np.concatenate([drawn(name, row) for row in pack.rows]))
    batch = batch.with_columns([columns])
    values: dict[int, Any] = {}
    barrier = threading.Barrier(num_ranks)
    learners = [Learner(MeetingBackend(rank, values, barrier), READOUT, packed) for rank in range(num_ranks)]
    algorithm = config.build(SAMPLING)
    with ThreadPoolExecutor(num_ranks) as pool:
        found = list(pool.map(lambda learner: learner.assign_credit(learner.shard(batch), algorithm)[0], learners))
    by_pack = batch.in_pack_order([columns["advantages"] for columns in found])
    rows = []
    for pack, column in zip(batch.minibatches[0].packs, by_pack, strict=True):
        ends = np.cumsum([row.num_tokens for row in pack.rows])
        rows += list(zip((f"{row.signal:.9f}" for row in pack.rows), np.split(column, ends[:-1]), strict=True))
    return sorted(rows, key=lambda pair: pair[0])


def drawn(name: str, row: Any) -> np.ndarray:
    generator = np.random.default_rng(abs(int(row.signal * 1e6)) + (name == "ref_logprobs"))
    return generator.normal(size=row.num_tokens).astype(np.float32)


def naive_credit(config: Any) -> dict[str, np.ndarray]:
    """Whitened advantages by signal, one token at a time."""
    rows: dict[str, np.ndarray] = {}
    for each in rollout_groups(3, [3, 2, 4]):
        for row, rollout in zip(each.scalars, each.rows, strict=True):
            places = np.flatnonzero(rollout.loss_mask)
            old, ref = (drawn(name, row).astype(np.float64)[places] for name in ("old_logprobs", "ref_logprobs"))
            advantages = np.full(row.num_tokens, math.nan)
            for i, place in enumerate(places):
                tail = (
                    sum(old[j] - ref[j] for j in range(i, len(places))) if isinstance(config, ReinforcePPConfig) else 0
                )
                advantages[place] = row.signal - config.kl_coef * tail
            rows[f"{row.signal:.9f}"] = advantages
    together = np.concatenate(list(rows.values()))
    together = together[~np.isnan(together)]
    return {name: np.nan_to_num((row - together.mean()) / together.std()) for name, row in rows.items()}


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "config",
    [ReinforcePPConfig(kl_coef=0.2), ReinforcePPConfig(), ReinforcePPBaselineConfig(kl_coef=0.2)],
    ids=["k1 in the reward", "no KL", "baseline"],
)
def test_reinforce_pp_whitens_over_all_ranks(config, packed, num_ranks):
    expected = naive_credit(config)
    found = credit(config, num_ranks, packed)
    assert len(found) == 9
    for name, advantages in found:
        np.testing.assert_allclose(advantages, expected[name], atol=2e-5)


def test_reinforce_pp_has_its_kl_in_the_reward_and_its_baseline_form_in_the_loss():
    config = ReinforcePPConfig(kl_coef=0.2)
    assert (config.reads_old_logprobs, config.build(SAMPLING).loss.kl_coef) == (True, 0.0)
    assert not ReinforcePPConfig(measure_kl=True).reads_old_logprobs
    assert ReinforcePPConfig().build(SAMPLING).group_advantages(scored(0.5, None, 2.0)) == [0.5, 2.0]
    baseline = ReinforcePPBaselineConfig(kl_coef=0.2)
    assert (baseline.reads_old_logprobs, baseline.build(SAMPLING).loss.kl_coef) == (False, 0.2)
    assert baseline.build(SAMPLING).group_advantages(scored(0.5, None, 2.5)) == [-1.0, 1.0]
    empty = config.build(SAMPLING).assign_credit(MicroBatch.empty())
    assert not empty.advantages.any()


# What is refused


@pytest.mark.parametrize(
    ("config", "keys", "sentence"),
    [
        (
            RLOOConfig,
            {"group_size": 1},
            "algorithm.group_size=1: RLOO's baseline is the mean of a group, set at least 2",
        ),
        (ReinforcePPBaselineConfig, {"group_size": 1}, "algorithm.group_size=1: ReinforcePPBaseline's baseline"),
        (ReMaxConfig, {"group_size": 0}, "algorithm.group_size=0: give at least 1"),
        (CISPOConfig, {"dual_clip": 3.0}, "algorithm.objective=cispo, algorithm.dual_clip=3.0: CISPO bounds every"),
        (GRPOConfig, {"dual_clip": 1.0}, "algorithm.dual_clip=1.0: must be above 1"),
        (GRPOConfig, {"dual_clip": math.nan}, "algorithm.dual_clip=nan: must be above 1"),
        (GRPOConfig, {"entropy_coef": -0.1}, "algorithm.entropy_coef=-0.1: must not be negative"),
        (GRPOConfig, {"dynamic_sampling_part": "exact"}, "algorithm.dynamic_sampling=false: nothing is compared"),
        (DAPOConfig, {"overlong_buffer": 1.5}, "algorithm.overlong_buffer=1.5: must lie between 0 and 1"),
    ],
)
def test_impossible_combinations_are_refused(config, keys, sentence):
    with pytest.raises(InputError) as refused:
        config(**keys)
    assert sentence in str(refused.value)
