from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import ClickHouseConfig
from sinks.dead_letters import StoreRejects
from sinks.failures import StoreRefuses, StoreUnavailable
from sinks.inserts import Inserter
from tests.sinks.batches import AT, BROKEN, CUT, windows


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def inserter(config: ClickHouseConfig, stop: threading.Event) -> Iterator[Inserter]:
    config = replace(config, retry_deadline_s=10.0, rejected_rows_max=4)
    inserter = Inserter(config, "usage_windows", StoreRejects(config, "usage_windows"), stop)
    yield inserter
    inserter.close()


def table(tenant: str, rows: int, bad: dict[str, bytes]) -> pa.Table:
    return pa.Table.from_batches([windows(tenant, [f"c{i}" for i in range(rows)], bad=bad)])


def stored(client: Client, tenant: str) -> int:
    query = "SELECT count() FROM usage_windows FINAL WHERE tenant_id = {tenant:String}"
    return int(client.query(query, parameters={"tenant": tenant}).result_rows[0][0])


def dead(client: Client, tenant: str) -> list[tuple[str, str, int, str]]:
    """Customer, topic, partition and detail of each refused row of a tenant."""
    query = (
        "SELECT payload, topic, partition, detail FROM dead_letters FINAL "
        "WHERE reason = 'store_rejected' AND JSONExtractString(payload, 'tenant_id') = {tenant:String}"
    )
    rows = client.query(query, parameters={"tenant": tenant}).result_rows
    return sorted((json.loads(row[0])["external_customer_id"], *row[1:]) for row in rows)


def test_bad_rows_among_good_ones_are_dead_letters_and_the_good_ones_are_stored(
    inserter: Inserter, client: Client
) -> None:
    bad = {"c0": BROKEN, "c501": CUT, "c502": BROKEN, "c999": BROKEN}
    inserter.insert(table("bisected", 1000, bad))
    assert stored(client, "bisected") == 996
    letters = dead(client, "bisected")
    assert [letter[0] for letter in letters] == ["c0", "c501", "c502", "c999"]
    assert {letter[1:3] for letter in letters} == {("usage_windows", -1)}
    assert "trailing byte" in letters[0][3]


def test_a_replay_of_bad_rows_makes_no_second_dead_letter(inserter: Inserter, client: Client) -> None:
    rows = table("bad-again", 5, {"c1": BROKEN, "c2": BROKEN})
    inserter.insert(rows)
    inserter.insert(rows)
    assert stored(client, "bad-again") == 3
    assert [letter[0] for letter in dead(client, "bad-again")] == ["c1", "c2"]


def test_a_table_that_refuses_everything_ends_the_process(inserter: Inserter, client: Client) -> None:
    bad = {f"c{i}": BROKEN for i in range(64)}
    with pytest.raises(StoreRefuses, match="refuses more rows of usage_windows at once than can be bad"):
        inserter.insert(table("all-bad", 64, bad))
    assert len(dead(client, "all-bad")) == 4


def test_imported_history_may_span_more_months_than_a_server_usually_takes(
    inserter: Inserter, client: Client
) -> None:
    batch = windows("history", [f"c{i}" for i in range(120)])
    starts = pa.array([int(AT.timestamp()) + i * 31 * 86_400 for i in range(120)]).cast(
        pa.timestamp("s", "UTC")
    )
    index = batch.schema.get_field_index("window_start")
    batch = batch.set_column(index, batch.schema.field(index), starts)
    inserter.insert(pa.Table.from_batches([batch]))
    assert stored(client, "history") == 120


def test_a_stopped_inserter_does_not_wait_for_its_deadline(
    config: ClickHouseConfig, stop: threading.Event
) -> None:
    nowhere = replace(config, url="http://127.0.0.1:9/meterline", retry_deadline_s=600.0)
    inserter = Inserter(nowhere, "usage_windows", None, stop)
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        inserter.insert(table("stopped", 1, {}))
