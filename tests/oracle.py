"""What the flow must give, computed from the whole list of Kafka records by the most obvious code possible.

`expected(records, catalog_yaml)` -> rejects, raw rows, windows, late readings, charges, wallets, thresholds.
It shares no code with the flow, not even the catalog's: where both agree, they agree on DESIGN.md section 5.
Rejects come before dedupe, so a rejected event does not take its id and its repair may be sent under it.
Accounts, prices and wallets are judged in tests/oracle_accounts.py, thresholds in tests/oracle_thresholds.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

import yaml

from tests.oracle_accounts import Charge, Wallet, bill
from tests.oracle_events import (
    EPOCH,
    Event,
    LogRecord,
    Position,
    RejectedError,
    Rules,
    canonical,
    from_ms,
    holds_huge_integer,
    read_event,
    read_quantity,
)
from tests.oracle_prices import round_money
from tests.oracle_thresholds import Standing, ThresholdKey

__all__ = [
    "Charge",
    "Event",
    "Expected",
    "LogRecord",
    "Reading",
    "Rules",
    "Wallet",
    "Window",
    "expected",
    "round_money",
]

WINDOW_S = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}

WindowKey = tuple[str, str, str, datetime, int]
"""tenant_id, meter_id, external_customer_id, window_start, window_s"""
ChargeKey = tuple[str, str, str, datetime, str]
"""tenant_id, external_customer_id, meter_id, period_start, plan_id"""
WalletKey = tuple[str, str, str]
"""tenant_id, external_customer_id, currency"""


@dataclass(frozen=True)
class Reading:
    """What one meter makes of one event."""

    meter_id: str
    value: Decimal
    unique: str | None
    event: Event


@dataclass
class Window:
    """One row of `usage_windows`; `uniques` are the canonical texts."""

    events: int = 0
    total: Decimal = Decimal(0)
    uniques: set[str] = field(default_factory=set)


@dataclass
class Expected:
    """All that must be in the stores once every record is read."""

    rejects: dict[Position, str] = field(default_factory=dict)
    duplicates: set[Position] = field(default_factory=set)
    events: dict[Position, Event] = field(default_factory=dict)
    windows: dict[WindowKey, Window] = field(default_factory=lambda: defaultdict(Window))
    late: dict[tuple[Position, str], Reading] = field(default_factory=dict)
    """By position and meter_id."""
    charges: dict[ChargeKey, Charge] = field(default_factory=dict)
    wallets: dict[WalletKey, Wallet] = field(default_factory=lambda: defaultdict(Wallet))
    thresholds: dict[ThresholdKey, Standing] = field(default_factory=dict)


def expected(records: Iterable[LogRecord], catalog_yaml: str, rules: Rules | None = None) -> Expected:
    """Judge every record in partition order, then fold. Raises AssertionError for what it can't judge."""
    rules = rules or Rules()
    catalog = read_catalog(catalog_yaml)
    ordered = sorted(records, key=lambda record: record.position)
    out = Expected()
    counted: list[Reading] = []
    seen: dict[tuple[str, str, str], LogRecord] = {}
    with localcontext(prec=200):
        for record in ordered:
            if record.topic != rules.usage_topic:
                continue
            try:
                event = read_event(record, rules)
                readings = read_meters(event, catalog["meters"])
            except RejectedError as rejected:
                out.rejects[record.position] = str(rejected)
                continue
            if is_repeat(record, event, seen, rules):
                out.duplicates.add(record.position)
                continue
            out.events[record.position] = event
            for reading in readings:
                put_in_window(out, reading, catalog)
            counted += readings
        newest_ms = max((record.append_ms for record in ordered), default=0)
        accounts = [record for record in ordered if record.topic == rules.account_topic]
        bill(out, counted, accounts, catalog, rules.now or from_ms(newest_ms))
    return out


def read_catalog(text: str) -> dict[str, Any]:
    """The YAML as plain dicts, with its numbers exact."""

    class Exact(yaml.SafeLoader):
        pass

    Exact.add_constructor("tag:yaml.org,2002:float", lambda loader, node: Decimal(node.value))
    catalog = yaml.load(text, Exact)  # noqa: S506  # a SafeLoader
    assert isinstance(catalog, dict)
    return catalog


def read_meters(event: Event, meters: list[dict[str, Any]]) -> list[Reading]:
    """The readings of every meter that takes the event; one meter that can't read it rejects it whole."""
    readings = []
    meters = [one for one in meters if one["event_name"] == event.event_name]
    for meter in meters:
        for name in [one["key"] for one in meter.get("filters", [])] + [meter["aggregation"].get("field")]:
            if holds_huge_integer(event.properties.get(name)):
                raise RejectedError("properties_invalid")
    for meter in meters:
        if all(
            canonical(event.properties.get(one["key"])) in [canonical(value) for value in one["values"]]
            for one in meter.get("filters", [])
        ):
            kind, name = meter["aggregation"]["type"], meter["aggregation"].get("field")
            value = event.properties.get(name) if name else None
            if kind == "COUNT":
                readings.append(Reading(meter["id"], Decimal(0), None, event))
            elif kind == "COUNT_UNIQUE":
                if isinstance(value, dict | list):
                    raise RejectedError("value_not_scalar")
                if len((canonical(value) or "").encode()) > 1024:
                    raise RejectedError("value_too_long")
                if value is not None:
                    readings.append(Reading(meter["id"], Decimal(0), canonical(value), event))
            elif value is not None:
                readings.append(Reading(meter["id"], read_quantity(value), None, event))
            elif meter.get("on_missing", "reject") == "reject":
                raise RejectedError("value_missing")
    return readings


def is_repeat(
    record: LogRecord, event: Event, seen: dict[tuple[str, str, str], LogRecord], rules: Rules
) -> bool:
    """Whether the customer's id was let through at most the horizon ago; else it is taken from now on."""
    identity = event.tenant_id, event.external_customer_id, event.id
    first = seen.get(identity)
    if first is not None:
        assert first.partition == record.partition, f"no order between two partitions: id {event.id!r}"
        if abs(record.append_ms // 1000 - first.append_ms // 1000) <= rules.dedupe_horizon_s:
            return True
    seen[identity] = record
    return False


def put_in_window(out: Expected, reading: Reading, catalog: dict[str, Any]) -> None:
    (meter,) = (one for one in catalog["meters"] if one["id"] == reading.meter_id)
    window_s, event = WINDOW_S[meter.get("window", "1m")], reading.event
    start = EPOCH + (event.timestamp - EPOCH) // timedelta(seconds=window_s) * timedelta(seconds=window_s)
    lateness_s = duration_s(meter.get("allowed_lateness", "1h"))
    if event.ingested_at > start + timedelta(seconds=window_s + lateness_s):
        out.late[event.position, reading.meter_id] = reading
        return
    window = out.windows[event.tenant_id, reading.meter_id, event.external_customer_id, start, window_s]
    window.events += 1
    window.total += reading.value
    if reading.unique is not None:
        window.uniques.add(reading.unique)


def duration_s(text: str) -> int:
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[text[-1]]
