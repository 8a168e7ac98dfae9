"""kill -9 of the flow, again and again, while events keep coming: everything equals the oracle.

`--crashes N` for more of them, `--seed N` for others; `make torture` for hours of all faults together.
"""

from __future__ import annotations

import random
import time
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from dataflows.embedded import Engines
from tests.e2e.alerts import alerts_in_redis, wrong_alerts
from tests.e2e.job import Job
from tests.e2e.load import Load, crash_catalog
from tests.e2e.stores import compare
from tests.e2e.watch import Watch


@pytest.mark.timeout(7200)
def test_kills_at_random_moments_change_nothing(
    started: Engines, tmp_path: Path, crashes: int, seed: int
) -> None:
    chance = random.Random(seed)
    job = Job(started, tmp_path, crash_catalog())
    with Load(started.kafka_brokers, seed) as load, Watch(started) as watch:
        for _ in range(crashes):
            job.start()
            if chance.random() < 0.8:
                job.wait_until_reading()
            time.sleep(chance.uniform(0, 2.5))
            job.kill()
        load.stop()
        job.run_until_end()
    truth, found = compare(started, crash_catalog())
    assert not found, f"seed {seed}:\n{found}"
    with closing(Redis.from_url(started.redis_url)) as redis:
        told = alerts_in_redis(redis, {key[:2] for key in truth.wallets})
    assert told, "thresholds were crossed"
    assert list(wrong_alerts(told, truth)) == []
    assert not watch.steps_back, watch.steps_back[:3]
    assert watch.readings > crashes, "usage was watched"
    assert truth.duplicates, "events were repeated"
    assert truth.late, "events were late"
    assert truth.rejects, "events were broken"
    assert len(truth.events) > load.written * 0.8
