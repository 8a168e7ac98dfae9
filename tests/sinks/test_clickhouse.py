from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main
from clickhouse_connect.driver.client import Client

from dataflows.embedded import ClickHouse
from schemas.arrow import USAGE_EVENTS, USAGE_WINDOWS
from sinks import metrics
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink, Writer
from sinks.failures import StoreRefuses, StoreUnavailable
from sinks.shards import shard_keys
from tests.sinks.batches import events, eventually, windows


@contextmanager
def writing(
    config: ClickHouseConfig, table: str = "usage_windows", schema: pa.Schema = USAGE_WINDOWS
) -> Iterator[Writer]:
    writer = Writer(config, table, schema)
    try:
        yield writer
    finally:
        writer.close()


def count(client: Client, tenant: str, table: str = "usage_windows") -> int:
    query = f"SELECT count() FROM {table} FINAL WHERE tenant_id = {{tenant:String}}"
    return int(client.query(query, parameters={"tenant": tenant}).result_rows[0][0])


def test_a_flush_returns_when_every_row_is_stored(config: ClickHouseConfig, client: Client) -> None:
    with writing(config) as writer:
        for customer in range(50):
            writer.add(windows("stored", [f"c{customer}"]))
        writer.flush()
        assert count(client, "stored") == 50


def test_batches_with_dictionaries_of_their_own_share_an_insert(
    config: ClickHouseConfig, client: Client
) -> None:
    before = metrics.WRITES.labels("usage_events")._value.get()
    slow = replace(config, insert_interval_ms=60_000)
    with writing(slow, "usage_events", USAGE_EVENTS) as writer:
        for name in ("a", "b", "c"):
            writer.add(events("dictionaries", [f"{name}1", f"{name}2"], event_name=name))
        writer.flush()
    assert metrics.WRITES.labels("usage_events")._value.get() == before + 1
    names = (
        "SELECT event_name, count() FROM usage_events WHERE tenant_id = 'dictionaries' GROUP BY 1 ORDER BY 1"
    )
    assert client.query(names).result_rows == [("a", 2), ("b", 2), ("c", 2)]


def test_an_insert_is_of_at_most_so_many_rows(config: ClickHouseConfig, client: Client) -> None:
    before = metrics.WRITES.labels("usage_windows")._value.get()
    with writing(replace(config, insert_rows_max=10, insert_interval_ms=60_000)) as writer:
        for start in range(0, 40, 4):
            writer.add(windows("pieces", [f"c{start + i}" for i in range(4)]))
        writer.flush()
    assert metrics.WRITES.labels("usage_windows")._value.get() - before >= 5
    assert count(client, "pieces") == 40


def test_rows_wait_for_others_but_a_full_buffer_does_not(config: ClickHouseConfig, client: Client) -> None:
    with writing(replace(config, insert_interval_ms=60_000, insert_rows_max=10)) as writer:
        writer.add(windows("waiting", ["c0"]))
        time.sleep(0.3)
        assert count(client, "waiting") == 0
        writer.add(windows("waiting", [f"c{i}" for i in range(1, 10)]))
        eventually(lambda: count(client, "waiting") == 10)


def test_a_store_that_crashes_and_comes_back_gets_every_row(
    patient: ClickHouseConfig, clickhouse_engine: ClickHouse, client: Client
) -> None:
    retries = metrics.RETRIES.labels("usage_windows")
    before = retries._value.get()
    with writing(patient) as writer:
        for customer in range(100):
            if customer == 30:
                clickhouse_engine.kill()
            if customer == 60:
                eventually(lambda: retries._value.get() > before)
                assert metrics.CIRCUIT_OPEN.labels("usage_windows")._value.get() == 1
                clickhouse_engine.start()
            writer.add(windows("crash", [f"c{customer}"]))
            time.sleep(0.002)
        writer.flush()
    assert count(client, "crash") == 100
    assert metrics.CIRCUIT_OPEN.labels("usage_windows")._value.get() == 0


def test_a_store_that_stays_away_fails_the_flush_and_what_follows(
    config: ClickHouseConfig, clickhouse_engine: ClickHouse
) -> None:
    clickhouse_engine.kill()
    with writing(config) as writer:
        writer.add(windows("away", ["c"]))
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="has not taken 1 rows of usage_windows for 1 s"):
            writer.flush()
        assert 0.9 < time.monotonic() - started < 8
        with pytest.raises(StoreUnavailable):
            writer.add(windows("away", ["c"]))


def test_a_full_buffer_holds_back_until_the_store_is_back(
    patient: ClickHouseConfig, clickhouse_engine: ClickHouse, client: Client
) -> None:
    clickhouse_engine.kill()
    batch = windows("full", [f"c{i}" for i in range(100)])
    with writing(replace(patient, buffer_bytes_max=batch.nbytes)) as writer:
        writer.add(batch)
        second = threading.Thread(target=writer.add, args=(windows("full", ["one more"]),))
        second.start()
        second.join(0.5)
        assert second.is_alive()
        clickhouse_engine.start()
        second.join(20)
        assert not second.is_alive()
        writer.flush()
    assert count(client, "full") == 101


@pytest.mark.parametrize(
    ("url", "table", "sentence"),
    [
        ("{url}", "no_such_table", "run `meterline migrate`"),
        ("{url}_missing", "usage_windows", "the database is not there"),
        ("http://meterline:wrong@{address}/meterline", "usage_windows", "user or password is wrong"),
    ],
)
def test_a_wrong_configuration_ends_at_once(
    patient: ClickHouseConfig, clickhouse_engine: ClickHouse, url: str, table: str, sentence: str
) -> None:
    address = url.format(url=patient.url, address=clickhouse_engine.address)
    with writing(replace(patient, url=address), table) as writer:
        started = time.monotonic()
        writer.add(windows("wrong", ["c"]))
        with pytest.raises(StoreRefuses, match=sentence):
            writer.flush()
        assert time.monotonic() - started < 5


def test_a_batch_of_another_schema_is_refused(config: ClickHouseConfig) -> None:
    """Int64 milliseconds in a DateTime64 column would be the year 9999, without an error (measured)."""
    batch = windows("schema", ["c"])
    index = batch.schema.get_field_index("window_start")
    with writing(config) as writer, pytest.raises(TypeError, match="usage_windows takes"):
        writer.add(batch.set_column(index, "window_start", pa.array([1], pa.int64())))


def test_a_password_is_not_printed(config: ClickHouseConfig) -> None:
    assert config.url not in repr(config)


def flow_into(sink: ClickHouseSink, batches: list[tuple[str, pa.RecordBatch]]) -> Dataflow:
    flow = Dataflow("test_flow")
    stream = op.input("batches", flow, TestingSource(batches, batch_size=1))
    op.output("usage_windows", stream, sink)
    return flow


def test_an_epoch_that_the_store_did_not_take_is_sent_again(
    config: ClickHouseConfig, clickhouse_engine: ClickHouse, client: Client, tmp_path: Path
) -> None:
    batches = [(key, windows("resumed", [f"{key}-{i}" for i in range(3)])) for key in shard_keys(8)]
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]
    sink = ClickHouseSink(config, "usage_windows", USAGE_WINDOWS, 8)

    def run() -> None:
        run_main(  # type: ignore[no-untyped-call]
            flow_into(sink, batches),
            epoch_interval=timedelta(seconds=0),
            recovery_config=RecoveryConfig(tmp_path),  # type: ignore[no-untyped-call]
        )

    clickhouse_engine.kill()
    with pytest.raises(BytewaxRuntimeError) as failed:
        run()
    assert isinstance(failed.value.__cause__, StoreUnavailable)
    clickhouse_engine.start()
    sink = ClickHouseSink(config, "usage_windows", USAGE_WINDOWS, 8)
    run()
    assert count(client, "resumed") == 24
