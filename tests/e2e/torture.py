"""`make torture ARGS="--minutes 15 --seed 7"`: every fault, again and again, then all against the oracle.

A seed decides the events, the faults and their order; how far each process gets in between is the machine's.
Exit 1 on any difference, and on a flow that ended by itself without a reason given by a fault.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from dataflows.embedded import EngineProcess, engines
from sinks.wallet_store import MARKER
from tests.e2e.job import Job, prepare
from tests.e2e.load import Load, crash_catalog
from tests.e2e.stores import Differences, compare
from tests.e2e.watch import Watch
from tests.oracle import Expected

PROCESSES = (1, 1, 1, 1, 2, 2, 3)
NAP_S = 2.0
"""At most so long a flow runs between faults, once it reads."""


@dataclass
class Torture:
    """A flow under load, and what is done to it."""

    job: Job
    load: Load
    watch: Watch
    chance: random.Random
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    ends: list[str] = field(default_factory=list)
    """Of flows that ended by themselves, and no fault explains it."""

    def go_on(self, until: float) -> None:
        while time.monotonic() < until:
            self.start()
            fault = self.chance.choices(list(FAULTS), weights=[weight for _, weight in FAULTS.values()])[0]
            self.faults[fault] += 1
            FAULTS[fault][0](self)

    def start(self) -> None:
        """Start the flow if it does not run, and mostly let it come to reading."""
        if not self.job.is_running():
            self.kill_rest()
            self.job.start(processes=self.chance.choice(PROCESSES))
            if self.chance.random() < 0.85:
                self.job.wait_until_reading()
        self.nap()
        if not self.job.is_running():
            self.note_end(f"run {self.job.starts} ended")
            self.kill_rest()

    def note_end(self, what: str) -> None:
        codes = [process.poll() for process in self.job.processes]
        tails = [log.read_text(errors="replace")[-800:] for log in self.job.logs]
        self.ends.append("\n".join([f"{what}: {codes}", *tails]))

    def nap(self) -> None:
        time.sleep(self.chance.uniform(0, NAP_S))

    def kill_rest(self) -> None:
        """Of a cluster of which one process has ended."""
        self.kills += sum(process.poll() is None for process in self.job.processes)
        self.job.kill()

    def kill_one(self) -> None:
        """One process of the flow; of a cluster the others end by themselves, or are killed later."""
        running = [process for process in self.job.processes if process.poll() is None]
        if running:
            killed = self.chance.choice(running)
            killed.kill()
            killed.wait()  # until it is gone it counts as running, and would then have "ended by itself"
            self.kills += 1
            self.nap()

    def drain(self) -> None:
        if self.job.is_running() and "is read from offset" in self.job.log():
            codes = self.job.drain()
            if any(codes):
                self.note_end(f"run {self.job.starts} did not drain")

    def crash(self, engine: EngineProcess) -> None:
        """A flow that starts meanwhile may give up; one that runs waits."""
        was_reading = "is read from offset" in self.job.log()
        engine.kill()
        self.nap()
        engine.start()
        if not was_reading and not self.job.is_running():
            self.kill_rest()

    def empty_redis(self) -> None:
        """While the flow writes wallets: one that has not begun to need not notice, and sends all anyway."""
        deadline = time.monotonic() + 15
        with closing(Redis.from_url(self.job.engines.redis_url)) as redis:
            batches = counted_batches(redis)
            while counted_batches(redis) == batches and time.monotonic() < deadline:
                time.sleep(0.05)
            is_writing = counted_batches(redis) > batches
            with self.watch.emptied():
                redis.flushall()
        deadline = time.monotonic() + 15
        while self.job.is_running() and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.job.is_running() and is_writing:
            self.note_end(f"run {self.job.starts} did not notice that Redis was emptied")
        self.kill_rest()


def counted_batches(redis: Redis) -> int:
    """Of all processes that ever wrote wallets."""
    counts: list[Any] = [redis.get(key) for key in redis.scan_iter(f"{MARKER}:*")]
    return sum(int(count or 0) for count in counts)


FAULTS: dict[str, tuple[Callable[[Torture], None], int]] = {
    "kill -9 of the whole flow": (Torture.kill_rest, 8),
    "kill -9 of one process": (Torture.kill_one, 4),
    "SIGTERM": (Torture.drain, 2),
    "kill -9 of the broker": (lambda t: t.crash(t.job.engines.kafka), 1),
    "kill -9 of ClickHouse": (lambda t: t.crash(t.job.engines.clickhouse), 1),
    "kill -9 of Redis": (lambda t: t.crash(t.job.engines.redis), 1),
    "FLUSHALL of Redis": (Torture.empty_redis, 1),
}
"""What happens, and how often against the others."""


def torture(seed: int, minutes: float, rate: float, directory: Path) -> bool:
    """Run and report; whether all is as it must be."""
    print(f"seed {seed}, {minutes:g} minutes, {rate:g} events/s, in {directory}", flush=True)
    began = time.monotonic()
    with engines(directory / "engines") as started:
        prepare(started)
        job = Job(started, directory, crash_catalog())
        try:
            with Load(started.kafka_brokers, seed, rate=rate) as load, Watch(started) as watch:
                torturing = Torture(job, load, watch, random.Random(f"torture {seed}"))
                torturing.go_on(began + minutes * 60)
                load.stop()
                torturing.kill_rest()
                job.run_until_end(timeout_s=600)
            truth, found = compare(started, crash_catalog())
        finally:
            job.kill()
    report(torturing, truth, found, time.monotonic() - began)
    return not (found or torturing.ends or watch.steps_back)


def report(torturing: Torture, truth: Expected, found: Differences, took_s: float) -> None:
    wrong = sum(map(len, found.found.values()))
    print(
        f"{took_s / 60:.1f} minutes; flow started {torturing.job.starts} times,"
        f" {torturing.kills} processes killed"
    )
    for fault, times in torturing.faults.most_common():
        print(f"{times:6} {fault}")
    print(
        f"{torturing.load.written:,} usage events written; {len(truth.events):,} counted, {len(truth.late):,}"
        f" late readings, {len(truth.duplicates):,} repeats, {len(truth.rejects):,} dead letters;"
        f" {len(truth.windows):,} windows, {len(truth.charges):,} charges, {len(truth.wallets):,} wallets"
    )
    print(f"{torturing.watch.readings:,} looks at the stores, {len(torturing.watch.steps_back)} steps back")
    for sentence in torturing.watch.steps_back[:5]:
        print(f"  {sentence}")
    print(f"{len(torturing.ends)} flows ended without a reason")
    for end in torturing.ends[:5]:
        print(f"  {end}")
    print(f"{wrong} differences to the oracle")
    if found:
        print(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--rate", type=float, default=400, help="usage events a second")
    parser.add_argument("--keep", type=Path, help="directory to keep everything in, new or empty")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as directory:
        is_right = torture(options.seed, options.minutes, options.rate, options.keep or Path(directory))
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
