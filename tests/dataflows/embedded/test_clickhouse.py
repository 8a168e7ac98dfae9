"""The embedded ClickHouse answers unmodified clients, keeps what it acknowledged, and guards the machine."""

from __future__ import annotations

import itertools
import socket
import stat
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from dataflows.embedded import ClickHouse, EngineError
from dataflows.embedded.clickhouse_body import REQUEST_BYTES_MAX

INJECTION = "x\n\nDROP TABLE numbered\n\n"
"""chdb's query() runs what follows an empty line of inline data as SQL."""


@pytest.fixture
def numbered(clickhouse: Client) -> Client:
    clickhouse.command(
        "CREATE OR REPLACE TABLE numbered (number UInt64, name String) ENGINE = MergeTree ORDER BY number"
    )
    return clickhouse


@pytest.fixture(scope="module")
def analyst(clickhouse_server: ClickHouse) -> Iterator[Client]:
    with clickhouse_connect.get_client(dsn=clickhouse_server.readonly_url) as client:
        yield client


def refusal(client: Client, statement: str) -> int | None:
    with pytest.raises(DatabaseError) as refused:
        client.command(statement)
    return refused.value.code


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


def curl(server: ClickHouse, *arguments: str, password: str | None = None) -> str:
    url = urlsplit(server.url)
    user = f"{url.username}:{url.password if password is None else password}"
    command = ["curl", "-sS", "--user", user, f"http://{server.address}/{arguments[0]}", *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_curl_can_ask(clickhouse_server: ClickHouse) -> None:
    assert (
        curl(clickhouse_server, "?database=meterline", "-d", "SELECT currentDatabase(), 1 + 1")
        == "meterline\t2\n"
    )
    assert curl(clickhouse_server, "?query=SELECT%201&default_format=JSONEachRow") == '{"1":1}\n'
    assert curl(clickhouse_server, "?param_x=%27", "-d", "SELECT {x:String} FORMAT CSV") == '"\'"\n'


@pytest.mark.parametrize("arguments", [("",), ("?user=meterline&password=",), ("?query=SELECT%201",)])
def test_curl_needs_the_password(clickhouse_server: ClickHouse, arguments: tuple[str, ...]) -> None:
    code = ["-o", "/dev/null", "-w", "%{http_code} %header{x-clickhouse-exception-code}"]
    assert curl(clickhouse_server, *arguments, *code, password="wrong") == "401 516"
    assert curl(clickhouse_server, *arguments, *code, "-u", "nobody:", "-d", "SELECT 1") == "401 516"


def test_a_wrong_password_is_refused(clickhouse_server: ClickHouse) -> None:
    with pytest.raises(DatabaseError) as refused:
        clickhouse_connect.get_client(
            host="127.0.0.1", port=clickhouse_server.port, username="meterline", password=""
        )
    assert refused.value.code == 516


def test_only_this_machine_can_connect(clickhouse_server: ClickHouse) -> None:
    with pytest.raises(OSError, match=r"refused|unreachable|assign"):
        socket.create_connection(("127.0.0.2", clickhouse_server.port), timeout=5)


def test_the_passwords_are_the_owners_alone_and_stay(clickhouse_server: ClickHouse) -> None:
    for name in ("password", "readonly-password"):
        file = clickhouse_server.directory / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(file.read_text()) == 32
    again = ClickHouse(clickhouse_server.directory, clickhouse_server.port)
    assert (again.url, again.readonly_url) == (clickhouse_server.url, clickhouse_server.readonly_url)
    assert clickhouse_server.url != clickhouse_server.readonly_url


def test_an_analyst_reads_and_nothing_else(analyst: Client, clickhouse: Client) -> None:
    database = clickhouse.command("SELECT currentDatabase()")
    assert analyst.command(f"SELECT count() FROM {database}.usage_events") == 0
    for statement in (
        f"INSERT INTO {database}.migrations VALUES (7, '', '', now())",
        f"INSERT INTO {database}.migrations SELECT 7, '', '', now()",
        f"DROP TABLE {database}.usage_events",
        "CREATE TABLE made (x UInt8) ENGINE = Memory",
        "SET max_threads = 1",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT * FROM url('http://127.0.0.1:1/', 'TSV', 'x String')",
        "SELECT * FROM sqlite('/etc/passwd', 't')",
        "SELECT * FROM executable('id', 'TSV', 'x String')",
    ):
        assert refusal(analyst, statement) == 164, statement


def test_an_analyst_has_the_usage_view(analyst: Client, clickhouse: Client) -> None:
    view = f"{clickhouse.command('SELECT currentDatabase()')}.usage"
    period = "since='2026-11-01 00:00:00', until='2026-12-01 00:00:00', step=3600"
    assert analyst.query(f"SELECT * FROM {view}(tenant='acme', meter='m', {period})").result_rows == []
    bound = f"SELECT * FROM {view}(tenant={{tenant:String}}, meter='m', {period})"
    names = analyst.query(bound, parameters={"tenant": "acme"}).column_names
    assert names == ("external_customer_id", "window_start", "events", "total", "average", "uniques")


@pytest.mark.parametrize(
    "expression",
    [
        "SELECT file('/etc/passwd')",
        "SELECT `\\x66ile`('/etc/passwd')",
        "SELECT * APPLY(file) FROM (SELECT '/etc/passwd')",
        "SELECT arrayMap(FILE, ['/etc/passwd'])",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "EXPLAIN SELECT file('/etc/passwd')",
        "SELECT * FROM Python(server)",
    ],
)
def test_an_analyst_cannot_read_this_machines_files(analyst: Client, expression: str) -> None:
    assert refusal(analyst, expression) == 497
    assert analyst.command("SELECT {word:String}", parameters={"word": "file"}) == "file"


@pytest.mark.parametrize(
    "statement",
    ["SELECT 1 INTO OUTFILE '{}'", "SELECT 1 INTO/**/outfile '{}'", "SELECT 1;\nSELECT 2 INTO\nOUTFILE '{}'"],
)
def test_nobody_writes_this_machines_files(
    clickhouse: Client, analyst: Client, tmp_path: Path, statement: str
) -> None:
    target = tmp_path / "written"
    for client in (clickhouse, analyst):
        assert refusal(client, statement.format(target)) == 48
    assert not target.exists()


def test_nobody_reads_files_with_infile(numbered: Client) -> None:
    assert refusal(numbered, "INSERT INTO numbered FROM INFILE '/etc/passwd' FORMAT TSV") in (48, 62)


def post(server: ClickHouse, body: bytes, parameters: str = "") -> bytes:
    url = urlsplit(server.url)
    head = {"X-ClickHouse-User": str(url.username), "X-ClickHouse-Key": str(url.password)}
    with urlopen(
        Request(f"http://{server.address}/?{parameters}", data=body, headers=head), timeout=60
    ) as answer:
        content = answer.read()
    assert isinstance(content, bytes)
    return content


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {} FORMAT RawBLOB\n",
        "-- why\nINSERT INTO {} (name) FORMAT RawBLOB\n",
        "/* why */ insert into table {} (`name`) SETTINGS async_insert = 0 format RawBLOB\n",
    ],
)
def test_data_is_never_run_as_sql(clickhouse_server: ClickHouse, numbered: Client, statement: str) -> None:
    database = numbered.command("SELECT currentDatabase()")
    numbered.command("CREATE OR REPLACE TABLE blobs (name String) ENGINE = MergeTree ORDER BY name")
    post(clickhouse_server, statement.format("blobs").encode() + INJECTION.encode(), f"database={database}")
    assert numbered.query("SELECT name FROM blobs").result_rows == [(INJECTION,)]
    assert numbered.command("EXISTS numbered") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "WITH 1 AS one INSERT INTO numbered (name) FORMAT CSV\n",
        "INSERT INTO numbered SELECT * FROM input('number UInt64, name String') FORMAT CSV\n",
        "INSERT INTO numbered (* EXCEPT (number)) FORMAT CSV\n",
    ],
)
def test_an_insert_that_cannot_be_told_from_its_data_is_refused(numbered: Client, statement: str) -> None:
    assert refusal(numbered, statement + INJECTION) in (48, 62)
    assert numbered.command("EXISTS numbered") == 1


def test_the_kafka_engine_is_refused_because_it_would_end_the_directory(clickhouse: Client) -> None:
    assert (
        refusal(clickhouse, "CREATE TABLE queue (x String) ENGINE = Kafka('a:1', 't', 'g', 'JSONEachRow')")
        == 48
    )


def test_a_body_over_the_limit_is_refused_sent_or_grown(numbered: Client) -> None:
    part = b"0" * (1 << 20)
    too_many = REQUEST_BYTES_MAX // len(part) + 1
    packer = zlib.compressobj(1, wbits=31)
    bomb = b"".join(packer.compress(part) for _ in range(too_many)) + packer.flush()
    with pytest.raises(DatabaseError) as grown:
        numbered.raw_insert("numbered", ["name"], bomb, fmt="RawBLOB", compression="gzip")
    with pytest.raises(DatabaseError) as sent:
        numbered.raw_insert("numbered", ["name"], itertools.repeat(part, too_many), fmt="RawBLOB")  # type: ignore[arg-type]
    assert (grown.value.code, sent.value.code) == (307, 307)


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
