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
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol


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
        """Phase whose tenants, and no others, are on the accelerators. None: none had them yet, or a change failed."""
        self.tenants: dict[str, list[Tenant]] = {}
        self._away: list[Tenant] = []
        self._calls = 0
        self._changed = asyncio.Condition()

    def admit(self, phase: str, tenant: Tenant) -> None:
        """`tenant` has started under this lease: from now on it moves with its phase."""
        self.tenants.setdefault(phase, []).append(tenant)

    async def dismiss(self, phase: str, tenant: Tenant) -> None:
        """`tenant` is gone, and with it what it had on the accelerators: it moves no more until it is admitted."""
        async with self._changed:
            for tenants in (self.tenants.get(phase, []), self._away):
                if tenant in tenants:
                    tenants.remove(tenant)

    @asynccontextmanager
    async def hold(self, phase: str) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._calls == 0 or self.phase == phase)
            if self.phase != phase:
                # Waiters need the lock to look again, so nothing runs while tenants move.
                await to_its_end(self._change_to(phase))
            self._calls += 1
        try:
            yield
        finally:
            async with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    async def _change_to(self, phase: str) -> None:
        """Let the tenants change places. After a failure the next change moves those that this one did not."""
        self.phase = None
        others = [tenant for name, tenants in self.tenants.items() if name != phase for tenant in tenants]
        await self._move(off=[tenant for tenant in others if tenant not in self._away])
        await self._move(on=[tenant for tenant in self.tenants.get(phase, []) if tenant in self._away])
        self.phase = phase

    async def _move(self, *, off: Sequence[Tenant] = (), on: Sequence[Tenant] = ()) -> None:
        """Raise the first error once all tenants have moved or failed."""

        async def leave(tenant: Tenant) -> None:
            await tenant.offload()
            self._away.append(tenant)

        async def come_back(tenant: Tenant) -> None:
            await tenant.onload()
            self._away.remove(tenant)

        moves = [*map(leave, off), *map(come_back, on)]
        for outcome in await asyncio.gather(*moves, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await work that a cancellation must not leave half done; the cancellation is raised at its end."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


@asynccontextmanager
async def hold_all(leases: Sequence[Lease], phase: str) -> AsyncIterator[None]:
    """Several leases for one call, always taken in the same order."""
    async with AsyncExitStack() as stack:
        for lease in leases:
            await stack.enter_async_context(lease.hold(phase))
        yield
