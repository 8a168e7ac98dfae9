"""ClickHouse's own engine, in this process, to compare hashes and sketches with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import chdb
import pytest

SETTINGS = "max_query_size = 10000000, max_threads = 1, query_plan_remove_redundant_sorting = 0"
"""Long literals, and rows aggregated in the order that a subquery gives them."""


@pytest.fixture(scope="module")
def rowbinary() -> Iterator[Callable[[str], bytes]]:
    """Runs a query and returns RowBinary, in which the state of an aggregate is just its bytes."""
    connection = chdb.connect(":memory:")  # type: ignore[no-untyped-call]

    def query(sql: str) -> bytes:
        result: bytes = connection.query(f"{sql} SETTINGS {SETTINGS}", "RowBinary").bytes()
        return result

    yield query
    connection.close()
