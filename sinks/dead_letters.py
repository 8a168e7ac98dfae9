"""Records that are not metered, with their original bytes: the table `dead_letters`.

`Reject`s -> rows of `schemas.arrow.DEAD_LETTERS`, each exactly once: the table is a ReplacingMergeTree by
(topic, partition, offset), and every column is a function of the record, so a replay repeats the same row.
Rows that ClickHouse itself refuses come here too (`StoreRejects`).
`sinks.dead_letter_topic` writes the same rejects to Kafka.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import orjson
import pyarrow as pa

from schemas.arrow import DEAD_LETTERS
from schemas.events import Reason, Reject
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink
from sinks.failures import brief
from sinks.inserts import Inserter
from sinks.kept_rows import MakeFiles

TABLE = "dead_letters"


def reject_rows(rejects: Sequence[Reject]) -> pa.RecordBatch:
    """Rejects as rows of `dead_letters`."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(reject.reason) for reject in rejects], pa.string()),
            pa.array([reject.detail for reject in rejects], pa.string()),
            pa.array([reject.topic for reject in rejects], pa.string()),
            pa.array([reject.partition for reject in rejects], pa.int32()),
            pa.array([reject.offset for reject in rejects], pa.int64()),
            pa.array([reject.append_ms for reject in rejects], DEAD_LETTERS.field("appended_at").type),
            pa.array([reject.key for reject in rejects], pa.binary()),
            pa.array([reject.payload for reject in rejects], pa.binary()),
            pa.array([_headers_json(reject.headers) for reject in rejects], pa.string()),
        ],
        schema=DEAD_LETTERS,
    )


def _headers_json(headers: Sequence[tuple[str, bytes]]) -> str:
    return json.dumps([[name, base64.b64encode(value).decode()] for name, value in headers])


def dead_letters(config: ClickHouseConfig, shards: int, files: MakeFiles | None = None) -> ClickHouseSink:
    """The table. A dead letter that ClickHouse refuses has nowhere to go: it ends the process."""
    return ClickHouseSink(config, TABLE, DEAD_LETTERS, shards, files=files)


class StoreRejects:
    """Writes rows that a table refuses to `dead_letters`, reason `store_rejected`, payload the row as JSON.

    The place of a row is that of its record (`usage_events`), or, for a row made of many records, the
    table's name, partition -1 and a hash of the row as its offset: a replay has the same place again.
    """

    def __init__(self, config: ClickHouseConfig, table: str, topic: str | None = None) -> None:
        """`topic`: where rows with `partition` and `offset` come from, if a row is one whole record."""
        self._table, self._topic = table, topic
        self._inserter = Inserter(config, TABLE, None, threading.Event())

    def __call__(self, rows: pa.RecordBatch, error: BaseException) -> None:
        """Returns when the rows are in `dead_letters`."""
        rejects = [self.reject(row, brief(error)) for row in rows.to_pylist()]
        self._inserter.insert(pa.Table.from_batches([reject_rows(rejects)]))

    def reject(self, row: Mapping[str, Any], detail: str) -> Reject:
        payload = orjson.dumps(dict(row), default=_plain)
        at: datetime = next(row[name] for name in _TIMES if name in row)
        record = self._topic is not None
        return Reject(
            reason=Reason.STORE_REJECTED,
            detail=detail,
            topic=self._topic or self._table,
            partition=row["partition"] if record else -1,
            offset=row["offset"] if record else _place(payload),
            append_ms=int((at - _EPOCH).total_seconds() * 1000),
            key=b"",
            payload=payload,
            headers=(),
        )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = ("ingested_at", "window_start", "period_start")
"""The column that dates a row; the clock would give a replay another date."""


def _place(payload: bytes) -> int:
    return int.from_bytes(blake2b(payload, digest_size=8).digest()) >> 1


def _plain(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
