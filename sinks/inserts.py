"""One insert into ClickHouse: retried while the store is away, bisected around rows that it refuses.

Arrow table -> acknowledged rows; bad rows -> `rejected`. A retried insert can repeat rows that had
arrived: every table of ours takes a repeated row as the same row.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from tenacity import RetryCallState, Retrying, sleep_using_event, stop_after_delay, stop_when_event_set
from tenacity import wait_exponential_jitter as exponential_jitter

from sinks import metrics
from sinks.failures import (
    Fault,
    StoreRefuses,
    StoreUnavailable,
    brief,
    clickhouse_fault,
    clickhouse_refuses,
    log_retry,
)

Rejected = Callable[[pa.RecordBatch, BaseException], None]
"""Takes rows that ClickHouse refuses for good, and why. Returns when they are stored elsewhere."""

INSERT_SETTINGS = {
    "async_insert": 0,  # an answer means stored; we batch ourselves
    "optimize_on_insert": 0,  # merges and FINAL replace rows; here it took a tenth of ClickHouse's CPU
    "max_partitions_per_insert_block": 0,  # imported history spans more months than its default of 100
}

AMBIGUOUS_TRIES = 3
"""Tries before an error that could be the network's is taken for a row's."""


@dataclass(frozen=True, kw_only=True)
class ClickHouseConfig:
    """Where ClickHouse is and how patient a sink is with it."""

    url: str = field(repr=False)
    """`http[s]://user:password@host:port/database`; user and password percent-encoded."""
    insert_rows_max: int = 100_000
    """Batches are combined into inserts of about this many rows; a larger batch is one insert."""
    insert_interval_ms: int = 200
    """Least time between inserts of a table, so that its parts stay few; a flush does not wait for it."""
    buffer_bytes_max: int = 64 << 20
    """Bytes a table buffers before it holds the stream back."""
    kept_bytes_max: int = 64 << 20
    """Bytes of a table that an epoch's end keeps in a file, and does not wait for."""
    epoch_s: float = 0.0
    """Time between snapshots: shortly before the next one rows that will be kept are written. 0: unknown."""
    drain_s: float = 30.0
    """The end of the flow waits this long for rows that are kept."""
    retry_deadline_s: float = 60.0
    """A failing insert is retried this long, with exponential back-off up to 5 s and jitter."""
    rejected_rows_max: int = 1000
    """Bad rows of one insert before the process ends instead of dead-lettering everything."""
    connect_timeout_s: float = 5.0
    receive_timeout_s: float = 30.0
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Of inserts; worth its CPU over a network, not on one machine."""

    def connect(self) -> Client:
        """A client that threads may share: without a session, one query does not lock out another."""
        url = urlsplit(self.url)
        return clickhouse_connect.get_client(
            interface=url.scheme,
            host=url.hostname or "",
            port=url.port or (8443 if url.scheme == "https" else 8123),
            username=unquote(url.username or "default"),
            password=unquote(url.password or ""),
            database=unquote(url.path.strip("/")) or "default",
            compress=False if self.compression == "none" else self.compression,
            connect_timeout=self.connect_timeout_s,
            send_receive_timeout=self.receive_timeout_s,
            autogenerate_session_id=False,
        )


class Inserter:
    """Inserts tables into one ClickHouse table and returns when they are acknowledged. One thread's."""

    def __init__(
        self, config: ClickHouseConfig, table: str, rejected: Rejected | None, stop: threading.Event
    ) -> None:
        self._config, self._table, self._rejected, self._stop = config, table, rejected, stop
        self._client: Client | None = None

    def insert(self, rows: pa.Table) -> None:
        """Insert all rows, except those that ClickHouse refuses for good: they go to `rejected`.

        Raises `StoreUnavailable` after the deadline and `StoreRefuses` on a wrong configuration.
        """
        bad = self._insert(rows, self._config.rejected_rows_max)
        if bad:
            metrics.REJECTED_ROWS.labels(self._table).inc(bad)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _insert(self, rows: pa.Table, bad_max: int) -> int:
        """Insert, bisecting around bad rows; how many were bad, at most `bad_max`."""
        try:
            self._send(rows)
        except DatabaseError as error:
            if self._rejected is None or bad_max == 0:
                raise StoreRefuses(
                    f"ClickHouse refuses more rows of {self._table} at once than can be bad: {brief(error)}"
                ) from error
            if rows.num_rows == 1:
                self._rejected(rows.to_batches()[0], error)
                return 1
        else:
            return 0
        middle = rows.num_rows // 2
        bad = self._insert(rows.slice(0, middle), bad_max)
        return bad + self._insert(rows.slice(middle), bad_max - bad)

    def _send(self, rows: pa.Table) -> None:
        """One insert, retried. A `DatabaseError` that gets out is about the rows."""
        retrying = Retrying(
            retry=_may_pass,
            wait=exponential_jitter(multiplier=0.05, max=5.0, jitter=0.05),
            stop=stop_after_delay(self._config.retry_deadline_s) | stop_when_event_set(self._stop),
            sleep=sleep_using_event(self._stop),
            before_sleep=self._note_retry,
            reraise=True,
        )
        try:
            retrying(self._try, rows)
        except Exception as error:
            fault = clickhouse_fault(error)
            if fault is Fault.FATAL:
                raise clickhouse_refuses(self._table, error) from error
            if fault is Fault.TRANSIENT:
                raise StoreUnavailable(
                    f"ClickHouse has not taken {rows.num_rows} rows of {self._table} for "
                    f"{self._config.retry_deadline_s:g} s: {brief(error)}"
                ) from error
            raise
        metrics.CIRCUIT_OPEN.labels(self._table).set(0)

    def _try(self, rows: pa.Table) -> None:
        started = time.perf_counter()
        if self._client is None:
            self._client = self._config.connect()
        self._client.insert_arrow(self._table, rows, settings=INSERT_SETTINGS)
        metrics.WRITE_SECONDS.labels(self._table).observe(time.perf_counter() - started)
        metrics.WRITES.labels(self._table).inc()
        metrics.ROWS.labels(self._table).inc(rows.num_rows)

    def _note_retry(self, state: RetryCallState) -> None:
        metrics.RETRIES.labels(self._table).inc()
        metrics.CIRCUIT_OPEN.labels(self._table).set(1)
        log_retry(self._table, state)


def _may_pass(state: RetryCallState) -> bool:
    """Whether the same insert may succeed if it is sent again."""
    error = state.outcome.exception() if state.outcome else None
    if error is None:
        return False
    fault = clickhouse_fault(error)
    return fault is Fault.TRANSIENT or (fault is Fault.AMBIGUOUS and state.attempt_number < AMBIGUOUS_TRIES)
