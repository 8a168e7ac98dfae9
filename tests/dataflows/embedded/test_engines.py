"""Engines start together, are crashed and continued, end with their starter, and say why they failed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import clickhouse_connect
import pytest
import redis
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # only its stub lacks it

from dataflows.embedded import EngineError, EngineProcess, Redis, engines

WAIT_S = 20.0


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + WAIT_S
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def test_three_engines_answer_at_their_addresses_and_are_gone_afterwards(tmp_path: Path) -> None:
    with engines(tmp_path, partitions=3) as started:
        with clickhouse_connect.get_client(dsn=started.clickhouse_url) as client:
            assert client.command("SELECT currentDatabase()") == "meterline"
        with clickhouse_connect.get_client(dsn=started.clickhouse_readonly_url) as client:
            assert client.command("SELECT 1") == 1
        with redis.Redis.from_url(started.redis_url) as client:
            assert client.ping()
        kafka = AdminClient({"bootstrap.servers": started.kafka_brokers})
        kafka.create_topics([NewTopic("topic", num_partitions=-1)])["topic"].result(10)
        assert len(kafka.list_topics(timeout=10).topics["topic"].partitions) == 3
        pids = [started.kafka.pid, started.clickhouse.pid, started.redis.pid]
    assert gone(pids)


def test_an_engine_is_crashed_and_continues_on_its_port(tmp_path: Path) -> None:
    with Redis(tmp_path) as engine:
        url, pid = engine.url, engine.pid
        engine.kill()
        assert gone([pid])
        assert not engine.running
        with pytest.raises(RuntimeError, match="not running"):
            engine.pid  # noqa: B018 - reading it raises
        engine.start()
        assert (engine.url, engine.pid != pid) == (url, True)
        with pytest.raises(RuntimeError, match="running already"):
            engine.start()


def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    engine = Redis(tmp_path)
    engine.start()
    engine.stop()
    engine.stop()
    engine.kill()
    assert not engine.running


def test_an_engine_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        engine = Redis(tmp_path, taken.getsockname()[1])
        with pytest.raises(EngineError, match=r"(?s)redis ended instead of starting.*Address already in use"):
            engine.start()
    assert not engine.running
    engine.start()  # the port is free now; the log of the failure does not count
    engine.stop()


def test_an_engine_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataflows.embedded.processes.READY_TIMEOUT_S", 0.5)
    engine = EngineProcess("silent", tmp_path, 0, lambda port: ["sleep", "60"])
    with pytest.raises(EngineError, match=r"silent did not answer within 0\.5 s"):
        engine.start()
    assert not engine.running


STARTER = """
import sys, time
from pathlib import Path
from dataflows.embedded import ClickHouse, Redis
with ClickHouse(Path(sys.argv[1], "clickhouse")) as clickhouse, Redis(Path(sys.argv[1], "redis")) as redis:
    print(clickhouse.pid, redis.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_engines_end_with_the_process_that_started_them(tmp_path: Path, end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, tmp_path], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        starter.send_signal(end)
    assert gone(pids)


def test_ctrl_c_reaches_the_starter_and_not_the_engines(tmp_path: Path) -> None:
    """Ctrl-C is a SIGINT to a whole process group; the flow drains first, and needs its engines to."""
    with Redis(tmp_path) as engine:
        assert os.getpgid(engine.pid) != os.getpgid(0)
