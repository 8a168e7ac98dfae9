from __future__ import annotations

import json
from dataclasses import replace

from clickhouse_connect.driver.client import Client

from schemas.arrow import DEAD_LETTERS
from schemas.events import Reason, Reject
from sinks.clickhouse import ClickHouseConfig
from sinks.dead_letters import StoreRejects, dead_letters, reject_rows
from tests.sinks.batches import AT, BROKEN, UNIQUES, events, windows

REJECT = Reject(
    reason=Reason.NOT_JSON,
    detail="byte 3 is not JSON",
    topic="usage-events",
    partition=3,
    offset=41,
    append_ms=1_795_426_200_123,
    key=b"\xffkey",
    payload=b"\x00\xff{not json\n\nDROP TABLE usage_events",
    headers=(("tenant-id", b"\xfe"), ("tenant-id", b"")),
)


def test_a_reject_keeps_the_original_bytes(config: ClickHouseConfig, client: Client) -> None:
    part = dead_letters(config, 1).build_part("dead_letters", "000", None)
    part.write_batch([reject_rows([REJECT])])
    part.write_batch([reject_rows([REJECT, replace(REJECT, offset=42, headers=())])])  # a replay, and more
    part.snapshot()
    part.close()
    rows = client.query(
        "SELECT reason, detail, partition, offset, toUnixTimestamp64Milli(appended_at), "
        "hex(key), hex(payload), headers FROM dead_letters FINAL WHERE topic = 'usage-events' ORDER BY offset"
    ).result_rows
    assert [row[3] for row in rows] == [41, 42]
    assert rows[0][:3] == ("not_json", "byte 3 is not JSON", 3)
    assert rows[0][4] == REJECT.append_ms
    assert bytes.fromhex(rows[0][5]) == REJECT.key
    assert bytes.fromhex(rows[0][6]) == REJECT.payload
    assert json.loads(rows[0][7]) == [["tenant-id", "/g=="], ["tenant-id", ""]]
    assert rows[1][7] == "[]"


def test_no_rejects_are_an_empty_batch() -> None:
    assert reject_rows([]).schema == DEAD_LETTERS


def test_a_refused_event_has_the_place_of_its_record(config: ClickHouseConfig) -> None:
    rows = events("acme", ["a", "b"]).slice(1).to_pylist()
    reject = StoreRejects(config, "usage_events", "usage-events").reject(rows[0], "why")
    assert (reject.topic, reject.partition, reject.offset) == ("usage-events", 0, 1)
    assert reject.append_ms == int(AT.timestamp() * 1000)
    assert json.loads(reject.payload)["id"] == "b"


def test_a_refused_window_has_a_place_of_its_own_that_a_replay_has_again(config: ClickHouseConfig) -> None:
    rejects = StoreRejects(config, "usage_windows")
    bad = {"a": BROKEN, "b": BROKEN}
    rows = windows("acme", ["a", "b"], bad=bad).to_pylist()
    newer = windows("acme", ["a"], bad=bad, version=2).to_pylist()
    first, second, again, later = (rejects.reject(row, "why") for row in [*rows, rows[0], *newer])
    assert (first.topic, first.partition) == ("usage_windows", -1)
    assert first == again
    assert len({first.offset, second.offset, later.offset}) == 3
    assert min(first.offset, second.offset, later.offset) >= 0
    assert json.loads(first.payload)["total"] == "1.500000000000"
    assert UNIQUES != BROKEN
