"""Who has the accelerators: phases take turns, and what moved is known."""

import asyncio
from typing import Any

import pytest

from rlhf.train.lease import Lease, hold_all


class Tenant:
    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events
        self.broken = False

    async def offload(self) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise LookupError(self.name)
        self.events.append(f"{self.name} off")

    async def onload(self) -> None:
        await asyncio.sleep(0)
        self.events.append(f"{self.name} on")


def shared(*phases: str) -> tuple[Lease, list[str]]:
    """A lease whose tenants, one per phase, have all started; the last one has it."""
    lease, events = Lease(), []

    async def start() -> None:
        for phase in phases:
            async with lease.hold(phase):
                lease.admit(phase, Tenant(phase, events))

    asyncio.run(start())
    return lease, events


async def work(lease: Lease, phase: str, events: list[str], turns: int = 3) -> None:
    async with lease.hold(phase):
        events.append(f"{phase} begins")
        for _ in range(turns):
            await asyncio.sleep(0)
        events.append(f"{phase} ends")


def test_a_tenant_alone_never_moves():
    lease, events = shared("policy")

    async def scenario() -> None:
        await asyncio.gather(*(work(lease, "policy", events) for _ in range(3)))

    asyncio.run(scenario())
    assert events == ["policy begins"] * 3 + ["policy ends"] * 3


def test_roles_start_one_after_the_other_each_on_free_accelerators():
    _, events = shared("policy", "reference", "rollout")
    assert events == ["policy off", "reference off"]


def test_phases_take_turns_and_nothing_runs_while_tenants_move():
    lease, events = shared("policy", "rollout")
    events.clear()

    async def scenario() -> None:
        await asyncio.gather(
            work(lease, "rollout", events), work(lease, "policy", events), work(lease, "rollout", events)
        )

    asyncio.run(scenario())
    assert events == [
        *["rollout begins"] * 2, *["rollout ends"] * 2, "rollout off", "policy on", "policy begins", "policy ends",
    ]  # fmt: skip


def test_calls_of_the_same_phase_move_nothing():
    lease, events = shared("policy", "rollout")
    events.clear()

    async def scenario() -> None:
        await work(lease, "rollout", events)
        await work(lease, "rollout", events)

    asyncio.run(scenario())
    assert not [event for event in events if event.endswith(("on", "off"))]


def test_a_call_that_fails_or_is_cancelled_gives_the_accelerators_back():
    lease, events = shared("policy", "rollout")

    async def failing() -> None:
        async with lease.hold("rollout"):
            raise LookupError("a bug")

    async def scenario() -> None:
        with pytest.raises(LookupError):
            await failing()
        hanging = asyncio.create_task(work(lease, "rollout", events, turns=10**9))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(work(lease, "policy", events))
        await asyncio.sleep(0.01)
        hanging.cancel()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())
    assert events[-1] == "policy ends"


def test_an_engine_and_a_reward_model_elsewhere_are_held_together():
    (first, events), (second, others) = shared("policy", "rollout"), shared("reference", "rollout")

    async def scenario() -> None:
        async with first.hold("policy"), second.hold("reference"):
            pass
        async with hold_all([first, second], "rollout"):
            assert (first.phase, second.phase) == ("rollout", "rollout")

    asyncio.run(scenario())
    assert events[-1] == others[-1] == "rollout on"


def test_many_callers_of_many_phases_all_get_their_turn():
    lease, events = shared("a", "b", "c")
    running: dict[str, int] = {}
    seen: list[set[str]] = []

    async def call(phase: str, number: int) -> None:
        await asyncio.sleep(0.001 * (number % 5))
        async with lease.hold(phase):
            running[phase] = running.get(phase, 0) + 1
            seen.append({name for name, count in running.items() if count})
            await asyncio.sleep(0.001)
            running[phase] -= 1

    async def scenario() -> Any:
        calls = [call("abc"[i % 3], i) for i in range(60)]
        await asyncio.wait_for(asyncio.gather(*calls), 5)

    asyncio.run(scenario())
    assert len(seen) == 60
    assert all(len(phases) == 1 for phases in seen)
    assert len(events) % 2 == 0


def test_a_change_that_failed_is_completed_by_the_next_one():
    """Two tenants of a phase: one leaves, the other cannot. Nobody moves twice, and nobody is missing afterwards."""
    lease, events = shared("policy", "rollout")
    second = Tenant("second", events)
    lease.admit("rollout", second)
    events.clear()

    async def scenario() -> None:
        second.broken = True
        with pytest.raises(LookupError, match="second"):
            await work(lease, "policy", events)
        second.broken = False
        await work(lease, "rollout", events, turns=0)
        await work(lease, "policy", events, turns=0)

    asyncio.run(scenario())
    assert events == [
        "rollout off", "rollout on", "rollout begins", "rollout ends",
        "rollout off", "second off", "policy on", "policy begins", "policy ends",
    ]  # fmt: skip


def test_a_cancelled_call_leaves_no_tenant_half_moved():
    lease, events = shared("policy", "rollout")
    events.clear()

    async def scenario() -> None:
        call = asyncio.create_task(work(lease, "policy", events))
        await asyncio.sleep(0)
        while not events:
            await asyncio.sleep(0)
            if lease.phase is None:
                break
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert events == ["rollout off", "policy on"]
        await work(lease, "rollout", events, turns=0)

    asyncio.run(scenario())
    assert events[2:] == ["policy off", "rollout on", "rollout begins", "rollout ends"]


def test_a_tenant_that_is_gone_starts_again_in_its_place():
    lease, events = shared("policy", "rollout")
    (policy,) = lease.tenants["policy"]
    events.clear()

    async def scenario() -> None:
        await lease.dismiss("policy", policy)
        async with lease.hold("policy"):
            lease.admit("policy", policy)
        await work(lease, "rollout", events, turns=0)

    asyncio.run(scenario())
    assert events == ["rollout off", "policy off", "rollout on", "rollout begins", "rollout ends"]
