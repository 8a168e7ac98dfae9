"""The embedded ClickHouse guards the machine: who may ask and read what, and that data is never SQL."""

from __future__ import annotations

import itertools
import socket
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from dataflows.embedded import ClickHouse
from dataflows.embedded.clickhouse_body import REQUEST_BYTES_MAX
from tests.dataflows.embedded.clickhouse_clients import INJECTION, curl, refusal


@pytest.fixture(scope="module")
def analyst(clickhouse_server: ClickHouse) -> Iterator[Client]:
    with clickhouse_connect.get_client(dsn=clickhouse_server.readonly_url) as client:
        yield client


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
