"""The demo, whole: its self-check passes on what the flow stored, and fails on whatever was tampered with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dataflows.demo import DemoOptions, demo
from dataflows.embedded import Engines
from dataflows.stores import clickhouse, redis
from dataflows.workload import Kind

DEMO = (sys.executable, "-m", "dataflows.cli", "demo")

VERSION_PLUS_1 = """
INSERT INTO {table} SELECT * REPLACE ({change}, version + 1 AS version) FROM {table} FINAL LIMIT 1
"""


def tamper(running: Engines) -> None:
    """One value in each store, as a bug would."""
    with clickhouse(running.clickhouse_url) as client:
        for table, change in (
            ("usage_windows", "events + 1 AS events"),
            ("usage_charges", "toDecimal128(amount, 12) + toDecimal128('0.01', 12) AS amount"),
        ):
            client.command(VERSION_PLUS_1.format(table=table, change=change))
        for table in ("usage_events", "late_readings"):
            client.command(
                f"INSERT INTO {table} SELECT * REPLACE ('one too many' AS id) FROM {table} FINAL LIMIT 1"
            )
        client.command(
            "INSERT INTO dead_letters SELECT * REPLACE ('too_large' AS reason, 1000000 AS offset)"
            " FROM dead_letters FINAL LIMIT 1"
        )
    with redis(running.redis_url) as wallets:
        key = min(wallets.scan_iter("wallet:*:USD"))
        wallets.hset(key, "available", "999999")


def test_a_check_names_each_value_that_is_not_the_truth(capsys: pytest.CaptureFixture[str]) -> None:
    """A row in each store is tampered with; without that all is equal, as the next test shows."""
    assert not demo(DemoOptions(seconds=3, rate=400), as_json=True, before_check=tamper)
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert {check["store"]: len(check["differences"]) for check in report["checks"]} == {
        "usage_events": 1,
        "usage_windows": 1,
        "late_readings": 1,
        "usage_charges": 1,
        "wallets": 1,
        "dead_letters": 1,
    }
    differences = {check["store"]: check["differences"][0] for check in report["checks"]}
    assert "found" in differences["usage_windows"]
    assert "999999" in differences["wallets"]
    assert "too_large: expected nothing, found 1" in differences["dead_letters"]


def test_the_demo_agrees_with_the_truth_and_keeps_its_directory(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    ran = subprocess.run(
        [*DEMO, "--seconds", "3", "--rate", "400", "--keep", str(kept)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "SELF-CHECK PASSED" in ran.stdout
    assert "1,200 usage events" in ran.stdout
    assert "dead letters" in ran.stderr  # no terminal: lines of progress
    assert (kept / "recovery" / "meterline.json").exists()
    again = subprocess.run(
        [*DEMO, "--keep", str(kept)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert again.returncode == 2
    assert "is not empty" in again.stderr
    assert Kind.BAD in ran.stdout
