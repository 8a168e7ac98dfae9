from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from redis import Redis as Client

from dataflows.embedded import Redis
from schemas.wallets import WalletRow
from sinks import metrics
from sinks.failures import StoreRefuses
from sinks.shards import ShardPart
from sinks.wallets import STATE, RedisConfig, RedisEmptied, WalletOutbox, WalletsSink, read_wallet
from tests.e2e.slow_proxy import slow_proxy
from tests.sinks.batches import eventually
from tests.sinks.wallets import wallet

WalletsPart = ShardPart[list[WalletRow], bytes]


@contextmanager
def parts(
    config: RedisConfig, count: int = 1, states: list[bytes] | None = None
) -> Iterator[list[WalletsPart]]:
    """Parts of one sink, closed at the end as at the end of a flow."""
    sink = WalletsSink(config, count)
    keys = sink.list_parts()
    built = [sink.build_part("wallets", key, states[i] if states else None) for i, key in enumerate(keys)]
    try:
        yield built
    finally:
        for part in built:
            part.close()


@contextmanager
def doomed_part(config: RedisConfig, error: type[Exception]) -> Iterator[WalletsPart]:
    """A part of a process that ends by `error`, at the latest when its flow ends."""
    part = WalletsSink(config, 1).build_part("wallets", "000", None)
    yield part
    with pytest.raises(error):
        part.close()


def failed(part: WalletsPart) -> bool:
    assert isinstance(part._shared, WalletOutbox)
    return part._shared._error is not None


def available(redis: Client, customer: str) -> Decimal | None:
    views = read_wallet(redis, "acme", customer)
    return views[0].available if views else None


def sum_of_deltas(redis: Client, customer: str) -> Decimal:
    entries: Any = redis.xrange(f"wallet:{{acme:{customer}}}:deltas")
    return sum((Decimal(entry[b"delta"].decode()) for _, entry in entries), Decimal(0))


def test_rows_reach_redis_without_a_snapshot(redis_config: RedisConfig, redis: Client) -> None:
    with parts(redis_config) as (part,):
        part.write_batch([[wallet("quick", "5")], [wallet("quicker", "6")]])
        eventually(lambda: available(redis, "quicker") == 6)
        eventually(lambda: part.snapshot() == STATE.encode([]))
        assert available(redis, "quick") == 5


def test_redis_away_holds_nothing_back_and_loses_nothing(
    redis_config: RedisConfig, redis_engine: Redis, redis: Client
) -> None:
    redis_engine.kill()
    with parts(redis_config, 2) as (one, other):
        started = time.monotonic()
        for version in range(1, 201):
            one.write_batch([[wallet(f"away-{i}", str(version + i), version=version) for i in range(10)]])
        pending = STATE.decode(one.snapshot())
        assert time.monotonic() - started < 1
        assert [(row.version, row.available) for row in pending] == [
            (200, Decimal(200 + i)) for i in range(10)
        ]
        assert STATE.decode(other.snapshot()) == []
        eventually(lambda: metrics.CIRCUIT_OPEN.labels("wallets")._value.get() == 1)
        redis_engine.start()
        eventually(lambda: STATE.decode(one.snapshot()) == [])
        assert metrics.CIRCUIT_OPEN.labels("wallets")._value.get() == 0
    assert [available(redis, f"away-{i}") for i in range(10)] == [200 + i for i in range(10)]


def test_a_crash_of_redis_under_load_repeats_no_delta(
    redis_config: RedisConfig, redis_engine: Redis, redis: Client
) -> None:
    with parts(redis_config) as (part,):
        for version in range(1, 301):
            if version in (100, 200):
                redis_engine.kill()
                redis_engine.start()
            part.write_batch([[wallet(f"load-{i}", str(version * i), version=version) for i in range(20)]])
            time.sleep(0.001)
    for i in range(20):
        assert available(redis, f"load-{i}") == sum_of_deltas(redis, f"load-{i}") == 300 * i


def test_pending_rows_are_state_that_a_restarted_part_sends(
    redis_config: RedisConfig, redis_engine: Redis, redis: Client, caplog: pytest.LogCaptureFixture
) -> None:
    redis_engine.kill()
    with caplog.at_level(logging.WARNING), parts(replace(redis_config, drain_s=0.1)) as (part,):
        part.write_batch([[wallet("restarted", "9", version=3)]])
        state = part.snapshot()
    assert "1 wallets are not in Redis yet; the next start sends them" in caplog.text
    redis_engine.start()
    with parts(redis_config, states=[state]):
        eventually(lambda: available(redis, "restarted") == 9)


def test_the_end_of_the_flow_waits_for_redis(redis_config: RedisConfig, redis: Client) -> None:
    with parts(redis_config) as (part,):
        part.write_batch([[wallet(f"last-{i}", "1") for i in range(3000)]])
    assert available(redis, "last-2999") == 1


def test_of_one_wallet_the_highest_version_waits_and_the_later_of_equal_ones(
    redis_config: RedisConfig, redis_engine: Redis
) -> None:
    redis_engine.kill()
    with parts(replace(redis_config, drain_s=0)) as (part,):
        part.write_batch(
            [[wallet("w", "1", version=2), wallet("w", "2", version=1), wallet("w", "3", version=2)]]
        )
        euros = [
            structs.replace(wallet("w", "4", version=2), currency="EUR"),
            structs.replace(wallet("w", "5"), currency="EUR"),
        ]
        part.write_batch([euros])
        assert [(row.currency, row.available) for row in STATE.decode(part.snapshot())] == [
            ("USD", Decimal(3)),
            ("EUR", Decimal(4)),
        ]


def test_metering_never_waits_for_redis(
    redis_config: RedisConfig, redis_engine: Redis, redis: Client
) -> None:
    with slow_proxy(redis_engine.port, 0.2) as proxy:
        proxy.answering.set()
        slow = replace(redis_config, url=redis_config.url.replace(str(redis_engine.port), str(proxy.port)))
        with parts(slow) as (part,):
            proxy.answering.clear()  # no answer comes before all is written and snapshotted
            for version in range(1, 101):
                part.write_batch([[wallet(f"slow-{i}", str(version), version=version) for i in range(50)]])
                time.sleep(0.002)  # so that some are on their way
            part.snapshot()
            proxy.answering.set()
    assert available(redis, "slow-49") == sum_of_deltas(redis, "slow-49") == 100


def test_an_emptied_redis_ends_the_process(redis_config: RedisConfig, redis: Client) -> None:
    with parts(redis_config) as (part,):  # closed while Bytewax unwinds: what was raised is not raised again
        part.write_batch([[wallet("emptied", "1")]])
        eventually(lambda: available(redis, "emptied") == 1)
        redis.flushall()
        time.sleep(0.3)  # nothing is written: the idle thread looks for itself
        with pytest.raises(RedisEmptied):
            part.snapshot()
        with pytest.raises(RedisEmptied):
            part.write_batch([[wallet("emptied", "2", version=2)]])


def test_a_redis_that_comes_back_without_its_disk_ends_the_process(
    redis_config: RedisConfig, redis_engine: Redis
) -> None:
    with doomed_part(redis_config, RedisEmptied) as part:
        part.write_batch([[wallet("disk", "1")]])
        eventually(lambda: STATE.decode(part.snapshot()) == [])
        redis_engine.kill()
        part.write_batch([[wallet("disk", "2", version=2)]])
        (redis_engine.directory / "appendonly.aof").unlink()
        redis_engine.start()
        eventually(lambda: failed(part))


def test_a_key_that_redis_refuses_ends_the_process(redis_config: RedisConfig, redis: Client) -> None:
    redis.set("wallet:{acme:refused}:USD", "not a hash")
    with parts(redis_config) as (part,):
        part.write_batch([[wallet("refused", "1")]])
        eventually(lambda: failed(part))
        with pytest.raises(StoreRefuses, match="acme:refused"):
            part.write_batch([[wallet("other", "1")]])
    redis.delete("wallet:{acme:refused}:USD")


def test_two_writers_of_the_same_wallets_publish_each_delta_once(
    redis_config: RedisConfig, redis: Client
) -> None:
    """As while one process drains and its successor resumes from an earlier epoch."""

    def write(part: WalletsPart, versions: range) -> None:
        for version in versions:
            part.write_batch(
                [[wallet(f"both-{i}", str(version * 7 + i), version=version) for i in range(10)]]
            )
            time.sleep(0.001)

    with parts(redis_config) as (one,), parts(redis_config) as (other,):
        writers = [
            threading.Thread(target=write, args=(one, range(1, 200))),
            threading.Thread(target=write, args=(other, range(50, 250))),
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    for i in range(10):
        entries: Any = redis.xrange(f"wallet:{{acme:both-{i}}}:deltas")
        versions = [int(entry[b"version"]) for _, entry in entries]
        assert versions == sorted(set(versions))
        assert available(redis, f"both-{i}") == sum_of_deltas(redis, f"both-{i}") == 249 * 7 + i


def test_freshness_is_from_append_to_acknowledgement(redis_config: RedisConfig) -> None:
    before = metrics.WALLET_FRESHNESS_SECONDS._sum.get()
    row = wallet("fresh", "1", as_of_ms=time.time_ns() // 1_000_000 - 40_000)
    with parts(redis_config) as (part,):
        part.write_batch([[row]])
    with parts(redis_config) as (part,):
        part.write_batch([[row]])  # a replay says nothing about freshness
    assert 40 <= metrics.WALLET_FRESHNESS_SECONDS._sum.get() - before < 50


amounts = st.decimals(-(10**18), 10**18, places=12)
wallet_rows = st.builds(
    WalletRow,
    st.text(),
    st.text(),
    st.text(),
    amounts,
    amounts,
    amounts,
    amounts,
    st.integers(0, 2**63),
    st.integers(0),
)


@given(st.lists(wallet_rows.filter(lambda row: row.as_of_ms < 2**63)))
def test_state_is_bytes_that_give_the_same_rows_again(rows: list[WalletRow]) -> None:
    assert STATE.decode(STATE.encode(rows)) == rows


def test_state_of_a_later_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 2"):
        STATE.decode(b"\x02" + STATE.encode([])[1:])


def test_a_flow_that_ends_while_redis_is_away_is_finished_by_the_next(
    redis_config: RedisConfig, redis_engine: Redis, redis: Client, tmp_path: Path
) -> None:
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]
    items = [("000", [wallet("flow-a", "1")]), ("001", [wallet("flow-b", "2")])]

    def run() -> None:
        flow = Dataflow("test_flow")
        op.output("wallets", op.input("rows", flow, TestingSource(items)), WalletsSink(redis_config, 4))
        run_main(  # type: ignore[no-untyped-call]
            flow,
            epoch_interval=timedelta(seconds=0),
            recovery_config=RecoveryConfig(tmp_path),  # type: ignore[no-untyped-call]
        )

    redis_engine.kill()
    run()
    redis_engine.start()
    assert available(redis, "flow-a") is None
    run()
    assert (available(redis, "flow-a"), available(redis, "flow-b")) == (Decimal(1), Decimal(2))
