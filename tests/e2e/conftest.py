"""Engines of one crash test alone, with the flow's topics and tables: it may kill and empty them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dataflows.embedded import Engines, engines
from tests.e2e.job import prepare


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Engines]:
    with engines(tmp_path / "engines") as running:
        prepare(running)
        yield running
