"""Rank processes that live for the session: imports dominate, so every test on ranks runs in the same ones."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from rlhf.ports import free_port

NUM_RANKS = 2


class Rank:
    """A process that runs functions as one rank of a gloo group."""

    def __init__(self, rank: int, num_ranks: int, port: int) -> None:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(num_ranks), LOCAL_RANK=str(rank), LOCAL_SIZE=str(num_ranks),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1",
        )  # fmt: skip

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def start_ranks(num_ranks: int) -> Callable[..., list[Any]]:
    import ray

    port = free_port()
    ranks = [ray.remote(num_cpus=0.5)(Rank).remote(rank, num_ranks, port) for rank in range(num_ranks)]

    def run(function: Callable[..., Any], *arguments: Any) -> list[Any]:
        return ray.get([rank.call.remote(function, *arguments) for rank in ranks], timeout=900)

    return run


@pytest.fixture(scope="session")
def on_ranks(cluster: None) -> Callable[..., list[Any]]:
    """`on_ranks(function, *arguments)` runs it on two ranks at once and returns both results."""
    return start_ranks(NUM_RANKS)


@pytest.fixture(scope="session")
def on_one_rank(cluster: None) -> Callable[..., list[Any]]:
    """The same on a single rank, which is its whole group."""
    return start_ranks(1)
