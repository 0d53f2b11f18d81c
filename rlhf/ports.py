"""Choice of TCP ports that stay free until they are listened on."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from rlhf.types import RunError

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Ports that the system gives to outgoing connections: the first and the last."""
LOWEST = 20_000
"""Ray's workers listen on the ports below."""
USUAL_FIRST = 32_768
"""First port of outgoing connections on Linux, where it cannot be read."""
ATTEMPTS = 1_000


def free_port() -> int:
    """Return a free port of this machine, on all its addresses, that no outgoing connection takes meanwhile.

    A port that the system chooses lies among those it gives to outgoing connections: on a busy machine one of them may
    hold it before it is listened on. Raises RunError if there is none.
    """
    drawn = random.SystemRandom()
    for _ in range(ATTEMPTS):
        port = drawn.randrange(LOWEST, max(first_of_outgoing(), LOWEST + 1_000))
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise RunError(f"no free port from {LOWEST} on after {ATTEMPTS} attempts: end what listens on this machine")


def first_of_outgoing() -> int:
    """Return the first port that the system gives to outgoing connections."""
    try:
        return int(RANGE.read_text().split()[0])
    except (OSError, ValueError):
        return USUAL_FIRST
