from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from redis import Redis
from redis.crc import key_slot

from sinks.failures import StoreRefuses
from sinks.wallet_store import (
    PUBLISHED,
    SAME_AMOUNTS,
    STALE,
    RedisConfig,
    RedisEmptied,
    WalletStore,
    deltas_channel,
    read_wallet,
    wallet_key,
)
from tests.sinks.wallets import NOW_MS, deltas, wallet


def test_a_wallet_is_what_the_last_row_says(store: WalletStore, redis: Redis) -> None:
    row = structs.replace(wallet("c", "75.50"), balance=Decimal(100), usage=Decimal("24.50"), version=7)
    assert store.apply([row]) == [PUBLISHED]
    (view,) = read_wallet(redis, "acme", "c")
    assert (view.balance, view.unpaid_invoices, view.usage) == (Decimal(100), Decimal(0), Decimal("24.50"))
    assert (view.available, view.version, view.currency) == (Decimal("75.50"), 7, "USD")
    assert view.as_of.isoformat() == "2026-11-23T09:30:00.123000+00:00"
    raw: Any = redis.hgetall("wallet:{acme:c}:USD")
    assert raw[b"available"] == b"75.5"
    assert raw[b"as_of"] == b"2026-11-23T09:30:00.123Z"


def test_a_replay_changes_and_publishes_nothing(store: WalletStore, redis: Redis) -> None:
    rows = [wallet("replayed", "10", version=1), wallet("replayed", "7", version=2)]
    assert store.apply(rows) == [PUBLISHED, PUBLISHED]
    assert store.apply(rows) == [STALE, STALE]
    assert deltas(redis, rows[0]) == [(Decimal(10), Decimal(10), 1), (Decimal(-3), Decimal(7), 2)]


def test_the_same_version_of_another_interleaving_is_the_truth(store: WalletStore, redis: Redis) -> None:
    first, second = wallet("tie", "10", version=5), wallet("tie", "8.5", version=5)
    assert store.apply([first, second, second]) == [PUBLISHED, PUBLISHED, STALE]
    assert [delta for delta, _, _ in deltas(redis, first)] == [10, Decimal("-1.5")]


def test_a_newer_version_of_the_same_amounts_is_not_published(store: WalletStore, redis: Redis) -> None:
    row = wallet("same", "10", version=1)
    assert store.apply([row, structs.replace(row, version=2)]) == [PUBLISHED, SAME_AMOUNTS]
    assert read_wallet(redis, "acme", "same")[0].version == 2
    assert len(deltas(redis, row)) == 1


def test_amounts_that_move_within_a_wallet_are_published_with_delta_0(
    store: WalletStore, redis: Redis
) -> None:
    used = structs.replace(wallet("moved", "10", version=1), balance=Decimal(15), usage=Decimal(5))
    owed = structs.replace(used, usage=Decimal(0), unpaid_invoices=Decimal(5), version=2)
    assert store.apply([used, owed]) == [PUBLISHED, PUBLISHED]
    assert deltas(redis, used) == [(Decimal(10), Decimal(10), 1), (Decimal(0), Decimal(10), 2)]


def test_versions_are_compared_to_the_last_bit(store: WalletStore, redis: Redis) -> None:
    """Both are the same double."""
    low, high = 2**63 - 2, 2**63 - 1
    assert float(low) == float(high)
    rows = [
        wallet("bits", str(amount), version=version) for amount, version in enumerate([9, low, high, low])
    ]
    assert store.apply(rows) == [PUBLISHED, PUBLISHED, PUBLISHED, STALE]
    assert read_wallet(redis, "acme", "bits")[0].version == high


def test_each_currency_is_a_wallet(store: WalletStore, redis: Redis) -> None:
    store.apply([wallet("two", "1"), structs.replace(wallet("two", "2"), currency="EUR")])
    assert [(view.currency, view.available) for view in read_wallet(redis, "acme", "two")] == [
        ("EUR", Decimal(2)),
        ("USD", Decimal(1)),
    ]
    assert [view.available for view in read_wallet(redis, "acme", "two", "USD")] == [1]
    assert read_wallet(redis, "acme", "two", "JPY") == []
    assert read_wallet(redis, "acme", "nobody") == []


def test_subscribers_of_a_tenant_hear_each_delta_once(store: WalletStore, redis: Redis) -> None:
    with redis.pubsub() as subscriber:  # type: ignore[no-untyped-call]
        subscriber.subscribe(deltas_channel("acme"))
        assert subscriber.get_message(timeout=2) is not None
        rows = [wallet("heard", "0.000000000001", version=1), wallet("heard", "3", version=2)]
        store.apply(rows)
        store.apply(rows)
        store.apply([wallet("marker", "1")])
        heard = []
        while (message := subscriber.get_message(timeout=2)) is not None:
            heard.append(json.loads(message["data"]))
            if heard[-1]["external_customer_id"] == "marker":
                break
    assert [(each["delta"], each["version"]) for each in heard[:-1]] == [
        ("0.000000000001", "1"),
        ("2.999999999999", "2"),
    ]
    assert heard[0]["tenant_id"] == "acme"


def test_a_stream_of_deltas_is_capped(redis_config: RedisConfig, redis: Redis) -> None:
    store = WalletStore(replace(redis_config, deltas_max=100), lambda: NOW_MS)
    store.apply([wallet("capped", str(version), version=version) for version in range(1, 1001)])
    store.close()
    length: Any = redis.xlen("wallet:{acme:capped}:deltas")
    assert 100 <= length < 300


names = st.text(st.sampled_from("ab{}:%7") | st.characters(codec="utf-8"), max_size=6)


@given(st.lists(st.tuples(names, names), min_size=2, max_size=20, unique=True))
def test_names_never_collide_nor_end_the_hash_tag(wallets: list[tuple[str, str]]) -> None:
    keys = sorted(wallet_key(tenant, customer, "USD") for tenant, customer in wallets)
    assert all(one != other for one, other in pairwise(keys))
    for tenant, customer in wallets:
        slots = {
            key_slot(wallet_key(tenant, customer, name).encode()) for name in ("USD", "deltas", "currencies")
        }
        assert len(slots) == 1
    assert all(key.split("{", 1)[1].find("}") == key.rfind("}") - len("wallet:{") for key in keys)


@given(tenant=names, customer=names)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_reaches_redis_and_its_subscribers(
    store: WalletStore, redis: Redis, tenant: str, customer: str
) -> None:
    """Names of any bytes, quotes and control characters: commands and messages are put together by hand."""
    redis.delete(wallet_key(tenant, customer, "USD"))
    row = structs.replace(wallet(customer, "1.5"), tenant_id=tenant)
    with redis.pubsub() as subscriber:  # type: ignore[no-untyped-call]
        subscriber.subscribe(deltas_channel(tenant))
        assert subscriber.get_message(timeout=2) is not None
        assert store.apply([row, row]) == [PUBLISHED, STALE]
        heard = json.loads(subscriber.get_message(timeout=2)["data"])
    assert heard == {
        "tenant_id": tenant,
        "external_customer_id": customer,
        "currency": "USD",
        "delta": "1.5",
        "available": "1.5",
        "version": "1",
        "as_of": "2026-11-23T09:30:00.123Z",
    }
    assert [view.available for view in read_wallet(redis, tenant, customer)] == [Decimal("1.5")]


def test_an_emptied_redis_is_noticed(store: WalletStore, redis: Redis) -> None:
    store.apply([wallet("lost", "1")])
    redis.flushall()
    with pytest.raises(RedisEmptied, match="it lost data"):
        store.apply([])


def test_a_redis_that_is_behind_what_it_acknowledged_is_noticed(store: WalletStore, redis: Redis) -> None:
    """As after a failover to a replica that lagged."""
    redis.flushall()
    store.apply([])
    (marker,) = list(redis.scan_iter("meterline:wallets:marker:*"))
    behind: Any = redis.dump(marker)
    store.apply([wallet("behind", "1")])
    store.apply([wallet("behind", "2", version=2)])
    redis.restore(marker, 0, behind, replace=True)
    with pytest.raises(RedisEmptied):
        store.apply([])


def test_a_lost_script_is_loaded_again(store: WalletStore, redis: Redis) -> None:
    store.apply([wallet("script", "1")])
    redis.script_flush()
    with pytest.raises(Exception, match="No matching script"):
        store.apply([wallet("script", "2", version=2)])
    assert store.apply([wallet("script", "2", version=2)]) == [PUBLISHED]


@pytest.mark.parametrize("stored", ["text", {"version": "1", "available": "1e3"}])
def test_a_broken_key_is_named(store: WalletStore, redis: Redis, stored: Any) -> None:
    key = wallet_key("acme", "broken", "USD")
    redis.delete(key)
    if isinstance(stored, str):
        redis.set(key, stored)
    else:
        redis.hset(key, mapping=stored)
    with pytest.raises(StoreRefuses, match=r"Redis refuses wallet:\{acme:broken\}:USD: "):
        store.apply([wallet("fine", "1"), wallet("broken", "1", version=9)])


def test_a_wrong_password_ends_with_a_sentence(redis_config: RedisConfig) -> None:
    store = WalletStore(
        replace(redis_config, url=redis_config.url.replace("redis://:", "redis://:not")), lambda: 0
    )
    with pytest.raises(StoreRefuses, match="check METERLINE_REDIS_URL"):
        store.apply([wallet("c", "1")])
    store.close()
