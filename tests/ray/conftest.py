"""Two rank processes that live for the session: imports dominate, so every test on ranks runs in the same two."""

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

NUM_RANKS = 2


class Rank:
    """A process that runs functions as one rank of a gloo group."""

    def __init__(self, rank: int, port: int) -> None:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(NUM_RANKS), LOCAL_RANK=str(rank), LOCAL_SIZE=str(NUM_RANKS),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1",
        )  # fmt: skip

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


@pytest.fixture(scope="session")
def on_ranks(cluster: None) -> Callable[..., list[Any]]:
    """`on_ranks(function, *arguments)` runs it on two ranks at once and returns both results."""
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [ray.remote(num_cpus=0.5)(Rank).remote(rank, port) for rank in range(NUM_RANKS)]

    def run(function: Callable[..., Any], *arguments: Any) -> list[Any]:
        return ray.get([rank.call.remote(function, *arguments) for rank in ranks], timeout=120)

    return run
