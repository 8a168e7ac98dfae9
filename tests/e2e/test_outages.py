"""Stores and the broker die, hang, slow down or lose their data under load: metering stays exact."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from dataflows.embedded import Engines
from sinks.clickhouse import ClickHouseConfig
from tests.e2e.job import Job
from tests.e2e.load import Load, crash_catalog
from tests.e2e.slow_proxy import slow_proxy
from tests.e2e.stores import compare

BACKLOG = 10_000
DELAY_S = 0.2


def check(started: Engines) -> None:
    truth, found = compare(started, crash_catalog())
    assert not found, str(found)
    assert truth.windows, "something was metered"


def wallet_versions(started: Engines) -> int:
    """Grows with every change of a wallet."""
    with closing(Redis.from_url(started.redis_url)) as redis:
        stored: list[Any] = [redis.hget(key, "version") for key in redis.scan_iter("wallet:*:USD")]
    return sum(int(version or 0) for version in stored)


def raw_rows(started: Engines) -> int:
    with closing(ClickHouseConfig(url=started.clickhouse_url).connect()) as client:
        ((rows,),) = client.query("SELECT count() FROM usage_events").result_rows
        return int(rows)


def wait_until(happened: Callable[[], bool], what: str, timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.1)


@contextmanager
def under_load(
    started: Engines, tmp_path: Path, seed: int, *, ends: int = 0, **settings: str
) -> Iterator[Job]:
    """A flow that has written events and wallets, with more coming. What a test does to it changes nothing:
    it drains, or has ended by itself with the exit code `ends`, and after one more run all is as expected.
    """
    job = Job(started, tmp_path, crash_catalog(), {f"METERLINE_{name}": v for name, v in settings.items()})
    with Load(started.kafka_brokers, seed) as load:
        job.start()
        job.wait_until_reading()
        wait_until(lambda: raw_rows(started) > 0 and wallet_versions(started) > 0, "events and wallets")
        yield job
        load.stop()
        assert job.drain() == [ends], job.log()
    job.run_until_end()
    check(started)


def wait_for_rows(started: Engines, rows: int, when: str) -> None:
    """Return when ClickHouse has so many events more than now."""
    before = raw_rows(started)
    wait_until(lambda: raw_rows(started) > before + rows, f"metering {when}")


def test_metering_and_wallets_go_on_without_clickhouse(started: Engines, tmp_path: Path) -> None:
    with under_load(started, tmp_path, seed=21, EPOCH_S="1") as job:
        started.clickhouse.kill()
        died_at, version = time.monotonic(), wallet_versions(started)
        wait_until(lambda: wallet_versions(started) > version + 200, "wallets without ClickHouse")
        time.sleep(max(0.0, died_at + 10 - time.monotonic()))
        later = wallet_versions(started)
        wait_until(lambda: wallet_versions(started) > later + 20, "wallets after epochs without ClickHouse")
        job.kill()  # what ClickHouse has not taken is in the recovery store
        started.clickhouse.start()
        job.start()
        job.wait_until_reading()


def test_a_clickhouse_that_stays_away_ends_the_process_with_a_sentence(
    started: Engines, tmp_path: Path
) -> None:
    with under_load(started, tmp_path, seed=22, ends=1, CLICKHOUSE_RETRY_S="3") as job:
        started.clickhouse.kill()
        assert job.wait(30) == [1], job.log()
        assert "meterline: ClickHouse has not taken" in job.log()
        started.clickhouse.start()


def test_metering_goes_on_without_redis_and_wallets_are_right_when_it_is_back(
    started: Engines, tmp_path: Path
) -> None:
    with under_load(started, tmp_path, seed=23) as job:
        started.redis.kill()
        wait_for_rows(started, 1000, "without Redis")
        job.kill()  # what Redis has not taken is in the recovery store
        job.start()
        job.wait_until_reading()
        wait_for_rows(started, 500, "without Redis after a crash")
        started.redis.start()


def test_a_redis_that_was_emptied_is_noticed_and_filled_again(started: Engines, tmp_path: Path) -> None:
    with under_load(started, tmp_path, seed=24, ends=1) as job:
        time.sleep(1)
        empty(started)
        assert job.wait(30) == [1], job.log()
        assert "meterline: Redis counts" in job.log()


def test_a_redis_emptied_while_the_flow_is_down_is_filled_again(started: Engines, tmp_path: Path) -> None:
    with under_load(started, tmp_path, seed=25) as job:
        time.sleep(1)
        assert job.drain() == [0], job.log()
        empty(started)


def empty(started: Engines) -> None:
    with closing(Redis.from_url(started.redis_url)) as redis:
        redis.flushall()


def test_a_broker_and_a_clickhouse_that_crash_under_load_lose_nothing(
    started: Engines, tmp_path: Path
) -> None:
    with under_load(started, tmp_path, seed=26):
        for _ in range(2):
            for engine in (started.kafka, started.clickhouse):
                engine.kill()
                time.sleep(0.5)
                engine.start()
            wait_for_rows(started, 500, "after the crashes")


def test_a_broker_that_hangs_is_waited_for(started: Engines, tmp_path: Path) -> None:
    with under_load(started, tmp_path, seed=27):
        os.kill(started.kafka.pid, signal.SIGSTOP)
        time.sleep(5)
        os.kill(started.kafka.pid, signal.SIGCONT)
        wait_for_rows(started, 500, "after the broker hung")


def test_a_slow_redis_does_not_slow_metering(started: Engines, tmp_path: Path) -> None:
    """Everything is read, metered and stored before Redis's first answer, so its speed can't depend on how
    late answers are. Then they come, each 200 ms late, while more is written: the wallets are exact."""
    load = Load(started.kafka_brokers, seed=28)
    load.write(BACKLOG)
    load.flush()
    with slow_proxy(started.redis.port, DELAY_S) as slow_redis:
        url = started.redis_url.replace(f":{started.redis.port}/", f":{slow_redis.port}/")
        # It never gives an answer up: a sink that waited for one would wait until this test fails.
        settings = {"METERLINE_REDIS_URL": url, "METERLINE_REDIS_TIMEOUT_S": "600"}
        job = Job(started, tmp_path, crash_catalog(), settings)
        job.start()
        wait_until(lambda: differing_tables(started) == {"wallets"}, "all but the wallets", 120)
        assert wallet_versions(started) == 0, "a wallet went through before any answer"
        slow_redis.answering.set()
        for _ in range(5):
            wait_for_wallets(started, load)
        assert job.drain() == [0], job.log()
        job.run_until_end()
    check(started)


def wait_for_wallets(started: Engines, load: Load) -> None:
    """Write a little more, and see it in Redis."""
    before = wallet_versions(started)
    load.write(500)
    load.flush()
    wait_until(lambda: wallet_versions(started) > before, "wallets, slowly")


def differing_tables(started: Engines) -> set[str]:
    """What is not yet as the oracle expects it of the log as it is now."""
    truth, found = compare(started, crash_catalog())
    assert truth.wallets
    return set(found.found)
