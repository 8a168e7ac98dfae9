"""The tables are the Arrow schemas, replays collapse, and the view `usage` merges windows exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

import sql
from schemas import arrow

TABLES: dict[str, pa.Schema] = {
    "usage_events": arrow.USAGE_EVENTS,
    "usage_windows": arrow.USAGE_WINDOWS,
    "late_readings": arrow.LATE_READINGS,
    "usage_charges": arrow.USAGE_CHARGES,
    "dead_letters": arrow.DEAD_LETTERS,
}
EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
LARGEST: dict[pa.DataType, Any] = {
    arrow.QUANTITY: Decimal("99999999999999999999999999.999999999999"),
    arrow.AMOUNT: Decimal("-9999999999999999999999999999999999999999999999999999.999999999999999999999999"),
    arrow.TIMESTAMP_MS: datetime(2020, 2, 29, 23, 59, 59, 123_000, tzinfo=UTC),
    arrow.TIMESTAMP_S: datetime(2020, 2, 29, 23, 59, 59, tzinfo=UTC),
    arrow.NAME: "ünï'\\\n\n;DROP TABLE usage_events",
    pa.string(): '{"a": "\\n\n\nDROP TABLE usage_events"}',
    pa.binary(): bytes(range(256)),
    pa.int32(): 2**31 - 1,
    pa.int64(): 2**63 - 1,
    pa.uint32(): 2**32 - 1,
    pa.uint64(): 2**64 - 1,
}
"""A value at the edge of each type; long before every TTL, too."""


def state(client: Client, *values: str) -> bytes:
    """The uniqCombined64 state of some values, made by ClickHouse."""
    made = "SELECT CAST(arrayReduce('uniqCombined64State', {values:Array(String)}) AS String) AS state"
    column = client.query_arrow(made, parameters={"values": list(values)}, use_strings=False).column(0)
    found = column[0].as_py()
    assert isinstance(found, bytes)
    return found


def edge_row(client: Client, schema: pa.Schema) -> dict[str, Any]:
    row = {field.name: LARGEST[field.type] for field in schema}
    return row | ({"uniques": state(client, "a", "b")} if "uniques" in row else {})


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_the_columns_of_its_arrow_schema(clickhouse: Client, table: str) -> None:
    names = clickhouse.query(
        f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{table}'"
    )
    assert [name for (name,) in names.result_rows] == TABLES[table].names


@pytest.mark.parametrize("table", TABLES)
def test_every_type_at_its_edge_comes_back_as_it_went(clickhouse: Client, table: str) -> None:
    schema = TABLES[table]
    row = edge_row(clickhouse, schema)
    clickhouse.insert_arrow(table, pa.Table.from_pylist([row], schema=schema))
    columns = ", ".join(
        f"CAST({name} AS String) AS {name}" if name == "uniques" else f"`{name}`" for name in row
    )
    read = clickhouse.query_arrow(f"SELECT {columns} FROM {table}", use_strings=False).to_pylist()
    assert [{name: as_sent(value) for name, value in each.items()} for each in read] == [
        {name: as_sent(value) for name, value in row.items()}
    ]


def as_sent(value: object) -> object:
    """Strings arrive as bytes, and a DateTime as seconds."""
    if isinstance(value, datetime):
        return value.timestamp()
    return value.encode() if isinstance(value, str) else value


@pytest.mark.parametrize("table", TABLES)
def test_a_row_sent_twice_counts_once(clickhouse: Client, table: str) -> None:
    row = edge_row(clickhouse, TABLES[table])
    for _ in range(2):
        clickhouse.insert_arrow(table, pa.Table.from_pylist([row], schema=TABLES[table]))
    assert clickhouse.command(f"SELECT count() FROM {table} FINAL") == 1


def window(minute: int, **columns: Any) -> dict[str, Any]:
    return {
        "tenant_id": "acme",
        "meter_id": "tokens",
        "external_customer_id": "cust",
        "window_start": EPOCH + timedelta(minutes=minute),
        "window_s": 60,
        "events": 3,
        "total": Decimal("0.1"),
        "version": 3,
    } | columns


@pytest.fixture(scope="module")
def windows(clickhouse: Client) -> Client:
    """Four minutes of one customer, a fifth after them, other tenants and meters beside them."""
    rows = [window(minute, uniques=state(clickhouse, "shared", f"user {minute}")) for minute in range(5)]
    empty = state(clickhouse)
    rows += [
        window(0, version=2, events=999, uniques=empty),  # an older version, sent again
        window(0, tenant_id="other", uniques=empty),
        window(0, meter_id="other", uniques=empty),
        window(0, external_customer_id="big", events=2, total=LARGEST[arrow.QUANTITY], uniques=empty),
        window(1, external_customer_id="big", events=1, total=LARGEST[arrow.QUANTITY], uniques=empty),
        window(0, external_customer_id="negative", events=3, total=Decimal(-2), uniques=empty),
    ]
    for row in rows:
        clickhouse.insert_arrow("usage_windows", pa.Table.from_pylist([row], schema=arrow.USAGE_WINDOWS))
    return clickhouse


LITERAL = "usage(tenant='acme', meter='tokens', since='{since}', until='{until}', step={step})"
BOUND = (
    "usage(tenant={tenant:String}, meter={meter:String}, "
    "since={since:String}, until={until:String}, step={step:UInt32})"
)


def usage(client: Client, customer: str, since: str, until: str, step: int, *, bound: bool) -> list[Any]:
    arguments = {"tenant": "acme", "meter": "tokens", "since": since, "until": until, "step": step}
    source = BOUND if bound else LITERAL.format(**arguments)
    rows = client.query(
        f"SELECT window_start, events, total, average, uniques FROM {source} "
        f"WHERE external_customer_id = '{customer}' ORDER BY window_start",
        parameters=arguments if bound else None,
    ).result_rows
    return [(start.replace(tzinfo=UTC) - EPOCH, *rest) for start, *rest in rows]


@pytest.mark.parametrize("bound", [False, True], ids=["literal", "bound"])
def test_usage_merges_windows_to_any_step(windows: Client, bound: bool) -> None:
    hour = usage(windows, "cust", "2026-11-01 00:00:00", "2026-11-01 00:04:00", 3600, bound=bound)
    third = Decimal("0.033333333333")
    assert hour == [(timedelta(0), 12, Decimal("0.4"), third, 5)]
    two_minutes = usage(windows, "cust", "2026-11-01 00:00:00", "2026-11-01 00:04:00", 120, bound=bound)
    assert two_minutes == [
        (timedelta(0), 6, Decimal("0.2"), third, 3),
        (timedelta(minutes=2), 6, Decimal("0.2"), third, 3),
    ]


@pytest.mark.parametrize("bound", [False, True], ids=["literal", "bound"])
def test_usage_since_is_inclusive_and_until_exclusive(windows: Client, bound: bool) -> None:
    rows = usage(windows, "cust", "2026-11-01 00:01:00", "2026-11-01 00:03:00", 60, bound=bound)
    assert [start for start, *_ in rows] == [timedelta(minutes=1), timedelta(minutes=2)]


def test_usage_does_not_wrap_around_where_decimal_38_would(windows: Client) -> None:
    [(_, events, total, average, _)] = usage(
        windows, "big", "2026-11-01 00:00:00", "2026-11-02 00:00:00", 86400, bound=False
    )
    assert (events, total) == (3, Decimal("199999999999999999999999999.999999999998"))
    assert average == Decimal("66666666666666666666666666.666666666666")


def test_usage_cuts_an_average_off_towards_zero(windows: Client) -> None:
    [(_, _, _, average, _)] = usage(
        windows, "negative", "2026-11-01 00:00:00", "2026-11-02 00:00:00", 60, bound=False
    )
    assert average == Decimal("-0.666666666666")


def test_migrations_are_numbered_without_a_gap_and_named_like_their_tables() -> None:
    assert [each.number for each in sql.migrations()] == list(range(1, len(sql.migrations()) + 1))
    assert {each.name for each in sql.migrations()} >= set(TABLES)


def test_a_file_is_split_at_line_ends_and_its_checksum_sees_every_byte() -> None:
    split = sql.migration(1, "t", "SELECT ';';\n-- why\nSELECT 2;  \n")
    assert split.statements == ("SELECT ';'", "-- why\nSELECT 2")
    assert split.checksum != sql.migration(1, "t", "SELECT ';';\n-- Why\nSELECT 2;  \n").checksum


def test_an_unknown_query_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="migrations_applied"):
        sql.query("no_such_query")
