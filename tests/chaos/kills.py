"""Kills of a running run's workers, by role and rank, at the moment of a call."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from tests.chaos.head import DEADLINE_S

POLL_S = 0.001


def process_id(name: str) -> int:
    """Return the process of the actor with this name, such as `policy-1`, once it has one."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        for found in ray.util.list_named_actors(all_namespaces=True):
            if found["name"] == name:
                actor = ray.get_actor(name, found["namespace"])
                return ray.get(actor.__ray_call__.remote(lambda worker: os.getpid()), timeout=DEADLINE_S)
        time.sleep(0.1)
    raise TimeoutError(f"no actor is named {name}")


def kill(process: int, during: str, of: int | None = None) -> None:
    """Kill a worker with SIGKILL while process `of`, None: itself, is in a call of the method `during`. Ray writes the
    call in the process's title."""
    title, end = Path(f"/proc/{of or process}/cmdline"), time.monotonic() + DEADLINE_S
    while f".{during}" not in title.read_text():
        if time.monotonic() > end:
            raise TimeoutError(f"process {of or process} was in no call of {during}")
        time.sleep(POLL_S)
    os.kill(process, signal.SIGKILL)


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Do work in a thread while the block runs, and raise its error at the end."""
    errors: list[BaseException] = []

    def keep() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    yield
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
