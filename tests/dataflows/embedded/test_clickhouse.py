"""The embedded ClickHouse answers unmodified clients and keeps what it acknowledged."""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from dataflows.embedded import ClickHouse, EngineError
from tests.dataflows.embedded.clickhouse_clients import INJECTION, curl, refusal


@pytest.mark.parametrize("compress", [False, True, "lz4", "zstd", "gzip"])
def test_every_way_to_insert_and_read_of_clickhouse_connect(
    clickhouse_url: str, numbered: Client, compress: bool | str
) -> None:
    with clickhouse_connect.get_client(dsn=clickhouse_url, compress=compress) as client:
        client.insert("numbered", [[1, "a"], [2, INJECTION]], column_names=["number", "name"])
        client.insert_arrow("numbered", pa.table({"number": range(3, 10_000), "name": ["b"] * 9_997}))
        client.raw_insert(
            "numbered", ["number", "name"], b'{"number": 10000, "name": "c"}\n', fmt="JSONEachRow"
        )
        client.command("INSERT INTO numbered SELECT 10001, {name:String}", parameters={"name": "d"})
        client.command("INSERT INTO numbered VALUES (10002, {name:String})", parameters={"name": "'); e"})
        rows = client.query("SELECT name FROM numbered WHERE name != 'b' ORDER BY number").result_rows
        assert [name for (name,) in rows] == ["a", INJECTION, "c", "d", "'); e"]
        assert client.query_arrow("SELECT * FROM numbered").num_rows == 10_002
        with client.query_arrow_stream("SELECT * FROM numbered") as batches:
            assert sum(batch.num_rows for batch in batches) == 10_002
        assert client.command("EXISTS numbered") == 1


def test_settings_do_not_leak_and_sessions_keep_theirs(clickhouse_url: str) -> None:
    setting = "SELECT getSetting('max_threads')"
    with clickhouse_connect.get_client(dsn=clickhouse_url, session_id="s1") as client:
        client.command("SET max_threads = 7")
        client.command("CREATE TEMPORARY TABLE kept (x UInt8)")
        assert client.command(setting) == 7
        assert client.command("SELECT count() FROM kept") == 0
    with clickhouse_connect.get_client(dsn=clickhouse_url, autogenerate_session_id=False) as client:
        assert client.command(setting, settings={"max_threads": 3}) == 3
        assert client.command(setting) != 3
        assert refusal(client, "SELECT * FROM kept") == 60


def test_external_tables_come_as_a_form(clickhouse: Client) -> None:
    external = clickhouse_connect.driver.external.ExternalData(
        file_name="ids", data=b"1\n2\n", fmt="CSV", structure=["id UInt64"]
    )
    assert clickhouse.query("SELECT sum(id) FROM ids", external_data=external).result_rows == [(3,)]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("columns", [1, 200])
def test_a_result_without_rows_has_its_columns(clickhouse_url: str, compress: bool, columns: int) -> None:
    name = "n" * 200
    some = ", ".join(f"toNullable(number) AS {name}{index}" for index in range(columns))
    with clickhouse_connect.get_client(dsn=clickhouse_url, compress=compress) as client:
        empty = client.query(f"SELECT {some} FROM numbers({{rows:UInt8}})", parameters={"rows": 0})
        assert empty.column_names == tuple(f"{name}{index}" for index in range(columns))
        assert {each.name for each in empty.column_types} == {"Nullable(UInt64)"}
        assert client.query("SHOW TABLES FROM default").column_names == ("name",)


def test_errors_have_clickhouse_codes_even_in_the_middle_of_a_stream(clickhouse: Client) -> None:
    assert refusal(clickhouse, "SELECT * FROM nowhere") == 60
    with pytest.raises(DatabaseError, match="stop here"):
        clickhouse.query("SELECT throwIf(number = 5000000, 'stop here') FROM numbers(6000000)")


def test_it_keeps_time_in_utc_wherever_the_machine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with ClickHouse(tmp_path) as server:
        assert curl(server, "", "-d", "SELECT timezone(), toDateTime(0)") == "UTC\t1970-01-01 00:00:00\n"
        engine = "SELECT engine FROM system.databases WHERE name = 'meterline'"
        assert curl(server, "", "-d", engine) == "Atomic\n"  # refreshable views need it


def test_a_second_process_on_a_directory_is_refused(clickhouse_server: ClickHouse) -> None:
    with pytest.raises(EngineError, match="in use by another ClickHouse process"):
        ClickHouse(clickhouse_server.directory).start()
    with clickhouse_connect.get_client(dsn=clickhouse_server.url) as client:
        assert client.command("SELECT 1") == 1


def test_it_stops_although_a_query_goes_on(tmp_path: Path) -> None:
    with ClickHouse(tmp_path) as server:
        url = urlsplit(server.url)
        slow = "SELECT sum(sleepEachRow(1)) FROM numbers(60) SETTINGS max_block_size = 1"
        command = [
            "curl",
            "-sS",
            "--user",
            f"{url.username}:{url.password}",
            f"http://{server.address}/",
            "-d",
            slow,
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as query:
            time.sleep(0.5)
            started = time.monotonic()
            server.stop()
            assert time.monotonic() - started < 8
            assert query.wait(5) != 0


BATCH_ROWS = 1000


def test_kill_9_amid_inserts_loses_no_acknowledged_batch_and_halves_none(tmp_path: Path) -> None:
    with ClickHouse(tmp_path / "a directory & its 100%?") as server:
        with clickhouse_connect.get_client(dsn=server.url) as client:
            client.command(
                "CREATE TABLE batches (batch UInt64, row UInt64) ENGINE = MergeTree ORDER BY batch"
            )
        acknowledged: list[int] = []
        writer = threading.Thread(target=insert_batches, args=(server.url, acknowledged))
        writer.start()
        while writer.is_alive() and len(acknowledged) < 20:
            time.sleep(0.001)
        server.kill()
        writer.join()
        server.start()
        with clickhouse_connect.get_client(dsn=server.url) as client:
            rows = client.query("SELECT batch, count() FROM batches GROUP BY batch").result_rows
        found = {int(batch): int(count) for batch, count in rows}
        assert set(found.values()) == {BATCH_ROWS}
        assert len(acknowledged) >= 20
        assert set(acknowledged) <= set(found)
        assert len(found) <= len(acknowledged) + 1


def insert_batches(url: str, acknowledged: list[int]) -> None:
    """Insert until the server is gone; a number is appended when its batch is acknowledged."""
    with clickhouse_connect.get_client(dsn=url) as client:
        for batch in itertools.count():
            rows = pa.table({"batch": [batch] * BATCH_ROWS, "row": range(BATCH_ROWS)})
            try:
                client.insert_arrow("batches", rows)
            except DatabaseError:
                return
            acknowledged.append(batch)
