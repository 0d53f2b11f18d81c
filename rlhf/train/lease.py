"""Accelerators that several roles share: one phase at a time uses them, and the other roles release their memory.

A call of phase B while phase A has the lease:

    Workers.each (phase B)      Lease                              tenants of A and B
      |-> hold("B") ----------> wait until no call of A runs
      |                         _change_to("B")
      |                           |-> offload() ----------------> A: state moves to host memory, or the engine sleeps
      |                           '-> onload() -----------------> B: state moves back to the accelerators
      |<----------------------- enter: further calls of B run concurrently, calls of A wait
      |-> actor calls
      '-> exit ---------------> last call of B: wake the waiting calls
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol


class Tenant(Protocol):
    """A role that can give its accelerators' memory back."""

    async def offload(self) -> None: ...
    async def onload(self) -> None: ...


class Lease:
    """The right to use a group of accelerators.

    Calls of one phase run side by side; those of another wait until they ended, then the tenants change places. With
    one phase alone, its accelerators being its own, nothing ever waits or moves.
    """

    def __init__(self) -> None:
        self.phase: str | None = None
        self.tenants: dict[str, list[Tenant]] = {}
        self._calls = 0
        self._changed = asyncio.Condition()

    def admit(self, phase: str, tenant: Tenant) -> None:
        """`tenant` has started under this lease: from now on it moves with its phase."""
        self.tenants.setdefault(phase, []).append(tenant)

    @asynccontextmanager
    async def hold(self, phase: str) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._calls == 0 or self.phase == phase)
            if self.phase != phase:
                # Waiters need the lock to look again, so nothing runs while tenants move.
                await self._change_to(phase)
            self._calls += 1
        try:
            yield
        finally:
            async with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    async def _change_to(self, phase: str) -> None:
        leaving = self.tenants.get(self.phase, []) if self.phase else []
        await asyncio.gather(*(tenant.offload() for tenant in leaving))
        # What has started but never left is on the accelerators still; what has not started is in no list.
        await asyncio.gather(*(tenant.onload() for tenant in self.tenants.get(phase, [])))
        self.phase = phase


@asynccontextmanager
async def hold_all(leases: Sequence[Lease], phase: str) -> AsyncIterator[None]:
    """Several leases for one call, always taken in the same order."""
    async with AsyncExitStack() as stack:
        for lease in leases:
            await stack.enter_async_context(lease.hold(phase))
        yield
