"""An analyst who looks at usage all the time, and a subscriber of wallets: neither may see it go back.

What a crash repeats must not show an older state again, not even for a moment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from clickhouse_connect.driver.exceptions import ClickHouseError
from redis import Redis
from redis.exceptions import RedisError

from dataflows.embedded import Engines
from sinks.clickhouse import ClickHouseConfig

INTERVAL_S = 0.2


class Watch:
    """Polls both stores from a thread; a store that is away is looked at again later."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._looking = threading.Lock()
        self._windows = 0
        self._versions: dict[bytes, int] = {}
        self.readings = 0
        self.steps_back: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """Redis is emptied meanwhile: its wallets begin anew."""
        with self._looking:
            yield
            self._versions = {}

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            with suppress(ClickHouseError, OSError):
                self._look_at_windows()
                self.readings += 1
            with suppress(RedisError, OSError), self._looking:
                self._look_at_wallets()

    def _look_at_windows(self) -> None:
        config = ClickHouseConfig(url=self._engines.clickhouse_url, receive_timeout_s=5)
        with closing(config.connect()) as client:
            ((events,),) = client.query("SELECT sum(events) FROM usage_windows FINAL").result_rows
        if events < self._windows:
            self.steps_back.append(f"{events} readings in all windows after {self._windows}")
        self._windows = events

    def _look_at_wallets(self) -> None:
        with closing(Redis.from_url(self._engines.redis_url, socket_timeout=5)) as redis:
            for key in redis.scan_iter("wallet:*:USD", count=1000):
                before = self._versions.get(key, 0)
                stored: Any = redis.hget(key, "version")
                if int(stored or 0) < before:
                    self.steps_back.append(f"{key!r} has version {stored!r} after {before}")
                self._versions[key] = int(stored or 0)
