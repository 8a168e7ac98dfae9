"""Engines of one crash test alone, with the flow's topics and tables: it may kill and empty them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dataflows.embedded import Engines, engines
from tests.e2e.job import RUNNING, prepare


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Engines]:
    with engines(tmp_path / "engines") as running:
        prepare(running)
        yield running


@pytest.fixture(autouse=True)
def no_flow_outlives_its_test() -> Iterator[None]:
    """A test that fails leaves its flow running, which would go on looking for engines that are gone."""
    yield
    while RUNNING:
        process = RUNNING.pop()
        process.kill()
        process.wait()
