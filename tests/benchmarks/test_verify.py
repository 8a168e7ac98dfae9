"""What benchmarks find in the stores: distinct counts on both sides of the line where they are estimated."""

from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from benchmarks import truth
from benchmarks.catalog import LLM, TENANT
from benchmarks.verify import _compare_windows
from operators.cityhash import city_hash64
from operators.hyperloglog import UniqueSketch
from operators.texts import Texts
from schemas.arrow import USAGE_EVENTS, USAGE_WINDOWS
from tests.e2e.stores import Differences

METER, CUSTOMER = "active-users", "cust_000000"
AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


def store(client: Client, users: list[str], uniques: UniqueSketch) -> None:
    common = {"tenant_id": TENANT, "external_customer_id": CUSTOMER}
    raw = [
        common
        | {
            "event_name": LLM,
            "customer_id": "",
            "id": str(number),
            "timestamp": AT,
            "source": "",
            "properties": f'{{"user_id":"{user}"}}',
            "ingested_at": AT,
            "partition": 0,
            "offset": number,
        }
        for number, user in enumerate(users)
    ]
    window = common | {
        "meter_id": METER,
        "window_start": AT,
        "window_s": 60,
        "events": len(users),
        "total": Decimal(0),
        "uniques": uniques.state(),
        "version": len(users),
    }
    for table, rows, schema in (
        ("usage_events", raw, USAGE_EVENTS),
        ("usage_windows", [window], USAGE_WINDOWS),
    ):
        client.command(f"TRUNCATE TABLE {table}")
        client.insert_arrow(table, pa.Table.from_pylist(rows, schema=schema))


def sketch(users: list[str]) -> UniqueSketch:
    of_users = UniqueSketch()
    of_users.add(city_hash64(Texts.of([user.encode() for user in users])))
    return of_users


def users_of(count: int, estimate_max: int) -> list[str]:
    """So many users whose estimate is at most this."""
    for seed in range(1000):
        users = [f"user_{seed}_{number}" for number in range(count)]
        if sketch(users).count() <= estimate_max:
            return users
    raise AssertionError("no such users")


@pytest.mark.parametrize(("count", "estimate_max"), [(4096, 4096), (4100, 4085), (5000, 5100)])
def test_a_distinct_count_is_judged_by_the_exact_one(
    clickhouse: Client, count: int, estimate_max: int
) -> None:
    users = users_of(count, estimate_max)
    cells = {(METER, CUSTOMER, int(AT.timestamp())): truth.Cell(count, Decimal(0), count)}
    found = Differences()
    store(clickhouse, users, sketch(users))
    assert _compare_windows(found, clickhouse, cells) == 1
    assert not found, str(found)

    store(clickhouse, users, sketch(users[: count * 9 // 10]))
    _compare_windows(found, clickhouse, cells)
    assert found
