"""The alerts that a flow left in Kafka and Redis, and what in them contradicts itself or the oracle."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

from redis import Redis

from sinks.wallet_store import wallet_key
from tests.e2e.stores import read_log
from tests.oracle import Expected
from tests.oracle_thresholds import Standing, ThresholdKey

Alert = dict[str, Any]
"""The JSON of one."""


def alerts_in_kafka(brokers: str, topic: str) -> list[Alert]:
    """Of one partition, in its order; what a crash repeated is there again."""
    return [json.loads(record.value or b"") for record in read_log(brokers, [topic])]


def alerts_in_redis(redis: Redis, accounts: Iterable[tuple[str, str]]) -> list[Alert]:
    """By account, each one's in the order of its stream."""
    found: list[Alert] = []
    for account in sorted(accounts):
        entries: Any = redis.xrange(wallet_key(*account, "alerts"))
        found += [json.loads(entry[b"alert"]) for _, entry in entries]
    return found


def wrong_alerts(alerts: list[Alert], truth: Expected) -> Iterator[str]:
    """Sentences about a wallet's alerts, each in the order in which it was told, and once."""
    by_threshold: dict[ThresholdKey, list[Alert]] = defaultdict(list)
    for alert in alerts:
        by_threshold[threshold_of(alert)].append(alert)
    for key, told in by_threshold.items():
        numbers = [int(alert["id"].rpartition("/")[2]) for alert in told]
        if numbers != list(range(1, len(told) + 1)):
            yield f"{key} is told with the numbers {numbers}"
        yield from (f"{alert} is no crossing" for alert in told if not is_crossing(alert))
    for key, standing in truth.thresholds.items():
        yield from _wrong_end(key, [alert["direction"] for alert in by_threshold[key]], standing)


def _wrong_end(key: ThresholdKey, told: list[str], standing: Standing) -> Iterator[str]:
    if standing.is_told and not told:
        yield f"{key} is beyond, and nobody was told"
    if standing.is_steady and standing.kind == "low_balance" and told:
        if any(before == after for before, after in pairwise(told)):
            yield f"{key} went twice the same way: {told}"
        if (told[-1] == "down") != standing.is_beyond:
            yield f"{key} was told {told} at last, and ended as {standing}"


def threshold_of(alert: Alert) -> ThresholdKey:
    """From its id, which must say the same as its fields."""
    *names, direction, _ = map(unquote, alert["id"].split("/"))
    fields = ("tenant_id", "external_customer_id", "currency", "threshold_id", "direction")
    assert [*names, direction] == [alert[name] for name in fields], alert
    tenant_id, customer, currency, name = names
    return tenant_id, customer, currency, name


def is_crossing(alert: Alert) -> bool:
    """Whether it leads over its threshold. A percentage is of the credits now, which the value before had
    maybe less of: only the value now is compared."""
    value, threshold = Decimal(alert["value"]), Decimal(alert["threshold"])
    if alert["kind"] == "spend":
        return bool(alert["direction"] == "up") and value >= threshold
    return bool(alert["direction"] == ("down" if value <= threshold else "up"))
