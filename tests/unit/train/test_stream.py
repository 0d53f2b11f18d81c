"""The stream: submission order, bounded staleness, exact ledger, whatever the order in which groups end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms.grpo import GRPOConfig
from rlhf.data.order import PromptOrder
from rlhf.train.stream import RolloutStream, StreamConfig
from rlhf.types import Failure, Group, InputError, Prompt, RunError, Sampling, Score
from tests.unit.train.fakes import make_info, make_prompt

PROMPTS = [make_prompt(number) for number in range(400)]
ORDER = PromptOrder(PROMPTS, seed=3)
POSITION_OF = {ORDER.prompt_at(position)[1].id: position for position in range(len(PROMPTS))}
SAMPLING = Sampling(temperature=1.0, max_tokens=3)
TIMEOUT = Failure(kind="reward_timeout", message="no answer within 10 s")


def position_of(group: Group) -> int:
    return POSITION_OF[group.prompt.id]


@dataclass
class FakeSource:
    """Engines that take some turns of the event loop per group, and tag it with the version they began with."""

    turns: Callable[[int], int] = lambda position: 0
    rejected: Callable[[int], bool] = lambda position: False
    version: int = 0
    submitted: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    on_submit: Callable[[], None] = lambda: None

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
        position, version = POSITION_OF[prompt.id], self.version
        self.submitted.append(position)
        self.epochs.append(epoch)
        self.on_submit()
        try:
            for _ in range(self.turns(position)):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(position)
            raise
        self.ended.append(position)
        scores = [TIMEOUT if self.rejected(position) else Score(value=float(i)) for i in range(len(requests))]
        infos = [make_info(score, sample=i, version=version) for i, score in enumerate(scores)]
        return Group(prompt=prompt, rollouts=position, infos=infos)


def make_stream(source: FakeSource, **keys: int) -> RolloutStream:
    config = StreamConfig(**{"prompts_per_step": 3, "max_failures_per_step": 10_000, **keys})
    return RolloutStream(ORDER, source, GRPOConfig(group_size=2).build(SAMPLING), config)


async def train(
    stream: RolloutStream, source: FakeSource, steps: range, after_step: Callable[[int, list[Group]], None]
) -> None:
    """What the online loop does with a stream."""
    source.version = steps.start
    stream.admit(steps.start)
    for step in steps:
        groups = await stream.groups()
        source.version = step + 1
        stream.admit(step + 1)
        after_step(step, groups)


TURNS = st.lists(st.integers(0, 12), min_size=1, max_size=23).map(lambda turns: lambda i: turns[i % len(turns)])
REJECTED = st.sets(st.integers(0, 40)).map(lambda chosen: lambda i: i in chosen)


@given(TURNS, REJECTED, st.integers(0, 3), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_order_bounds_and_staleness(turns, rejected, max_staleness, prompts_per_step):
    source = FakeSource(turns, rejected)
    stream = make_stream(
        source, max_staleness=max_staleness, prompts_per_step=prompts_per_step, max_replaced_per_step=1000
    )
    capacity = (max_staleness + 1) * prompts_per_step
    trained: list[int] = []
    consumed = 0

    def check_bound() -> None:
        assert len(stream.in_flight) + stream.handed_over <= capacity

    def after_step(step: int, groups: list[Group]) -> None:
        nonlocal consumed
        positions = [position_of(group) for group in groups]
        dropped = [position_of(group) for group in stream.rejected]
        assert all(rejected(position) for position in dropped)
        assert sorted(positions + dropped) == list(range(consumed, consumed + len(positions) + len(dropped)))
        assert positions == sorted(positions)
        assert dropped == sorted(dropped)
        consumed += len(positions) + len(dropped)
        trained.extend(positions)
        lags = [step - info.versions[0] for group in groups for info in group.infos]
        assert min(lags) >= 0
        assert max(lags) <= max_staleness
        assert len(stream.in_flight) == capacity

    source.on_submit = check_bound
    asyncio.run(train(stream, source, range(5), after_step))
    assert trained == [position for position in range(1000) if not rejected(position)][: 5 * prompts_per_step]
    assert source.submitted == list(range(len(source.submitted)))
    # Never more at once than the capacity: what was submitted and is neither trained nor rejected.
    assert len(source.submitted) - consumed <= capacity


def test_synchronous_training_waits_for_the_new_weights():
    """At max_staleness=0 nothing is submitted between the last group of a step and the sync after its update."""

    async def run() -> None:
        source = FakeSource()
        stream = make_stream(source, max_staleness=0)
        stream.admit(0)
        for step in range(3):
            assert [position_of(group) for group in await stream.groups()] == [3 * step, 3 * step + 1, 3 * step + 2]
            await asyncio.sleep(0)
            assert len(source.submitted) == 3 * step + 3
            stream.admit(step + 1)

    asyncio.run(run())


def test_a_slow_first_group_holds_back_the_others():
    async def run() -> None:
        source = FakeSource(turns=lambda position: 50 if position == 0 else 0)
        stream = make_stream(source)
        stream.admit(0)
        groups = await stream.groups()
        assert source.ended == [1, 2, 0]
        assert [position_of(group) for group in groups] == [0, 1, 2]

    asyncio.run(run())


def test_every_prompt_of_an_epoch_is_asked_before_the_next_begins():
    async def run() -> None:
        source = FakeSource()
        stream = RolloutStream(
            PromptOrder(PROMPTS[:4], seed=0), source, GRPOConfig().build(SAMPLING), StreamConfig(prompts_per_step=4)
        )
        asked = []

        def after_step(step: int, groups: list[Group]) -> None:
            asked.append([group.prompt.id for group in groups])

        await train(stream, source, range(3), after_step)
        assert all(sorted(epoch) == ["p0", "p1", "p2", "p3"] for epoch in asked)
        assert source.epochs == [0] * 4 + [1] * 4 + [2] * 4
        await stream.close()

    asyncio.run(run())


def test_too_many_failures_end_the_run():
    async def run() -> None:
        stream = make_stream(FakeSource(rejected=lambda position: position >= 1), max_failures_per_step=4)
        stream.admit(0)
        sentence = (
            "6 rollouts of this step failed, more than stream.max_failures_per_step=4; the last one: reward_timeout: "
            "no answer within 10 s"
        )
        with pytest.raises(RunError, match=f"^{re.escape(sentence)}$"):
            await stream.groups()

    asyncio.run(run())


@pytest.mark.parametrize(("quota", "allowed"), [(2, 2), (None, 12)])
def test_too_many_replacements_end_the_run(quota, allowed):
    async def run(num_rejected: int) -> list[int]:
        stream = make_stream(FakeSource(rejected=lambda position: position < num_rejected), max_replaced_per_step=quota)
        stream.admit(0)
        return [position_of(group) for group in await stream.groups()]

    assert asyncio.run(run(allowed)) == [allowed, allowed + 1, allowed + 2]
    sentence = (
        f"{allowed + 1} groups of this step held nothing to learn from, more than stream.max_replaced_per_step="
        f"{allowed}; choose prompts nearer the policy's ability or raise the quota"
    )
    with pytest.raises(RunError, match=f"^{re.escape(sentence)}$"):
        asyncio.run(run(allowed + 1))


def test_quotas_are_per_step():
    async def run() -> None:
        source = FakeSource(rejected=lambda position: position % 2 == 0)
        stream = make_stream(source, max_failures_per_step=8, max_replaced_per_step=4)
        num_rejected = []
        await train(stream, source, range(6), lambda step, groups: num_rejected.append(len(stream.rejected)))
        assert sum(num_rejected) == 18

    asyncio.run(run())


def test_an_engine_s_error_reaches_the_loop():
    class BrokenSource(FakeSource):
        async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
            raise RunError("sampler 0 died")

    async def run() -> None:
        stream = make_stream(BrokenSource())
        stream.admit(0)
        with pytest.raises(RunError, match=r"^sampler 0 died$"):
            await stream.groups()
        await stream.close()

    asyncio.run(run())


def test_close_cancels_what_is_in_flight():
    async def run() -> None:
        source = FakeSource(turns=lambda position: 0 if position < 3 else 10**9)
        stream = make_stream(source, max_staleness=1)
        stream.admit(0)
        await stream.groups()
        stream.admit(1)
        await asyncio.sleep(0)
        await stream.close()
        assert source.cancelled == [3, 4, 5, 6, 7, 8]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


@given(TURNS, REJECTED, st.integers(0, 2), st.lists(st.integers(1, 4), min_size=1, max_size=4), TURNS)
@settings(max_examples=50, deadline=None)
def test_a_killed_run_commits_every_position_once(turns, rejected, max_staleness, segments, other_turns):
    """Saved after each segment's last step, killed in the middle of the next step, resumed with other engine speeds."""
    ledger: list[int] = []
    dropped: list[int] = []
    state, step = None, 0

    async def run_segment(length: int, speeds: Callable[[int], int]) -> None:
        nonlocal state, step
        source = FakeSource(speeds, rejected)
        stream = make_stream(source, max_staleness=max_staleness, max_replaced_per_step=1000)
        if state is not None:
            before = json.loads(state)
            stream.restore(before)

        def after_step(_: int, groups: list[Group]) -> None:
            ledger.extend(position_of(group) for group in groups)
            dropped.extend(position_of(group) for group in stream.rejected)

        await train(stream, source, range(step, step + length), after_step)
        if state is not None:
            assert source.submitted[: len(before["in_flight"])] == before["in_flight"]
        state, step = json.dumps(stream.state()), step + length
        killed = asyncio.create_task(stream.groups())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        killed.cancel()
        await stream.close()

    for i, length in enumerate(segments):
        asyncio.run(run_segment(length, other_turns if i % 2 else turns))
    expected = [position for position in range(1000) if not rejected(position)][: 3 * sum(segments)]
    assert ledger == expected
    assert dropped == [position for position in range(ledger[-1]) if rejected(position)]


def test_the_state_of_a_restored_stream_is_the_state_it_was_given():
    """A run that is killed again before its first step loses nothing."""
    stream = make_stream(FakeSource(), max_staleness=1)
    state = {"next_position": 9, "in_flight": [3, 5, 6, 7, 8]}
    stream.restore(state)
    assert stream.state() == state


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"prompts_per_step": 0}, "stream.prompts_per_step=0: give at least 1"),
        ({"max_staleness": -1}, "stream.max_staleness=-1: give 0 for on-policy training, or more"),
    ],
)
def test_values_out_of_range_are_refused(keys, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        StreamConfig(**keys)
