"""Dead letters from a bad event to its repair, by commands alone, on real engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import randbytes
from time import sleep
from urllib.request import urlopen

import pytest

from dataflows.dead_letter_replay import PAGE_ROWS
from dataflows.dead_letters import Selection, hexdump, one_line, parse_place, payload_text
from dataflows.embedded import Engines
from dataflows.exits import UserError
from dataflows.flow_process import Metrics
from schemas.events import Reason
from sql import query
from tests.dataflows.commands import running, wait_for
from tests.dataflows.shop import REPAIRED, Shop, read, reject

NOT_JSON = b"\x00\xff not JSON [/red]"


@pytest.fixture
def shop(engines: Engines, tmp_path: Path) -> Shop:
    return Shop(engines, tmp_path)


def test_an_event_that_was_rejected_counts_once_after_its_cause_is_repaired(shop: Shop) -> None:
    shop.produce([shop.event("good", tokens=50)], partition=0)
    bad = shop.event("bad")
    shop.produce([bad], partition=1, key=b"bob", headers=[("trace", b"\xff7")])
    shop.produce([NOT_JSON], partition=1)
    shop.run()
    assert shop.counted() == 1
    found = shop.found()
    assert found["by_reason"] == {
        "not_json": {"found": 1, "replayed": 0},
        "value_missing": {"found": 1, "replayed": 0},
    }
    [letter] = shop.found("--reason", "value_missing")["dead_letters"]
    assert letter["place"] == f"{shop.topic}/1/0"

    shop.catalog(REPAIRED)
    dry = shop.replay("--reason", "value_missing", "--dry-run")
    assert (dry["sent"], dry["acknowledged"]) == (1, 0)
    sent = shop.replay("--reason", "value_missing")
    assert (sent["found"], sent["sent"], sent["acknowledged"]) == (1, 1, 1)
    copy = read(shop, 1)[-1]
    assert (copy.value(), copy.key()) == (bad, b"bob")
    assert copy.headers() == [("trace", b"\xff7"), ("meterline-replayed-from", letter["place"].encode())]
    marked = shop.replay("--reason", "value_missing")
    assert (marked["sent"], marked["replayed_already"]) == (0, 1)
    again = shop.replay("--reason", "value_missing", "--again")
    assert again["acknowledged"] == 1, "its copy is not read yet: it is for dedupe to drop"
    assert len(read(shop, 1)) == 4

    shop.run()
    assert shop.counted() == 2
    again = shop.replay("--reason", "value_missing", "--again")
    assert (again["sent"], again["counted_already"]) == (0, 1)
    assert shop.found("--reason", "value_missing")["by_reason"]["value_missing"]["replayed"] == 1
    assert f"as {shop.topic}/1/3" in shop.do("dead-letters", "show", letter["place"]).out


def test_an_event_that_is_counted_by_now_is_not_sent(shop: Shop) -> None:
    shop.produce([shop.event("counted", tokens=1)])
    shop.run()
    elsewhere = shop.event("counted").replace(shop.name.encode(), b"another-tenant")
    by_header = json.dumps({**json.loads(shop.event("counted")), "tenant_id": None}).encode()
    shop.store(
        reject(shop, shop.event("counted"), 900),
        reject(shop, by_header, 901, headers=(("tenant-id", shop.name.encode()),)),
        reject(shop, elsewhere, 902),
        reject(shop, shop.event("counted"), 903, topic=f"{shop.name}-account"),
    )
    report = shop.replay("--dry-run")
    assert (report["found"], report["sent"], report["counted_already"]) == (4, 2, 2)


def test_what_is_rejected_again_is_a_dead_letter_of_its_own(shop: Shop) -> None:
    letters = 2 * PAGE_ROWS + 7
    shop.produce([NOT_JSON] * letters, partition=0)
    shop.run()
    assert shop.replay()["acknowledged"] == letters
    shop.run()
    assert shop.found()["by_reason"]["not_json"] == {"found": 2 * letters, "replayed": letters}
    report = shop.replay("--dry-run")
    assert (report["sent"], report["replayed_already"]) == (letters, letters)


def test_a_replay_stops_before_the_dead_letters_that_it_makes(shop: Shop) -> None:
    shop.store(*(reject(shop, b"{}", offset) for offset in range(4)))
    page = {"topic": shop.topic, "partition": 0, "after": 0, "last_offset": 2, "again": 0, "limit": 10}
    with shop.clickhouse() as client:
        found = client.query(query("dead_letters_page"), parameters=Selection().parameters | page)
    assert [row[4] for row in found.result_rows] == [1, 2]


def test_a_row_that_clickhouse_refused_is_not_a_record_to_replay(shop: Shop) -> None:
    shop.store(reject(shop, b"{}", 5, reason=Reason.STORE_REJECTED), reject(shop, b"{}", 6))
    ran = shop.do("dead-letters", "replay")
    assert "replayed 1 of 2 dead letters" in ran.out
    assert "1 are rows that ClickHouse refused, not records" in ran.out


def test_a_replay_that_kafka_does_not_take_is_not_marked(shop: Shop) -> None:
    shop.store(
        reject(shop, randbytes(3_000_000), 1), reject(shop, b"{}", 2), reject(shop, b"{}", 3, partition=9)
    )
    ran = shop.do("dead-letters", "replay", code=1)
    assert "replayed 2 of 3 dead letters; 1 were not acknowledged" in ran.out
    assert "1 times: Broker: Message size too large" in ran.out
    assert shop.replay("--dry-run")["sent"] == 1
    shop.store(reject(shop, b"{}", 4, topic="no-such-topic"))
    assert "has no topic no-such-topic" in shop.do("dead-letters", "replay", code=1).err


def test_only_what_is_selected_is_replayed(shop: Shop) -> None:
    day = datetime(2026, 11, 2, tzinfo=UTC)
    ms = [int((day + timedelta(hours=hour)).timestamp() * 1000) for hour in (0, 12, 24)]
    shop.store(*(reject(shop, b"{}", offset, append_ms=at) for offset, at in enumerate(ms)))
    assert shop.found("--since", "2026-11-02", "--until", "2026-11-03")["found"] == 2
    assert shop.replay("--since", "2026-11-02T12:00:00Z", "--dry-run")["sent"] == 2
    assert shop.replay("--reason", "not_json", "--dry-run")["found"] == 0
    assert shop.do("dead-letters", "list", "--limit", "1").out.endswith("1 of 3 dead letters\n")


def test_a_dead_letter_is_shown_whole_whatever_is_in_it(shop: Shop) -> None:
    escape = b'{"id": "\x1b[2J", "n": 12345678901234567890.10}'
    shop.store(
        reject(shop, NOT_JSON, 1, detail="[/red] \\[bold]", headers=(("tenant-id", b"\xfe"),), key=b"\x00k"),
        reject(shop, escape, 2),
    )
    assert "[/red] \\[bold]" in shop.do("dead-letters", "list").out
    shown = shop.do("dead-letters", "show", f"{shop.topic}/0/1").out
    assert "reason    value_missing: [/red]" in shown
    assert "header    tenant-id: b'\\xfe'" in shown
    assert "key       b'\\x00k'" in shown
    assert "00000000  00 ff 20 6e 6f 74 20 4a" in shown
    assert "\x1b" not in shop.do("dead-letters", "show", f"{shop.topic}/0/2").out
    whole = json.loads(shop.do("dead-letters", "show", "--json", f"{shop.topic}/0/1").out)
    assert whole["payload_base64"] == "AP8gbm90IEpTT04gWy9yZWRd"


def test_what_is_not_there_is_one_sentence(shop: Shop) -> None:
    assert "there is no dead letter at a/0/1" in shop.do("dead-letters", "show", "a/0/1", code=1).err
    assert "no dead letters" in shop.do("dead-letters", "list").out
    wrong = shop.do("dead-letters", "list", "--reason", "bad_luck", code=2).err
    assert "--reason bad_luck: must be one of too_large, not_json" in wrong


def test_too_many_dead_letters_stop_the_flow_until_the_catalog_is_repaired(shop: Shop) -> None:
    shop.settings |= {"METERLINE_DEAD_LETTER_RATIO_RECORDS": "20"}
    shop.produce([shop.event(f"bad-{number}") for number in range(15)], partition=0)
    shop.produce([shop.event(f"good-{number}", tokens=1) for number in range(5)], partition=0)
    ran = shop.do("run", "--until-end", code=1)
    [sentence] = [line for line in ran.err.splitlines() if line.startswith("meterline: ")]
    assert sentence.startswith(
        "meterline: 15 of the last 20 records (75.0%) are dead letters (15 value_missing)"
    )
    assert shop.found()["found"] == 0, "it stops before they are stored"
    shop.catalog(REPAIRED)
    shop.run()
    assert shop.counted() == 20
    assert shop.found()["found"] == 0


def test_a_ceiling_of_one_lets_bad_records_pass(shop: Shop) -> None:
    shop.produce([NOT_JSON] * 20)
    shop.do(
        "run", "--until-end", METERLINE_DEAD_LETTER_RATIO_RECORDS="1", METERLINE_DEAD_LETTER_RATIO_MAX="1"
    )
    assert shop.found()["found"] == 20


def test_the_flow_tells_what_it_counts_and_holds(shop: Shop) -> None:
    event = shop.event("one", tokens=1)
    old = json.loads(shop.event("old", tokens=1)) | {
        "timestamp": (datetime.now(UTC) - timedelta(days=1)).isoformat()
    }
    shop.produce([event, event, json.dumps(old).encode(), NOT_JSON], partition=0)
    log = shop.directory / "run.log"
    with running(shop.settings, log, "run") as process:
        wait_for(log, "is read from offset", process)
        metrics = scrape(shop.settings, meterline_windows_held=2, meterline_accounts_held=1)
    assert metrics.total("meterline_events_counted_total") == 2
    assert metrics.total("meterline_events_repeated_total") == 1
    assert metrics.total("meterline_late_readings_total") == 2, "by two meters"
    assert metrics.by_label("meterline_dead_letters_total", "reason") == {"not_json": 1}
    watermark = metrics.total("meterline_watermark_timestamp_seconds", 'partition="0",topic="' + shop.topic)
    assert abs(datetime.now(UTC).timestamp() - watermark) < 60


def scrape(settings: Mapping[str, str], **wanted: float) -> Metrics:
    """The flow's metrics, once these have their values: each step tells its own when it flushes."""
    totals: dict[str, float] = {}
    for _ in range(300):
        with (
            suppress(OSError),
            urlopen(f"http://127.0.0.1:{settings['METERLINE_METRICS_PORT']}/metrics") as page,
        ):
            metrics = Metrics(page.read().decode())
            totals = {name: metrics.total(name) for name in wanted}
            if totals == wanted:
                return metrics
        sleep(0.1)
    raise AssertionError(f"{totals} never were {wanted}")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"n": 1.10e400, "t": "\xc3\xa9"}', '{\n  "n": 1.10e400,\n  "t": "\u00e9"\n}'),
        (b"not JSON\nbut\ttext", "not JSON\nbut\ttext"),
        (b"\x1b[31mred", "00000000  1b 5b 33 31 6d 72 65 64                          .[31mred"),
        (b"", ""),
        (b"[" * 3000, "[" * 3000),
    ],
)
def test_a_payload_is_text_if_all_of_it_can_be_seen(payload: bytes, text: str) -> None:
    assert payload_text(payload) == text


def test_a_hexdump_has_every_byte() -> None:
    data = bytes(range(256))
    rows = hexdump(data).splitlines()
    assert len(rows) == 16
    assert bytes.fromhex("".join(row[10:57] for row in rows)) == data
    assert rows[4].endswith("@ABCDEFGHIJKLMNO")
    assert one_line(b"\xc3\xa9") == "\u00e9"


@pytest.mark.parametrize("place", ["", "a", "a/1", "a/b/1", "a/1/-1", "/1/1", "a/1/1/1", f"a/{1 << 31}/1"])
def test_a_place_is_topic_partition_offset(place: str) -> None:
    assert parse_place("usage-windows/-1/9") == ("usage-windows", -1, 9)
    with pytest.raises(UserError, match="TOPIC/PARTITION/OFFSET"):
        parse_place(place)
