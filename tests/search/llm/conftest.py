"""A real HTTP server on the loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.llm import Server


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()
