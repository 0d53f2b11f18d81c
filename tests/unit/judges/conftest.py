"""A chat endpoint for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.judges.server import Server, running


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as each:
        yield each
