"""Ports that nothing takes before they are listened on."""

import socket

import pytest

from rlhf import ports
from rlhf.types import RunError


def test_a_free_port_is_none_of_outgoing_connections():
    first = ports.first_of_outgoing()
    found = {ports.free_port() for _ in range(50)}
    assert len(found) > 40
    assert all(ports.LOWEST <= port < first for port in found)
    with socket.socket() as listening:
        listening.bind(("", found.pop()))


def test_ports_in_use_are_passed_over(monkeypatch):
    with socket.socket() as one, socket.socket() as held:
        one.bind(("", 0))
        held.bind(("", 0))
        numbers = [held.getsockname()[1], one.getsockname()[1]]
        free = ports.free_port()
        drawn = iter([*numbers, free])
        monkeypatch.setattr(ports.random.SystemRandom, "randrange", lambda *_: next(drawn))
        assert ports.free_port() == free
        monkeypatch.setattr(ports.random.SystemRandom, "randrange", lambda *_: numbers[0])
        with pytest.raises(RunError, match=r"^no free port from 20000 on after 1000 attempts"):
            ports.free_port()


def test_a_machine_that_does_not_tell_its_range_has_the_usual_one(monkeypatch, tmp_path):
    monkeypatch.setattr(ports, "RANGE", tmp_path / "absent")
    assert ports.first_of_outgoing() == 32_768
