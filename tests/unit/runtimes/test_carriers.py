"""Carriers, those of the page on extending among them: each brings every receiver the bytes that were sent."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from queue import SimpleQueue

import pytest
import torch

from rlhf.ports import free_port
from rlhf.runtimes.buckets import flatten, unpack
from rlhf.runtimes.carriers import carrier_class, make_carrier
from rlhf.runtimes.transport import Carrier, Link, WeightSyncConfig
from rlhf.types import InputError, RunError

PAGE = Path(__file__).parents[3] / "docs/extending.md"
WEIGHTS = [
    [("a", torch.arange(7.0).reshape(1, 7)), ("b", torch.tensor([True, False]))],
    [("c", torch.arange(900, dtype=torch.bfloat16))],
    [("d", torch.tensor(3))],
]
"""Parameters of each bucket."""
NUM_RECEIVERS = 2
DEADLINE_S = 120
OWN = """
import torch


class Short:
    device, from_every_rank = torch.device("cpu"), False

    def __init__(self, link, rank):
        self.rank = rank

    def send(self, bucket, flat):
        yield bucket

    def receive(self, bucket):
        return torch.zeros(bucket.num_bytes, dtype=torch.uint8)

    def release(self):
        pass


class Undecided(Short):
    from_every_rank = None


class Deaf:
    from_every_rank = False

    def send(self, bucket, flat):
        yield bucket


class Broken(Short):
    def __init__(self, link, rank):
        raise OSError("no such fabric")


class Nowhere(Short):
    device = "cpu"


def function(link, rank):
    return Short(link, rank)
"""


@pytest.fixture
def shared_folder(tmp_path: Path) -> str:
    """The spec of the class on the page, with a folder of this test."""
    code = re.search(r"^```python\n(# /path/to/my_transport\.py\n.*?)^```", PAGE.read_text(), re.M | re.S)
    assert code is not None
    file = tmp_path / "my_transport.py"
    file.write_text(code[1].replace("/shared/weights", str(tmp_path / "weights")), encoding="utf-8")
    return f"{file}:SharedFolder"


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    return str(file)


@pytest.fixture(params=["object_store", "gloo", "shared_folder"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("shared_folder") if request.param == "shared_folder" else request.param


def link_of(transport: str) -> Link:
    return Link(transport=transport, host="127.0.0.1", port=free_port(), size=1 + NUM_RECEIVERS, timeout_s=60)


def sent_by(carrier: Carrier) -> Iterator[bytes]:
    """What the driver passes on, as Ray does: as a pickle."""
    for parameters in WEIGHTS:
        bucket, flat = flatten(parameters, carrier.device)
        yield from map(pickle.dumps, carrier.send(bucket, flat))


def receive(link: Link, rank: int, passed_on: SimpleQueue) -> list[tuple[str, torch.Tensor]]:
    carrier = make_carrier(link, rank)
    # A sender that failed passes nothing on: without a deadline its error would never be told.
    buckets = (pickle.loads(passed_on.get(timeout=DEADLINE_S)) for _ in WEIGHTS)
    return [(name, value.clone()) for bucket in buckets for name, value in unpack(bucket, carrier.receive(bucket))]


def test_every_receiver_gets_the_bytes(transport: str) -> None:
    link = link_of(transport)
    with ThreadPoolExecutor() as pool:
        queues = [SimpleQueue() for _ in range(NUM_RECEIVERS)]
        received = [pool.submit(receive, link, rank, queue) for rank, queue in enumerate(queues, start=1)]
        sender = make_carrier(link, rank=0)
        for message in sent_by(sender):
            for queue in queues:
                queue.put(message)
        for future in received:
            for (name, value), (expected_name, expected) in zip(future.result(), chain(*WEIGHTS), strict=True):
                assert (name, value.dtype) == (expected_name, expected.dtype)
                assert torch.equal(value, expected)
        sender.release()


def test_a_shared_folder_is_empty_after_the_release(shared_folder: str, tmp_path: Path) -> None:
    sender = make_carrier(link_of(shared_folder), rank=0)
    for version in range(2):
        messages = list(sent_by(sender))
        assert len(list(tmp_path.rglob("*.bytes"))) == len(messages) == len(WEIGHTS), version
        sender.release()
        assert not list(tmp_path.rglob("*.bytes"))


def test_a_carrier_that_loses_bytes_stops_the_run(own: str) -> None:
    link = link_of(f"{own}:Short")
    message = next(sent_by(make_carrier(link, rank=0)))
    bucket = pickle.loads(message)
    with pytest.raises(RunError, match=r"^weight sync: the bucket from 'a' arrived with checksum"):
        list(unpack(bucket, make_carrier(link, rank=1).receive(bucket)))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Absent", ", but Absent does not exist in"),
        ("function", " is no class: implement rlhf.runtimes.transport.Carrier"),
        ("Deaf", " has no receive(): implement"),
        ("Undecided", " has no class attribute from_every_rank, True or False: implement"),
    ],
)
def test_a_class_that_is_no_carrier_is_an_input_error(own: str, name: str, problem: str) -> None:
    with pytest.raises(InputError, match=r"^weight_sync\.transport.*" + re.escape(problem)):
        carrier_class(f"{own}:{name}")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Broken", "cannot be made as Class(link, 3), OSError: no such fabric: correct its __init__"),
        ("Nowhere", "has no torch.device as `device`: set the one on which buckets are packed"),
    ],
)
def test_a_carrier_that_cannot_be_made_is_an_input_error(own: str, name: str, problem: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{own}:{name}: the class {problem}") + "$"):
        make_carrier(link_of(f"{own}:{name}"), rank=3)


def test_an_unknown_transport_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"^weight_sync\.transport=fax: choose one of object_store, gloo, nccl,"):
        WeightSyncConfig(transport="fax")


def test_a_group_that_lost_a_member_fails_at_its_sender_and_then_at_the_others() -> None:
    """No receiver waits for the deadline: the sender closes its end, and a new group can be formed."""
    link = Link(transport="gloo", host="127.0.0.1", port=free_port(), size=3, timeout_s=DEADLINE_S)
    with ThreadPoolExecutor(3) as pool:
        carriers = list(pool.map(lambda rank: make_carrier(link, rank), range(3)))
        bucket, flat = flatten(WEIGHTS[1], torch.device("cpu"))
        dead = carriers.pop()
        del dead
        with pytest.raises(RuntimeError, match=r"Connection (closed|reset)"):
            list(carriers[0].send(bucket, flat))
        waiting = pool.submit(carriers[1].receive, bucket)
        del carriers[0]
        with pytest.raises(RuntimeError, match=r"Connection (closed|reset)"):
            waiting.result(DEADLINE_S)
