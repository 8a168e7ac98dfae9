"""Wallet alerts to Kafka: their record, and that no epoch commits without them."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from msgspec import structs

from dataflows.embedded import Kafka
from schemas.wallets import WalletAlert
from sinks.failures import StoreUnavailable
from sinks.wallet_alerts import WalletAlertsSink
from tests.sinks.test_dead_letter_topic import read, topic

ALERT = WalletAlert(
    id="acme/cust%2F1/USD/low_balance:10/down/1",
    tenant_id="acme",
    external_customer_id="cust/1",
    currency="USD",
    threshold_id="low_balance:10",
    kind="low_balance",
    direction="down",
    threshold=Decimal("10.00"),
    value_before=Decimal("12.5"),
    value=Decimal("-0.000000000001"),
    version=(3 << 40) + 7,
    as_of_ms=1_795_426_200_123,
)


def test_an_alert_is_json_under_its_wallet_with_its_id(kafka_engine: Kafka) -> None:
    name = topic(kafka_engine, "alerts-1")
    sink = WalletAlertsSink({"bootstrap.servers": kafka_engine.address}, name, 2)
    parts = [sink.build_part("wallet_alerts", key, None) for key in sink.list_parts()]
    parts[0].write_batch([[ALERT]])
    parts[1].write_batch([[structs.replace(ALERT, direction="up")], []])
    for part in parts:
        part.snapshot()
    first, second = read(kafka_engine, name, 2)
    assert first.key() == second.key() == b"acme/cust%2F1/USD"
    assert first.headers() == [("meterline-alert-id", ALERT.id.encode())]
    assert json.loads(first.value() or b"") == {
        "id": ALERT.id,
        "tenant_id": "acme",
        "external_customer_id": "cust/1",
        "currency": "USD",
        "threshold_id": "low_balance:10",
        "kind": "low_balance",
        "direction": "down",
        "threshold": "10",
        "value_before": "12.5",
        "value": "-0.000000000001",
        "version": str((3 << 40) + 7),
        "as_of": "2026-11-23T09:30:00.123Z",
    }


def test_an_epoch_is_not_committed_without_its_alerts(kafka_engine: Kafka) -> None:
    name = topic(kafka_engine, "alerts-2")
    options = {"bootstrap.servers": kafka_engine.address, "delivery.timeout.ms": 3000, "log_level": 0}
    part = WalletAlertsSink(options, name, 1).build_part("wallet_alerts", "000", None)
    part.write_batch([[ALERT]])
    part.snapshot()
    kafka_engine.kill()
    part.write_batch([[ALERT]])
    with pytest.raises(StoreUnavailable, match="wallet alerts"):
        part.snapshot()
