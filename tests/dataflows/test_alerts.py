"""A wallet that crosses a threshold, through `meterline run` on real engines, and once more from nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import redis
from confluent_kafka import Consumer, TopicPartition

from tests.dataflows.commands import CATALOG, EVENTS, Settings, meterline

ALERT = "acme/bob/USD/spend:0.4/up/1"


def test_an_alert_is_in_kafka_each_time_and_in_redis_once(ready: Settings) -> None:
    catalog = Path(ready["METERLINE_CATALOG"])
    catalog.write_text(
        CATALOG.replace("currency: USD", "currency: USD\n    thresholds: [{kind: spend, amount: 0.4}]")
    )
    assert meterline(ready, "produce", "-", stdin=EVENTS).code == 0
    for runs in (1, 2):
        ran = meterline(ready, "run", "--until-end")
        assert ran.code == 0, ran.err
        alerts = read(ready)
        assert [alert["id"] for alert in alerts] == [ALERT] * runs
        assert [(alert["value_before"], alert["value"]) for alert in alerts] == [("0", "0.5")] * runs
        with redis.Redis.from_url(ready["METERLINE_REDIS_URL"]) as client:
            entries: list[Any] = client.xrange("wallet:{acme:bob}:alerts")
        assert [json.loads(entry[b"alert"]) for _, entry in entries] == alerts[:1]
        shutil.rmtree(ready["METERLINE_RECOVERY_DIR"])  # the second run reads everything again


def read(settings: Settings) -> list[dict[str, Any]]:
    """All alerts of the topic."""
    options = {"bootstrap.servers": settings["METERLINE_KAFKA_BROKERS"], "group.id": "none"}
    consumer = Consumer(options)
    name = settings["METERLINE_ALERT_TOPIC"]
    found = []
    for partition in range(len(consumer.list_topics(name, 10).topics[name].partitions)):
        low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), 10)
        consumer.assign([TopicPartition(name, partition, low)])
        found += consumer.consume(high - low, 10) if high > low else []
    consumer.close()
    return [json.loads(message.value() or b"") for message in found]
