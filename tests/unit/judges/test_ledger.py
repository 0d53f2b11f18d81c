"""The budget under concurrency, and over the death of a run."""

import asyncio

import pytest

from rlhf.judges.ledger import Ledger
from rlhf.types import RunError


def ledger(**keys):
    return Ledger(**{"max_cost": None, "max_requests": None, "key": "reward.judge", **keys})


async def spend(account, largest, true):
    async with account.request(largest) as bill:
        await asyncio.sleep(0)
        bill.cost = true


async def test_concurrent_requests_use_the_budget_and_never_exceed_it():
    """Each may cost 1 and costs 0.25: all of a budget of 10 can be spent, though only ten fit at first."""
    account = ledger(max_cost=10.0)
    highest = 0.0

    async def one():
        nonlocal highest
        async with account.request(1.0) as bill:
            highest = max(highest, account.cost)
            await asyncio.sleep(0)
            bill.cost = 0.25

    results = await asyncio.gather(*(one() for _ in range(60)), return_exceptions=True)
    paid, refused = [each for each in results if each is None], [each for each in results if each is not None]
    assert len(paid) == 37  # the 38th may cost 1 after 37 x 0.25 = 9.25
    assert account.cost == 9.25
    assert highest <= 10.0
    assert {type(each) for each in refused} == {RunError}
    assert str(refused[0]) == (
        "reward.judge.max_cost=10: the judge has cost 9.25, and the next request may cost 1; raise it, "
        "and resume the run"
    )


async def test_a_bound_on_requests_is_exact_under_concurrency():
    account = ledger(max_requests=7)
    results = await asyncio.gather(*(spend(account, 0.0, 0.0) for _ in range(20)), return_exceptions=True)
    assert results.count(None) == account.requests == 7
    assert str(next(each for each in results if each)) == (
        "reward.judge.max_requests=7: the judge's budget is used up after 7 requests; raise it, and resume the run"
    )


async def test_a_request_that_is_cancelled_counts_with_its_largest_cost():
    account = ledger(max_cost=5.0)
    task = asyncio.create_task(spend(account, 2.0, 0.5))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (account.cost, account.in_flight) == (2.0, 0)


async def test_a_killed_run_continues_with_what_it_has_spent(tmp_path):
    file = tmp_path / "judge.jsonl"
    account = ledger(file=file)
    await asyncio.gather(*(spend(account, 1.0, 0.125) for _ in range(8)))
    async with account.request(1.0):
        # As a killed process leaves it: one in flight, and a line that was not finished.
        file.write_text(file.read_text() + '{"requests": 1, "co')
        again = ledger(file=file, max_cost=2.0)
    assert (again.cost, again.requests) == (2.0, 9)
    with pytest.raises(RunError, match=r"max_cost=2: the judge has cost 2"):
        await spend(again, 0.1, 0.1)


async def test_an_unfinished_line_is_not_joined_with_the_next(tmp_path):
    file = tmp_path / "judge.jsonl"
    file.write_text('{"requests": 1, "cost": 1.5}\n{"requ')
    await spend(ledger(file=file), 1.0, 0.5)
    again = ledger(file=file)
    assert (again.cost, again.requests) == (2.0, 2)
