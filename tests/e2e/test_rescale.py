"""One flow on 1, 2, 3 and 1 processes, killed and drained in between, over one recovery store: all exact."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from dataflows.embedded import Engines
from tests.e2e.job import Job
from tests.e2e.load import Load, crash_catalog
from tests.e2e.stores import compare

RUN_S = 2.0


def check(started: Engines) -> None:
    truth, found = compare(started, crash_catalog())
    assert not found, str(found)
    assert truth.duplicates, "events were repeated"
    assert truth.late, "events were late"


def test_a_flow_that_is_rescaled_by_kills_stays_exact(started: Engines, tmp_path: Path) -> None:
    job = Job(started, tmp_path, crash_catalog())
    with Load(started.kafka_brokers, seed=11) as load:
        for processes in (1, 2, 3, 1):
            job.start(processes=processes)
            job.wait_until_reading()
            time.sleep(RUN_S)
            assert job.is_running(), job.log()
            job.kill()
        load.stop()
        job.run_until_end()
    check(started)


def test_a_process_of_a_cluster_that_dies_takes_the_others_with_it(started: Engines, tmp_path: Path) -> None:
    job = Job(started, tmp_path, crash_catalog())
    with Load(started.kafka_brokers, seed=12) as load:
        job.start(processes=2)
        job.wait_until_reading()
        time.sleep(RUN_S)
        job.processes[1].kill()
        survivor, killed = job.wait(timeout_s=30)
        assert killed == -signal.SIGKILL
        assert survivor != 0, f"a half cluster that ends as if all were well:\n{job.log()}"
        job.start(processes=2)
        job.wait_until_reading()
        time.sleep(RUN_S)
        load.stop()
        assert job.drain() == [0, 0], job.log()
        job.run_until_end()
    check(started)


def test_sigterm_drains_one_process_and_then_all(started: Engines, tmp_path: Path) -> None:
    job = Job(started, tmp_path, crash_catalog())
    with Load(started.kafka_brokers, seed=13) as load:
        job.start(processes=2)
        job.wait_until_reading()
        time.sleep(RUN_S)
        job.processes[0].send_signal(signal.SIGTERM)
        time.sleep(RUN_S)
        assert job.is_running(), f"a drained process works for the others until they end:\n{job.log()}"
        assert job.drain() == [0, 0], job.log()
        job.start()
        job.wait_until_reading()
        time.sleep(RUN_S)
        load.stop()
        assert job.drain() == [0], job.log()
        job.run_until_end()
    check(started)
