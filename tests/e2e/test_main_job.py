"""50,000 mixed events through the real flow on real engines equal the oracle, to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from dataflows.embedded import Engines, engines
from dataflows.workload import Workload
from dataflows.workload_catalog import workload_catalog
from sinks.clickhouse import ClickHouseConfig
from tests.e2e.job import Job, prepare, produce
from tests.e2e.stores import Differences, compare

EVENTS = 50_000


@pytest.fixture(scope="module")
def finished_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    directory = tmp_path_factory.mktemp("job")
    with engines(directory / "engines") as started:
        prepare(started)
        rate = 1000.0
        start = datetime.now(UTC) - timedelta(seconds=EVENTS / rate)
        workload = Workload(7, start=start, customers=500, rate=rate, duplicates=0.02, bad=0.02, late=0.02)
        produce(started.kafka_brokers, "account-events", workload.account_events())
        assert produce(started.kafka_brokers, "usage-events", workload.events(EVENTS)) == EVENTS
        job = Job(started, directory, workload_catalog())
        job.run_until_end()
        yield job


def compared(started: Engines) -> Differences:
    truth, found = compare(started, workload_catalog())
    assert len(truth.events) > EVENTS * 0.9
    assert truth.windows, "the workload has windows"
    assert truth.late, "the workload has late readings"
    assert truth.duplicates, "the workload has duplicates"
    assert truth.rejects, "the workload has rejects"
    return found


def test_every_window_charge_wallet_and_dead_letter_equals_the_oracle(finished_job: Job) -> None:
    found = compared(finished_job.engines)
    assert not found, str(found)


def test_a_second_run_over_the_same_log_changes_nothing(finished_job: Job) -> None:
    finished_job.run_until_end()
    found = compared(finished_job.engines)
    assert not found, str(found)


def test_a_tampered_window_is_found(finished_job: Job) -> None:
    with closing(ClickHouseConfig(url=finished_job.engines.clickhouse_url).connect()) as clickhouse:
        clickhouse.command(
            "INSERT INTO usage_windows SELECT * REPLACE (events + 1 AS events, version + 1 AS version) "
            "FROM usage_windows FINAL ORDER BY tenant_id, meter_id, external_customer_id LIMIT 1"
        )
    found = compared(finished_job.engines)
    assert list(found.found) == ["usage_windows"]
