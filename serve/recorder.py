"""Requests on their way to the store: those that wait are kept together, in one transaction."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from serve.records import Request
from serve.store import Store

LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Recorder:
    """Writes for one event loop."""

    store: Store
    waiting: list[tuple[Request, asyncio.Future[None]]] = field(default_factory=list)
    writing: asyncio.Task[None] | None = None
    lost: int = 0
    """Requests that the store did not take. Their users have their answers all the same."""

    async def record(self, request: Request) -> None:
        """Returns once it is kept, so that feedback on it finds it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, done))
        if self.writing is None or self.writing.done():
            self.writing = asyncio.create_task(self.write())
        # Whoever asked may be gone by then; what was answered is kept.
        await asyncio.shield(done)

    async def write(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, []
            try:
                await asyncio.to_thread(self.store.record, [request for request, _ in batch])
            except Exception:
                self.lost += len(batch)
                LOG.exception("the store did not take %d requests (%d so far)", len(batch), self.lost)
            for _, done in batch:
                if not done.done():
                    done.set_result(None)
