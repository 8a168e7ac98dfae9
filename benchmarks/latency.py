"""From produce to visible: the wallet in Redis, the window and the raw row in ClickHouse, under a load.

A probe is an event of a customer, and so of a wallet, that nobody saw before. Its clock starts before
`produce()` and stops when its delta has arrived by pub/sub, and when a query that is asked every 500 ms has
it in its answer, so that the query's own time, and up to 500 ms, are part of it. Asked every 20 ms, the
queries alone took most of the core that the stores have.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import orjson
from confluent_kafka import Producer
from redis import Redis
from redis.client import PubSub

from benchmarks.bed import PARTITIONS, Bed, Stores
from benchmarks.catalog import API
from benchmarks.events import Shape
from benchmarks.load import READY
from benchmarks.machine import Load, busy_s, cores, pin, used
from benchmarks.processes import ROOT, ContestantError, contestant
from dataflows.embedded.processes import free_port
from sinks.clickhouse import ClickHouseConfig

PROBE_TENANT = "probe"
PROBE_EVERY_S = 0.01
QUERY_EVERY_S = 0.5
WARM_UP_S = 5
WAIT_S = 30.0
"""For probes that are still under way when the load has ended; later ones count as never."""
CUSTOMERS = 10_000
QUERIES = {
    "window in ClickHouse": "usage_windows WHERE tenant_id = 'probe' AND meter_id = 'api-requests'",
    "raw row in ClickHouse": "usage_events WHERE tenant_id = 'probe'",
}
WALLET = "wallet in Redis"
QUANTILES = (0.5, 0.99, 0.999)


@dataclass(frozen=True)
class Latency:
    """Milliseconds from produce to visible at one rate, by place: p50, p99, p99.9."""

    broker: str
    rate: int
    came_to: int
    """Events a second that the producer managed."""
    probes: int
    quantiles_ms: dict[str, tuple[float, ...]]
    flow_cores: float
    """CPU seconds a second of the flow's process."""
    other_cores: float
    """The same of all else: broker, stores, load, probes, and whatever else runs on the cores they have."""
    load: str


class Seen:
    """When each probe was sent, and first seen at each place."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.at: dict[str, dict[str, float]] = {place: {} for place in (WALLET, *QUERIES)}
        self.stop = threading.Event()

    def note(self, place: str, customer: str) -> None:
        self.at[place].setdefault(customer, time.perf_counter())

    def is_complete(self) -> bool:
        return all(len(seen) >= len(self.sent) for seen in self.at.values())

    def quantiles_ms(self) -> dict[str, tuple[float, ...]]:
        never = float("inf")
        found = {}
        for place, seen in self.at.items():
            waits = [seen.get(customer, never) - began for customer, began in self.sent.items()]
            found[place] = tuple(
                float(np.quantile(waits, part, method="higher")) * 1000 for part in QUANTILES
            )
        return found


def latency_of(bed: Bed, rates: Sequence[int], seconds: int, rounds: int) -> Iterator[Latency]:
    """Of each rate the round that counts: the one with the lowest p99 to Redis."""
    runs = [[_latency(bed, rate, seconds) for rate in rates] for _ in range(rounds)]
    for of_rate in zip(*runs, strict=True):
        yield min(of_rate, key=lambda run: run.quantiles_ms[WALLET][QUANTILES.index(0.99)])


def _latency(bed: Bed, rate: int, seconds: int) -> Latency:
    """Run the flow on the first core under this load, everything else on the others."""
    topic, before = f"latency-{len(bed.logs)}", Load.now()
    log = bed.preload(Shape(0, CUSTOMERS), topic)
    seen = Seen()
    with bed.stores(topic) as stores, ExitStack() as stack:
        environment = bed.environment(log, stores) | {"METERLINE_METRICS_PORT": str(free_port())}
        command = [sys.executable, "-m", "dataflows.cli", "run"]
        flow = stack.enter_context(contestant([command], [environment], stores.directory, [cores()[:1]]))
        flow.wait_until_said("is read from offset")
        stack.callback(seen.stop.set)
        watchers = [threading.Thread(target=watch, daemon=True) for watch in _watchers(seen, stores)]
        for watcher in watchers:
            watcher.start()
        arguments = [bed.broker.address, topic, str(rate), str(seconds + WARM_UP_S), str(CUSTOMERS)]
        producer = subprocess.Popen(  # noqa: S603 - the command is ours
            [sys.executable, "-m", "benchmarks.load", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(producer.kill)
        mine, others = os.getpid(), cores()[1:]
        stack.callback(pin, mine, cores())
        pin(producer.pid, others)
        pin(mine, others)
        if producer.stdout is None or producer.stdout.readline().strip() != READY:
            raise ContestantError("the load ended before it began")
        time.sleep(WARM_UP_S)
        pid = flow.processes[0].pid
        began, cpu_before, busy_before = time.perf_counter(), used(pid), busy_s(others)
        _probe(bed.broker.address, topic, seen, seconds)
        took, cpu_after, busy_after = time.perf_counter() - began, used(pid), busy_s(others)
        came_to, _ = producer.communicate(timeout=seconds + 120)
        deadline = time.monotonic() + WAIT_S
        while not seen.is_complete() and time.monotonic() < deadline:
            time.sleep(0.1)
        seen.stop.set()
        for watcher in watchers:
            watcher.join(WAIT_S)
        flow.terminate()
    cpu_s = cpu_after.cpu_s - cpu_before.cpu_s if cpu_after and cpu_before else 0.0
    after = before.until_now()
    return Latency(
        bed.kind,
        rate,
        int(came_to),
        len(seen.sent),
        seen.quantiles_ms(),
        cpu_s / took,
        (busy_after - busy_before) / took,
        after,
    )


def _probe(brokers: str, topic: str, seen: Seen, seconds: int) -> None:
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 0})
    began = time.perf_counter()
    for number in range(int(seconds / PROBE_EVERY_S)):
        time.sleep(max(0.0, began + number * PROBE_EVERY_S - time.perf_counter()))
        customer = f"probe_{number:06d}"
        event = {
            "id": customer,
            "tenant_id": PROBE_TENANT,
            "event_name": API,
            "external_customer_id": customer,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "properties": {"latency_ms": 12.5},
        }
        seen.sent[customer] = time.perf_counter()
        producer.produce(topic, orjson.dumps(event), customer.encode(), partition=number % PARTITIONS)
        producer.poll(0)
    producer.flush(30)


def _watchers(seen: Seen, stores: Stores) -> list[Callable[[], None]]:
    def deltas() -> None:
        with (
            closing(Redis.from_url(stores.redis.url)) as redis,
            closing(PubSub(redis.connection_pool)) as channel,
        ):
            channel.subscribe(f"wallet-deltas:{PROBE_TENANT}")
            while not seen.stop.is_set():
                message = channel.get_message(ignore_subscribe_messages=True, timeout=0.5)
                if message is not None:
                    seen.note(WALLET, orjson.loads(message["data"])["external_customer_id"])

    def asked(place: str, source: str) -> Callable[[], None]:
        def ask() -> None:
            with closing(ClickHouseConfig(url=stores.clickhouse.url).connect()) as client:
                while not seen.stop.wait(QUERY_EVERY_S):
                    rows = client.query(f"SELECT external_customer_id FROM {source}").result_rows  # noqa: S608
                    for row in rows:
                        seen.note(place, row[0])

        return ask

    return [deltas, *(asked(place, source) for place, source in QUERIES.items())]
