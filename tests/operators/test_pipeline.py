"""The flow's logic against the oracle: any order of partitions, any polls, any crashes, one result.

A plan is a list of steps: poll a partition, let time pass, snapshot, crash back to the last snapshot. What
was sent before a crash stays in the stores; at the end every record has been read and everything drained.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

import pytest
from confluent_kafka import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataflows.workload import Workload
from dataflows.workload_catalog import workload_catalog
from operators import cell_log, id_log
from operators.hyperloglog import UniqueSketch
from schemas.catalog import load_catalog
from schemas.events import RawBatch
from schemas.records import Record
from tests.operators.pipeline import Pipeline, Stores
from tests.oracle import Expected, LogRecord, expected

START = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
PARTITIONS = 3
EVENTS = 400
RATE = 0.04
"""Events a second: the log spans three hours, so that windows close and ids leave as it is read."""
CATALOG = workload_catalog().replace("allowed_lateness: 1h", "allowed_lateness: 20m")


@dataclass(frozen=True)
class Log:
    """A usage topic, an account topic, and what must come of them."""

    usage: tuple[tuple[LogRecord, ...], ...]
    accounts: tuple[LogRecord, ...]
    truth: Expected


@cache
def log(seed: int) -> Log:
    workload = Workload(seed, start=START, customers=12, rate=RATE, duplicates=0.1, bad=0.05, late=0.1)
    usage: list[list[LogRecord]] = [[] for _ in range(PARTITIONS)]
    for number, event in enumerate(workload.events(EVENTS)):
        partition = zlib.crc32(event.key) % PARTITIONS
        records = usage[partition]
        append_ms = START_MS + round(number * 1000 / RATE) + 5
        records.append(
            LogRecord(
                "usage-events",
                partition,
                len(records),
                append_ms,
                event.key,
                event.value,
                tuple(event.headers),
            )
        )
    accounts = tuple(
        LogRecord("account-events", 0, offset, START_MS, event.key, event.value, tuple(event.headers))
        for offset, event in enumerate(workload.account_events())
    )
    truth = expected([*accounts, *(record for records in usage for record in records)], CATALOG)
    return Log(tuple(map(tuple, usage)), accounts, truth)


def messages(records: Iterable[LogRecord]) -> list[Record]:
    return [
        cast(
            "Record",
            Message(
                value=one.value,
                key=one.key,
                offset=one.offset,
                timestamp=(2, one.append_ms),
                headers=cast("list[tuple[str, str | bytes | None]]", list(one.headers)),
            ),
        )
        for one in records
    ]


class Run:
    """The pipeline on a log, with the offsets that a recovery store would keep beside its state."""

    def __init__(self, source: Log) -> None:
        self.log = source
        self.pipeline = Pipeline(load_catalog(CATALOG), START, shards=4)
        self.offsets = [0] * (PARTITIONS + 1)
        self.crashes = 0
        self.snapshot()

    def poll(self, partition: int, count: int) -> None:
        """Read up to `count` records; none is a heartbeat."""
        batch = self.read(partition, count)
        if partition < PARTITIONS:
            self.pipeline.poll(batch)
        else:
            self.pipeline.poll_accounts(batch)

    def poll_together(self, count: int) -> None:
        """Read every partition at once, as a process with several does."""
        self.pipeline.poll(*(self.read(partition, count) for partition in reversed(range(PARTITIONS))))

    def read(self, partition: int, count: int) -> RawBatch:
        is_usage = partition < PARTITIONS
        log_ = self.log.usage[partition] if is_usage else self.log.accounts
        start = self.offsets[partition]
        records = log_[start : start + count]
        self.offsets[partition] += len(records)
        if records:
            progress_ms = records[-1].append_ms
        elif start < len(log_):
            progress_ms = log_[start].append_ms
        else:
            progress_ms = START_MS + round(EVENTS * 1000 / RATE)
        if is_usage:
            return RawBatch("usage-events", partition, messages(records), progress_ms, PARTITIONS)
        return RawBatch("account-events", 0, messages(records), progress_ms, 1)

    def snapshot(self) -> None:
        self.saved = self.pipeline.snapshot(), list(self.offsets)

    def crash(self) -> None:
        self.crashes += 1
        self.pipeline.resume(self.saved[0])
        self.offsets = list(self.saved[1])

    def finish(self) -> Stores:
        for partition in range(PARTITIONS + 1):
            self.poll(partition, EVENTS)
            self.poll(partition, 0)
        self.pipeline.tick(60)
        return self.pipeline.drain()


Step = tuple[str, int, int]
steps = st.one_of(
    st.tuples(st.just("poll"), st.integers(0, PARTITIONS), st.sampled_from([0, 1, 2, 10, 40, 100])),
    st.tuples(st.just("poll"), st.integers(0, PARTITIONS), st.sampled_from([10, 40, 100])),
    st.tuples(st.just("together"), st.just(0), st.sampled_from([0, 1, 10, 40])),
    st.tuples(st.sampled_from(["tick", "snapshot", "crash"]), st.just(0), st.sampled_from([0, 1, 100])),
)
ALL_OF_ONE_FIRST: list[Step] = [
    ("poll", 0, EVENTS),
    ("tick", 0, 1),
    ("snapshot", 0, 0),
    ("poll", 1, EVENTS),
    ("crash", 0, 0),
    ("poll", 2, EVENTS),
    ("poll", 2, 0),
    ("tick", 0, 1),
]
IN_TURNS: list[Step] = [
    step
    for turn in range(12)
    for step in [
        *(("poll", partition, 12) for partition in range(PARTITIONS)),
        ("tick", 0, 1),
        *([("snapshot", 0, 0)] if turn % 4 == 1 else []),
        ("together", 0, 5),
        *([("crash", 0, 0)] if turn % 4 == 3 else []),
    ]
]


UNSENT_AT_A_CRASH: list[Step] = [("together", 0, EVENTS), ("snapshot", 0, 0), ("crash", 0, 0)]


def run(source: Log, plan: Iterable[Step]) -> Stores:
    running = Run(source)
    for kind, partition, count in plan:
        if kind == "poll":
            running.poll(partition, count)
        elif kind == "together":
            running.poll_together(count)
        elif kind == "tick":
            running.pipeline.tick(count)
        elif kind == "snapshot":
            running.snapshot()
        else:
            running.crash()
    return running.finish()


@pytest.fixture(params=["whole", "in files"], autouse=True)
def small_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in files":
        monkeypatch.setattr(cell_log, "CELLS_MIN", 3)
        monkeypatch.setattr(id_log, "RUN_IDS", 5)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2), st.lists(steps, max_size=40))
@example(0, ALL_OF_ONE_FIRST)
@example(1, IN_TURNS)
@example(2, UNSENT_AT_A_CRASH)
def test_any_order_polls_and_crashes_give_what_the_oracle_says(seed: int, plan: list[Step]) -> None:
    source = log(seed)
    stores = run(source, plan)
    assert content(stores) == truth(source.truth)


def content(stores: Stores) -> dict[str, dict[Any, Any]]:
    """What the stores hold, in the oracle's terms."""
    return {
        "rejects": {place: str(reject.reason) for place, reject in stores.rejects.items()},
        "events": dict.fromkeys(stores.events),
        "windows": {
            place: (row["events"], row["total"], UniqueSketch.from_state(row["uniques"]).count())
            for place, row in stores.windows.items()
        },
        "late": {
            (("usage-events", row["partition"], row["offset"]), row["meter_id"]): (row["id"], row["value"])
            for row in stores.late.values()
        },
        "charges": {
            (tenant, customer, meter, period, plan): (
                row["events"],
                row["quantity"],
                row["amount_unrounded"],
                row["amount"],
            )
            for (tenant, customer, period, meter, plan), row in stores.charges.items()
        },
        "wallets": {
            place: (row.balance, row.unpaid_invoices, row.usage, row.available)
            for place, row in stores.wallets.items()
        },
    }


def truth(found: Expected) -> dict[str, dict[Any, Any]]:
    return {
        "rejects": found.rejects,
        "events": dict.fromkeys((one.tenant_id, one.id, one.timestamp) for one in found.events.values()),
        "windows": {place: (one.events, one.total, len(one.uniques)) for place, one in found.windows.items()},
        "late": {place: (one.event.id, one.value) for place, one in found.late.items()},
        "charges": {
            place: (one.events, one.quantity, one.amount_unrounded, one.amount)
            for place, one in found.charges.items()
        },
        "wallets": {
            place: (one.balance, one.unpaid_invoices, one.usage, one.available)
            for place, one in found.wallets.items()
        },
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_log_has_what_may_go_wrong(seed: int) -> None:
    """Repeats within and beyond the horizon, late and bad events, windows that close while it is read."""
    source = log(seed)
    found = source.truth
    records = [record for records in source.usage for record in records]
    ids = [(one.tenant_id, one.id) for one in found.events.values()]
    assert len(found.duplicates) > 3
    assert len(ids) - len(set(ids)) > 3, "came back after the horizon"
    assert len(found.late) > 20
    assert len(set(found.rejects.values())) > 5
    assert max(record.append_ms for record in records) - START_MS > 2 * 3_600_000
    assert found.charges
    assert any(wallet.unpaid_invoices for wallet in found.wallets.values())


def test_a_late_event_counts_in_its_bill_and_an_id_past_the_horizon_twice_in_both() -> None:
    stores, found = run(log(2), IN_TURNS), log(2).truth
    windows = [row for row in stores.windows.values() if row["meter_id"] == "api-requests"]
    late = [row for row in stores.late.values() if row["meter_id"] == "api-requests"]
    charged = [row for row in stores.charges.values() if row["meter_id"] == "api-requests"]
    through = [one for one in found.events.values() if one.event_name == "api_request"]
    assert late
    counted = sum(row["events"] for row in windows) + len(late)
    assert counted == sum(row["events"] for row in charged) == len(through)
    # The raw table keeps one row of each: so `reconcile` finds what the horizon let through again.
    raw = [row for row in stores.events.values() if row["event_name"] == "api_request"]
    assert len(raw) == len({(one.tenant_id, one.id) for one in through}) < counted
