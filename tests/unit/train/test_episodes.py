"""Episodes through the whole loop, from the environment to the learner's update, against a straight line."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.algorithms.base import Normalisation
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.data.order import PromptOrder
from rlhf.environments.base import act, append_observation, start
from rlhf.environments.sampler import turn_seed
from rlhf.environments.single_turn import single_turn
from rlhf.train.batching import Packing, RowGroup, deal
from rlhf.train.clock import Clock
from rlhf.train.failover import FailoverConfig, Restarts
from rlhf.train.learner import Learner
from rlhf.train.measure import MEASUREMENT_EPOCH, measure
from rlhf.train.online import OnlineTrainer, TrainConfig
from rlhf.train.report import StepReport
from rlhf.train.rollouts import RolloutCollector, rollout_seed
from rlhf.train.stats import Stats
from rlhf.train.stop import Stop
from rlhf.train.stream import RolloutStream, StreamConfig
from rlhf.train.validation import ValidationConfig
from rlhf.types import (
    Batch,
    Completion,
    Episode,
    Failure,
    Group,
    Prompt,
    Reference,
    Rollout,
    Row,
    RunError,
    Sampling,
    Score,
    Turn,
)  # fmt: skip
from tests.unit.train.fakes import READOUT, VOCAB, FakeBackend, TinyModel, make_prompt, row_logprobs

SAMPLING = Sampling(temperature=0.8, max_tokens=4)
PROMPTS = [make_prompt(i) for i in range(4)]
RUN_SEED, GROUP_SIZE, PROMPTS_PER_STEP, LR = 11, 3, 2, 0.1
HINT, REREAD = (9, 2), (1, 5, 6)
UNFAIR = Failure(kind="environment", message="the page was down")


def sampled(seed: int) -> np.ndarray:
    """Tokens of a turn: some, by its seed."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, VOCAB, generator.integers(1, 5)).astype(np.int32)


def value_of(tokens: Sequence[int]) -> float:
    return float(sum(map(int, tokens)) % 5)


@dataclass
class SeededSampler:
    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion:
        tokens = sampled(sampling.seed)
        return Completion(
            token_ids=tokens,
            logprobs=-np.linspace(0.5, 1, len(tokens), dtype=np.float32),
            versions=np.zeros(len(tokens), dtype=np.int32),
            stop="stop",
            text=str(tokens),
        )


class LastRowRewards:
    async def score(self, prompt: Prompt, rollout: Rollout) -> Score:
        return Score(value=value_of(rollout.token_ids))


def no_tokenizer() -> Any:
    pytest.fail("nothing is encoded")


async def two_rows(prompt: Prompt, sampler: Any, sampling: Sampling) -> Episode:
    """A row of two turns, and one whose prompt was written anew; some it scores itself, and some fail."""
    first = append_observation(await act(start(prompt), sampler, sampling), HINT)
    first = await act(first, sampler, sampling)
    second = await act(start(prompt, REREAD), sampler, sampling)
    total = value_of(second.token_ids)
    score = {0.0: UNFAIR, 1.0: Score(value=7.0)}.get(total)
    return Episode(rows=[first, second], score=score)


@dataclass
class Source:
    """The engines, in this process; a group's rows are their own reference."""

    collector: RolloutCollector

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
        rollouts, infos = await self.collector.collect(prompt, epoch, requests)
        return Group(prompt=prompt, rollouts=Reference(rollouts), infos=infos)

    async def expect_weights(self) -> None:
        pass

    async def take_figures(self) -> dict[str, float]:
        return {}


@dataclass
class Policy:
    """A rank of a tiny model as the loop sees its role."""

    algorithm: Any
    learner: Learner

    async def compute_columns(self, batch: Batch) -> Any:
        raise AssertionError("one optimiser step has no old policy")

    async def assign_credit(self, batch: Batch) -> tuple[Batch, Stats]:
        columns, stats = self.learner.assign_credit(self.learner.shard(batch), self.algorithm)
        return batch.with_columns([columns]), stats

    async def update(self, batch: Batch) -> Stats:
        loss = self.algorithm.loss
        return self.learner.update(self.learner.shard(batch, loss), loss, LR)


@dataclass
class WeightSync:
    version: int = 0

    async def push(self, policy: Any, samplers: Any) -> int:
        self.version += 1
        return self.version - 1


@dataclass
class Recorder:
    reports: list[StepReport] = field(default_factory=list)

    async def on_step(self, report: StepReport) -> bool:
        self.reports.append(report)
        return False


def make_trainer(environment: Any, **algorithm: Any) -> tuple[OnlineTrainer, Recorder, TinyModel]:
    grpo, recorder, backend = GRPOConfig(group_size=GROUP_SIZE, **algorithm).build(SAMPLING), Recorder(), FakeBackend()
    collector = RolloutCollector(
        sampler=SeededSampler(), tokenizer=no_tokenizer, context_tokens=32, environment=environment,
        environment_name="my_env.py:Game", rewards=LastRowRewards(), run_seed=RUN_SEED, max_attempts=1,
    )  # fmt: skip
    source, policy = Source(collector), Policy(grpo, Learner(backend, READOUT, packed=True))
    stream = RolloutStream(PromptOrder(PROMPTS, 0), source, grpo, StreamConfig(prompts_per_step=PROMPTS_PER_STEP))
    trainer = OnlineTrainer(
        config=TrainConfig(num_steps=2), packing=Packing(max_tokens=40, packed=True, num_ranks=1), seed=0,
        algorithm=grpo, stream=stream, policy=policy, column_sources=[], learners=[policy], samplers=source,
        weight_sync=WeightSync(), clock=Clock(), workers={}, callbacks=[recorder], stop=Stop(),
        restarts=Restarts(FailoverConfig()),
    )  # fmt: skip
    return trainer, recorder, backend.model


Sequences = list[tuple[list[int], list[bool]]]
"""Token ids of rows, and which of them the policy chose."""


def two_rows_by_hand(prompt: Prompt, seed: int) -> tuple[Sequences, float | None]:
    read = list(prompt.token_ids)
    one = sampled(seed).tolist()
    two = sampled(turn_seed(seed, [*read, *one, *HINT], 0)).tolist()
    other = sampled(turn_seed(seed, REREAD, 0)).tolist()
    first = ([*read, *one, *HINT, *two], [False] * 2 + [True] * len(one) + [False] * 2 + [True] * len(two))
    second = ([*REREAD, *other], [False] * 3 + [True] * len(other))
    value = value_of(second[0])
    return [first, second], {0.0: None, 1.0: 7.0}.get(value, value)


def one_row_by_hand(prompt: Prompt, seed: int) -> tuple[Sequences, float | None]:
    answer = sampled(seed).tolist()
    row = [*prompt.token_ids, *answer]
    return [(row, [False] * 2 + [True] * len(answer))], value_of(row)


def straight_line(by_hand: Any, normalisation: str) -> tuple[list[float], TinyModel, list[Any]]:
    """Train on the same prompts, one row at a time."""
    model, losses, played = TinyModel(), [], []
    order, position = PromptOrder(PROMPTS, 0), 0
    for _ in range(2):
        learnt: list[tuple[list[int], list[bool], float]] = []
        admitted = 0
        while admitted < PROMPTS_PER_STEP:
            epoch, prompt = order.prompt_at(position)
            position += 1
            seeds = [rollout_seed(RUN_SEED, prompt.id, epoch, i, 0) for i in range(GROUP_SIZE)]
            episodes = [by_hand(prompt, seed) for seed in seeds]
            rewards = np.array([reward for _, reward in episodes if reward is not None])
            if len(rewards) < 2:
                continue
            admitted += 1
            played += episodes
            for rows, reward in episodes:
                if reward is not None:
                    advantage = (reward - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
                    learnt += [(ids, mask, float(advantage)) for ids, mask in rows]
        num_tokens = sum(sum(mask) for _, mask, _ in learnt)
        total = torch.zeros(())
        for ids, mask, advantage in learnt:
            divisor = num_tokens if normalisation == "tokens" else sum(mask) * len(learnt)
            for logprob, chosen in zip(row_logprobs(model, ids, 0.8), mask[1:], strict=True):
                if chosen:
                    total = total - (logprob - logprob.detach()).exp() * advantage / divisor
        total.backward()
        losses.append(total.item())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= LR * parameter.grad
                parameter.grad = None
    return losses, model, played


@pytest.mark.parametrize("normalisation", ["tokens", "sequences"])
@pytest.mark.parametrize(
    ("environment", "by_hand"), [(single_turn, one_row_by_hand), (two_rows, two_rows_by_hand)]
)  # fmt: skip
def test_the_loop_learns_from_every_row_with_its_episode_s_advantage(environment, by_hand, normalisation):
    trainer, recorder, model = make_trainer(environment, normalisation=Normalisation(normalisation))
    asyncio.run(trainer.fit())
    losses, expected, played = straight_line(by_hand, normalisation)
    infos = [info for report in recorder.reports for group in report.groups for info in group.infos]
    assert len(infos) == len(played)
    for info, (rows, reward) in zip(infos, played, strict=True):
        assert (info.score.value if isinstance(info.score, Score) else None) == reward
        assert [(row.num_tokens, row.num_loss_tokens) for row in info.rows] == [(len(i), sum(m)) for i, m in rows]
        assert {row.episode for row in info.rows} == {info.id}
    assert [report.stats.values()["loss"] for report in recorder.reports] == pytest.approx(losses, abs=1e-6)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_driver_counts_episodes():
    trainer, recorder, _ = make_trainer(two_rows)
    asyncio.run(trainer.fit())
    failed = 0
    for report in recorder.reports:
        assert [len(group.infos) for group in report.groups] == [GROUP_SIZE] * PROMPTS_PER_STEP
        for group in report.groups:
            assert [row.index for info in group.infos for row in info.rows] == list(range(2 * GROUP_SIZE))
            assert group.episodes(group.rollouts)[1].rows == group.rollouts[2:4]
            failed += GROUP_SIZE - len(group.survivors)
    assert sum(report.figures["failures"] for report in recorder.reports) >= failed > 0


def test_one_row_per_episode_is_laid_out_bit_for_bit_as_the_completion_after_its_prompt():
    trainer, _, _ = make_trainer(single_turn)

    async def groups() -> list[Group]:
        trainer.stream.admit(0)
        found = await trainer.stream.groups()
        await trainer.stream.close()
        return found

    ours = asyncio.run(groups())
    by_hand = []
    for group in ours:
        rows, scalars = [], []
        advantages = trainer.algorithm.group_advantages(group)
        for i, advantage in enumerate(advantages):
            answer = sampled(rollout_seed(RUN_SEED, group.prompt.id, 0, i, 0))
            asked = np.array(group.prompt.token_ids, dtype=np.int32)
            logprobs = [np.zeros(2, np.float32), -np.linspace(0.5, 1, len(answer), dtype=np.float32)]
            rows.append({
                "token_ids": np.concatenate([asked, answer]),
                "loss_mask": np.arange(2 + len(answer)) >= 2,
                "logprobs": np.concatenate(logprobs),
                "versions": np.concatenate([np.full(2, -1, np.int32), np.zeros(len(answer), np.int32)]),
            })  # fmt: skip
            scalars.append(Row(group=0, index=i, num_tokens=2 + len(answer), num_loss_tokens=len(answer),
                               signal=advantage, episode=f"{group.prompt.id}/0/{i}"))  # fmt: skip
        for rollout, columns in zip(group.rollouts, rows, strict=True):
            for name, column in columns.items():
                assert getattr(rollout, name).dtype == column.dtype, name
                assert getattr(rollout, name).tobytes() == column.tobytes(), name
        by_hand.append(RowGroup(rows=group.rollouts, scalars=tuple(scalars)))
    packing = Packing(max_tokens=40, packed=True, num_ranks=1)
    assert trainer.pack(ours) == deal(by_hand, step=0, num_minibatches=1, num_epochs=1, packing=packing, seed=0)


async def test_success_counts_episodes_and_shows_how_the_first_ended():
    source = make_trainer(two_rows)[0].samplers
    config = ValidationConfig(samples_per_prompt=4, threshold=3.0, num_shown=2)
    measured = await measure(source, list, PROMPTS[:3], SAMPLING, config)
    seeds = [[rollout_seed(RUN_SEED, prompt.id, MEASUREMENT_EPOCH, i, 0) for i in range(4)] for prompt in PROMPTS[:3]]
    rewards = [two_rows_by_hand(PROMPTS[i], seed)[1] for i, each in enumerate(seeds) for seed in each]
    assert measured.success.mean == sum(reward is not None and reward >= 3.0 for reward in rewards) / 12
    last = [str(sampled(turn_seed(each[0], REREAD, 0))) for each in seeds[:2]]
    assert measured.samples == [("0?", last[0]), ("1?", last[1])]


def odd_row(**columns: Any) -> Episode:
    return Episode(rows=[replace(start(PROMPTS[0]), **columns)])


def scored(value: Any, **parts: Any) -> Episode:
    return Episode(rows=[start(PROMPTS[0])], score=Score(value=value, parts=parts))


@pytest.mark.parametrize(
    ("episode", "sentence"),
    [
        (None, "None: return an Episode with at least one row, in a list"),
        (Episode(rows=[]), "Episode(rows=[], score=None): return an Episode"),
        (Episode(rows=[start(PROMPTS[0])], score=1.0), "the score 1.0: give a Score, a Failure or None"),
        (Episode(rows=["a row"]), "rows[0] = 'a row': give a row that `start`, `act` and `observe` return"),
        (Episode(rows=[start(PROMPTS[1])]), "rows[0] of prompt p1, not of p0: begin it with"),
        (
            Episode(rows=[start(PROMPTS[0]), start(PROMPTS[0], range(33))]),
            "rows[1] with 33 tokens, more than sampler.context_tokens=32: end it earlier",
        ),
        (Episode(rows=[start(PROMPTS[0], ())]), "rows[0], which begins with a token of the policy: begin it with"),
        (Episode(rows=(row for row in [start(PROMPTS[0])])), "Episode(rows="),
        (odd_row(token_ids=[3, 4]), "rows[0], whose token_ids is list: give a numpy array of integers"),
        (
            odd_row(token_ids=np.ones((2, 1), np.int32)),
            "rows[0] with 2 tokens and token_ids of the shape (2, 1): append",
        ),
        (odd_row(token_ids=np.array([3, -4])), "rows[0] with a negative token id: give ids of the policy's"),
        (odd_row(loss_mask=np.array([0, 1])), "rows[0], whose loss_mask is int64: give a numpy array of booleans"),
        (
            odd_row(loss_mask=np.array([False, True]), logprobs=np.array([0.0, np.nan])),
            "rows[0] with a logprob that is not finite: give the engine's",
        ),
        (scored(torch.tensor(1.0)), "a score with value tensor(1.): give a finite number"),
        (scored(1.0, tries="two"), "a score with part tries 'two': give a finite number"),
        (
            Episode(rows=[start(PROMPTS[0])], score=Score(value=1.0, parts=[2.0])),
            "a score with the parts [2.0]: give a",
        ),
        (
            odd_row(turns=(Turn(speaker="policy", start=2, stop=5),)),
            "rows[0] with 2 tokens and a turn from 2 to 5: give turns in their order, within the row",
        ),
    ],
)
def test_what_is_no_episode_is_a_failure_and_no_crash(episode, sentence):
    async def wrong(prompt: Prompt, sampler: Any, sampling: Sampling) -> Any:
        return episode

    trainer, _, _ = make_trainer(wrong)
    rows, infos = asyncio.run(trainer.samplers.collector.collect(PROMPTS[0], 0, [SAMPLING]))
    assert infos[0].score.kind == "environment"
    assert infos[0].score.message.startswith(f"environment=my_env.py:Game returned {sentence}")
    assert rows[0].token_ids.tolist() == [3, 4]
    assert not infos[0].rows[0].num_loss_tokens


async def test_a_judge_gets_the_episodes_that_the_environment_did_not_score():
    seen: list[Episode] = []

    class Judge:
        async def judge(self, prompt: Prompt, episodes: Sequence[Episode]) -> None:
            seen.extend(episodes)
            for episode in episodes:
                episode.score = Score(value=-1.0)

    trainer, _, _ = make_trainer(two_rows)
    collector = trainer.samplers.collector
    collector.judges = [Judge()]
    _, infos = await collector.collect(PROMPTS[0], 0, [SAMPLING] * 40)
    values = [info.score.value if isinstance(info.score, Score) else None for info in infos]
    assert set(values) == {-1.0, 7.0, None}
    assert len(seen) == values.count(-1.0)


async def collected(environment: Any, prompt: Prompt = PROMPTS[0], number: int = 2) -> Any:
    return await make_trainer(environment)[0].samplers.collector.collect(prompt, 0, [SAMPLING] * number)


async def test_a_score_of_numpy_s_becomes_the_floats_that_logs_take():
    async def measured(prompt: Prompt, sampler: Any, sampling: Sampling) -> Episode:
        return scored(np.float32(0.5), tries=np.int64(3))

    _, infos = await collected(measured)
    assert json.dumps([infos[0].score.value, infos[0].score.parts]) == '[0.5, {"tries": 3.0}]'


async def test_what_an_environment_appends_to_its_prompt_stays_out_of_other_episodes_and_of_rewards():
    seen: list[int] = []

    async def appends(prompt: Prompt, sampler: Any, sampling: Sampling) -> Episode:
        seen.append(len(prompt.messages) + len(prompt.meta))
        prompt.messages.append({"role": "user", "content": "again"})
        prompt.meta["tries"] = 1
        return Episode(rows=[start(prompt)])

    prompt = replace(PROMPTS[0], messages=[{"role": "user", "content": "0?"}], meta={"answer": "0"})
    await collected(appends, prompt, number=3)
    assert seen == [2, 2, 2]
    assert (len(prompt.messages), prompt.meta) == (1, {"answer": "0"})


async def test_a_cancelled_task_of_the_environment_is_its_failure():
    async def abandons(prompt: Prompt, sampler: Any, sampling: Sampling) -> Episode:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
        raise AssertionError

    _, infos = await collected(abandons)
    assert infos[0].score.message.startswith("asyncio.exceptions.CancelledError")


async def test_an_engine_that_is_gone_ends_the_run_also_out_of_a_task_group():
    async def generate() -> None:
        raise RunError("the engine died")

    async def samples_at_once(prompt: Prompt, sampler: Any, sampling: Sampling) -> Episode:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(generate())
        raise AssertionError

    with pytest.raises(RunError, match="the engine died"):
        await collected(samples_at_once)
