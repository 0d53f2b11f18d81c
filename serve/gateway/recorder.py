"""Records on their way to the store: written together, in the background, and again where the store fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

from serve.store.database import reason
from serve.store.exposures import Exposures
from serve.store.records import Exposure, Request
from serve.store.requests import Requests

LOG = logging.getLogger(__name__)
QUEUE_RECORDS = 10_000
QUEUE_CHARACTERS = 64_000_000
"""Records, and characters in them, that wait for the store at most. Further ones are lost, and counted."""
BATCH = 500
"""Records of one transaction at most."""
PAUSES_S = (0.2, 1.0, 5.0)
"""Seconds between two tries while the store fails; the last one from then on."""
FLUSH_S = 10.0
"""Seconds that a gateway that ends gives its last records."""
UNREACHABLE = (OperationalError, InterfaceError, NoConnection, OSError)
"""Errors of a store that is locked, full, stopped or out of reach: a later try may succeed."""


def num_characters(value: object) -> int:
    """Characters of all texts in what a request holds, names of fields included."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(num_characters, value.keys())) + sum(map(num_characters, value.values()))
    return sum(map(num_characters, value)) if isinstance(value, Sequence) else 0


@dataclass(slots=True)
class Entry:
    """A record that waits."""

    record: Request | Exposure
    done: asyncio.Future[bool]
    """Result once it is written: of an exposure whether its user takes part."""
    most: int | None = None
    """Limit on the users of an exposure's owner."""
    size: int = 0
    """Characters of its texts."""


@dataclass(slots=True)
class Recorder:
    """Writes for one event loop, in order."""

    requests: Requests
    exposures: Exposures
    patience_s: float
    """Seconds that an answer waits for its record, so that feedback finds it; a slow store delays none for longer."""
    waiting: dict[int, Entry] = field(default_factory=dict)
    """Entries by number, in order."""
    characters: int = 0
    """Characters in what waits."""
    writing: asyncio.Task[None] | None = None
    count: int = 0
    lost: int = 0
    """Records that the store did not take, or that found the queue full. Their users have their answers."""
    problem: str | None = None
    """Reason why the store takes nothing at the moment; None if it does."""

    async def record(self, request: Request) -> None:
        """Return once it is kept, so that feedback on it finds it, or after `patience_s`."""
        said = [response.text or "" for response in request.responses]
        called = [list(response.tool_calls or ()) for response in request.responses]
        await self.put(request, size=num_characters(request.messages) + num_characters([said, called]))

    async def expose(self, exposure: Exposure, *, most: int | None) -> bool | None:
        """Return whether the user takes part, as `Exposures.add` does; None if that is not known in time."""
        return await self.put(exposure, most=most)

    async def put(self, record: Request | Exposure, *, most: int | None = None, size: int = 0) -> bool | None:
        """Queue a record and wait a moment for its result; None if it has not come by then."""
        if len(self.waiting) >= QUEUE_RECORDS or self.characters + size > QUEUE_CHARACTERS:
            self.lose(1, f"{len(self.waiting)} records wait for it already")
            return None
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.count += 1
        self.waiting[self.count] = Entry(record, done, most, size)
        self.characters += size
        if self.writing is None or self.writing.done():
            self.writing = asyncio.create_task(self.write())
        # A client may go meanwhile, and the wait may end: the record is written all the same.
        await asyncio.wait([done], timeout=self.patience_s)
        return done.result() if done.done() else None

    async def write(self) -> None:
        """Write what waits, until nothing does."""
        failures = 0
        while self.waiting:
            batch = dict(islice(self.waiting.items(), BATCH))
            try:
                results = await asyncio.to_thread(self.keep, list(batch.values()))
            except UNREACHABLE as error:
                self.problem = reason(error)
                if not failures:
                    LOG.error("the store takes no records, %d wait: %s", len(self.waiting), self.problem)
                await asyncio.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1
                continue
            self.problem, failures = None, 0
            for (number, entry), result in zip(batch.items(), results, strict=True):
                del self.waiting[number]
                self.characters -= entry.size
                if not entry.done.done():
                    entry.done.set_result(result)

    def keep(self, batch: Sequence[Entry]) -> list[bool]:
        """Write entries, together where all can be written; a wrong one is lost alone. Raises `UNREACHABLE`."""
        requests = [entry.record for entry in batch if isinstance(entry.record, Request)]
        exposures = [(entry.record, entry.most) for entry in batch if isinstance(entry.record, Exposure)]
        try:
            took_part = iter(self.exposures.add_all(exposures))
            self.requests.record(requests)
        except UNREACHABLE:
            raise
        except Exception as error:  # noqa: BLE001  whatever is wrong with a record, the others are kept
            if len(batch) > 1:
                return [self.keep([entry])[0] for entry in batch]
            name = requests[0].id if requests else "an exposure"
            self.lose(1, f"{name}: {type(error).__name__}: {reason(error)}")
            return [False]
        return [next(took_part) if isinstance(entry.record, Exposure) else True for entry in batch]

    def lose(self, number: int, reason: str) -> None:
        self.lost += number
        LOG.error("the store did not take %d records (%d so far): %s", number, self.lost, reason)

    async def flush(self) -> None:
        """Give what waits a last chance."""
        if self.writing is not None:
            await asyncio.wait([self.writing], timeout=FLUSH_S)
        if self.waiting:
            self.lose(len(self.waiting), "the gateway ends")
