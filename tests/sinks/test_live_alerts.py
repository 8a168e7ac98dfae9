"""Wallet alerts in Redis: each id published once, whatever is sent again, and never in metering's way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import redis
from msgspec import structs

from dataflows.embedded import Redis
from schemas.wallets import WalletAlert
from sinks import live_alerts
from sinks.failures import StoreRefuses
from sinks.live_alerts import STATE, LiveAlertsSink
from sinks.shards import ShardPart
from sinks.wallets import RedisConfig
from tests.sinks.test_wallet_alerts import ALERT

STREAM = "wallet:{acme:cust/1}:alerts"
CHANNEL = "wallet-alerts:acme"


@pytest.fixture
def client(redis_engine: Redis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_engine.url) as found:
        found.flushall()
        yield found


def part_of(config: RedisConfig, state: bytes | None = None) -> ShardPart[Sequence[WalletAlert], bytes]:
    return LiveAlertsSink(config, 1).build_part("live_alerts", "000", state)


def numbered(count: int) -> list[WalletAlert]:
    return [structs.replace(ALERT, id=f"acme/cust%2F1/USD/low_balance:10/down/{n}") for n in range(count)]


def published(client: redis.Redis) -> list[str]:
    entries: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(STREAM)  # type: ignore[assignment]
    return [json.loads(entry[b"alert"])["id"] for _, entry in entries]


def test_an_alert_is_published_once_however_often_it_is_sent(
    client: redis.Redis, redis_config: RedisConfig
) -> None:
    with client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(CHANNEL)
        first, second = numbered(2)
        for _ in range(2):  # the second time is a process that was started again
            part = part_of(redis_config)
            part.write_batch([[first], [first, second]])
            part.close()
        assert published(client) == [first.id, second.id]
        deadline, heard = time.monotonic() + 5, list[str]()
        while len(heard) < 2 and time.monotonic() < deadline:
            message = listener.get_message(ignore_subscribe_messages=True, timeout=0.1)
            if message:
                heard.append(json.loads(message["data"])["id"])
        assert listener.get_message(ignore_subscribe_messages=True, timeout=0.1) is None
        assert heard == [first.id, second.id]
    mark = first.id.replace("%", "%25").replace(":", "%3A")
    ttl: int = client.ttl(f"wallet:{{acme:cust/1}}:alert%3A{mark}")
    assert 0 < ttl <= live_alerts.MARK_TTL_S


def test_what_redis_does_not_take_is_in_the_snapshot_and_sent_by_the_next_process(
    client: redis.Redis, redis_config: RedisConfig, redis_engine: Redis
) -> None:
    redis_engine.kill()
    part = part_of(replace(redis_config, drain_s=0.1))
    began = time.monotonic()
    part.write_batch([numbered(3)])
    state = part.snapshot()
    assert time.monotonic() - began < 1
    part.close()
    assert STATE.decode(state) == numbered(3)
    redis_engine.start()
    client.flushall()
    resumed = part_of(redis_config, state)
    resumed.close()
    assert published(client) == [alert.id for alert in numbered(3)]
    assert STATE.decode(resumed.snapshot()) == []


def test_alerts_that_wait_are_limited_and_the_newest_stay(
    redis_config: RedisConfig, redis_engine: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_alerts, "PENDING_MAX", 2)
    redis_engine.kill()
    part = part_of(replace(redis_config, drain_s=0.1))
    part.write_batch([numbered(2), numbered(5)])
    assert STATE.decode(part.snapshot()) == numbered(5)[3:]
    part.close()


def test_a_redis_that_refuses_ends_the_process(client: redis.Redis, redis_config: RedisConfig) -> None:
    client.set(STREAM, "of somebody else")
    part = part_of(redis_config)
    part.write_batch([[ALERT]])
    with pytest.raises(StoreRefuses, match="refuses alerts"):
        part.close()


def test_states_of_another_format_are_not_read() -> None:
    with pytest.raises(ValueError, match="format 2"):
        STATE.decode(b"\x02" + STATE.encode([ALERT])[1:])
