"""`meterline up`: the embedded engines in the foreground, ready for one's own producers and `meterline run`.

State: everything is in one directory; the same directory and ports continue where they stopped.
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from dataflows.embedded import Engines, engines
from dataflows.exits import FailureError
from dataflows.locks import FileLock, LockHeldError
from dataflows.ports import require_free_port
from dataflows.settings import Settings
from dataflows.stores import migrate_clickhouse
from dataflows.topics import create_topics


@dataclass(frozen=True)
class Ports:
    """0 is any free port."""

    kafka: int
    clickhouse: int
    redis: int


def up(directory: Path, ports: Ports) -> None:
    """Run the engines until SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with held_directory(directory):
        for engine, port in asdict(ports).items():
            require_free_port("127.0.0.1", port, f"Name another --port-{engine}, or 0 for any")
        print(f"starting engines in {directory}", file=sys.stderr)
        with engines(
            directory, kafka_port=ports.kafka, clickhouse_port=ports.clickhouse, redis_port=ports.redis
        ) as running:
            catalog = starter_catalog(directory)
            environment = engine_environment(running, directory, catalog)
            prepare(running, catalog)
            lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in environment.items())
            env_file = directory / "env"
            env_file.touch(mode=0o600)  # it has passwords
            env_file.write_text(lines)
            print(lines, end="", flush=True)
            print(f"ready; the lines above are in {env_file}; Ctrl-C stops the engines", file=sys.stderr)
            stop.wait()
            print("stopping", file=sys.stderr)


@contextmanager
def held_directory(directory: Path) -> Iterator[None]:
    """Engines of two processes on the same files would destroy them."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "lock")
    try:
        lock.exclusive()
    except LockHeldError:
        lock.close()
        raise FailureError(f"engines run in {directory} already: stop them, or name another --dir") from None
    try:
        yield
    finally:
        lock.close()


def engine_environment(running: Engines, directory: Path, catalog: Path) -> dict[str, str]:
    """The settings that reach these engines."""
    return {
        "METERLINE_KAFKA_BROKERS": running.kafka_brokers,
        "METERLINE_CLICKHOUSE_URL": running.clickhouse_url,
        "METERLINE_REDIS_URL": running.redis_url,
        "METERLINE_CATALOG": str(catalog.absolute()),
        "METERLINE_RECOVERY_DIR": str((directory / "recovery").absolute()),
    }


def prepare(running: Engines, catalog: Path) -> Settings:
    """Make tables and topics; the settings of clients of these engines."""
    settings = Settings.load(
        kafka_brokers=running.kafka_brokers,
        clickhouse_url=running.clickhouse_url,
        redis_url=running.redis_url,
        catalog=catalog,
    )
    migrate_clickhouse(settings.clickhouse_url)
    create_topics(settings)
    return settings


def starter_catalog(directory: Path) -> Path:
    """The directory's catalog.yaml, written if it has none."""
    file = directory / "catalog.yaml"
    if not file.exists():
        file.write_text(files("dataflows").joinpath("starter_catalog.yaml").read_text(encoding="utf-8"))
    return file
