"""Stop of a run from outside without loss of learnt steps: Ctrl-C, `ray job stop`, a preempted node."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from rlhf.types import Stopped

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """The request to stop a run, and its signal."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.signal = signal.SIGTERM

    def ask(self, by: signal.Signals) -> None:
        self.signal = by
        self.requested.set()

    async def before(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`. If a stop is requested first, cancel `work` and raise `Stopped`."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self.requested.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if self.requested.is_set():
                raise Stopped(self.signal)
            return task.result()
        finally:
            for pending in (task, stop):
                pending.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)


async def until_stopped(work: Callable[[Stop], Coroutine[Any, Any, T]], tell: Callable[[str], None]) -> T:
    """Return the result of `work`, called with a `Stop` that SIGINT and SIGTERM trigger."""
    stop = Stop()
    with stop_on_signals(stop, tell):
        return await work(stop)


@contextmanager
def stop_on_signals(stop: Stop, tell: Callable[[str], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM request a stop while the block runs; a second SIGINT quits at once, as KeyboardInterrupt.

    Enter it in the event loop of the main thread, after `ray.init`, which installs its own SIGTERM handler. A repeated
    SIGTERM has no effect, since schedulers send several.
    """
    loop, requested = asyncio.get_running_loop(), False

    def ask(by: signal.Signals) -> None:
        stop.ask(by)
        tell("stopping: an update in progress is completed and a checkpoint is saved; Ctrl-C quits at once")

    # Python's own handlers, not the loop's: they also run while a callback keeps the loop busy.
    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not requested:
            requested = True
            loop.call_soon_threadsafe(ask, signal.Signals(number))

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
