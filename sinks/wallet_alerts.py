"""Wallet alerts to the topic `wallet-alerts`: at least once, each under its own id.

`WalletAlert`s -> records with key `tenant/customer/currency` (so that a wallet's alerts keep their order),
the alert as JSON, its id again in the header `meterline-alert-id`. A replay sends an alert again, with the
same id: a reader that must not act twice remembers ids. `sinks.live_alerts` publishes each once, in Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson
from msgspec import structs
from typing_extensions import override

from schemas.money import decimal_text
from schemas.wallets import WalletAlert
from sinks.shards import ShardSink
from sinks.topic import RecordWriter, TopicProducer, producer_options
from sinks.wallet_store import rfc3339

STEP = "wallet_alerts"


def alert_json(alert: WalletAlert) -> bytes:
    """The alert: amounts and version as text, as every JSON parser keeps them, and `as_of` as RFC 3339."""
    values = structs.asdict(alert)
    values["as_of"] = rfc3339(values.pop("as_of_ms"))
    values["version"] = str(alert.version)
    texts = {name: decimal_text(v) if isinstance(v, Decimal) else v for name, v in values.items()}
    return orjson.dumps(texts)


def alert_key(alert: WalletAlert) -> bytes:
    """What of the id names the wallet."""
    return "/".join(alert.id.split("/")[:3]).encode()


class AlertWriter(RecordWriter[WalletAlert]):
    """Sends alerts."""

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        self._producer = TopicProducer(options, topic, STEP, "wallet alerts")

    @override
    def send(self, item: WalletAlert) -> None:
        """Queue an alert's record."""
        self._producer.send(alert_key(item), alert_json(item), [("meterline-alert-id", item.id.encode())])

    @override
    def flush(self) -> None:
        """Return when the topic has acknowledged all that was sent, or raise."""
        self._producer.flush()


class WalletAlertsSink(ShardSink[Sequence[WalletAlert], None]):
    """The topic of alerts as a Bytewax sink."""

    def __init__(self, options: Mapping[str, Any], topic: str, shards: int) -> None:
        """`options`: librdkafka's, at least `bootstrap.servers`."""
        super().__init__(shards, lambda: AlertWriter(producer_options(options), topic))
