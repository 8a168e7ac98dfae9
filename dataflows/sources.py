"""Kafka topics as a source: one batch object a poll, offsets as state, and never a silent skip.

KafkaSource(config) -> Stream[RawBatch]; a part is `topic/partition`, of one or several topics.

State of a part: `dataflows.offsets.Position`, in Bytewax's recovery store. On resume it is checked against
the broker's log, and one that the log can't go on from ends the process with a `SourceError`. A broker that
is away or restarts is waited for, and reading goes on where it stopped.
The group's offsets on the broker are for lag tools: one snapshot behind, so never ahead of the recovery store
but for the last one when the flow ends, and never read.
`drain` (SIGTERM) and the ends seen at start (`until_end`) end a part; the last epoch then commits.
"""

from __future__ import annotations

import functools
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ParamSpec, TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from typing_extensions import override

from dataflows.kafka_client import PASSING, BrokerWatch, Cluster, KafkaConfig, consumer, describe, unreachable
from dataflows.kafka_fetch import Fetched, Fetcher, Report
from dataflows.offsets import Log, Position, SourceError, Start, first_position, resumed_position
from dataflows.source_metrics import BYTES, RECORDS
from schemas.events import RawBatch
from schemas.records import Records

__all__ = ["KafkaConfig", "KafkaSource", "SourceConfig", "SourceError", "drain", "install_drain_handler"]

_LOG = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")

LAST_PART = 16
"""Of a batch, in the last poll of an epoch; it is not empty, so that batches longer than an epoch get on."""
CLOSE_MAX_S = 5
"""How long a consumer may take to close."""

drain = threading.Event()
"""Set: every part of every source of this process ends at its next poll."""


def install_drain_handler() -> None:
    """Let SIGTERM set `drain`; by default it would kill the process before its last epoch commits."""
    signal.signal(signal.SIGTERM, lambda *_: drain.set())


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """What is read, and how."""

    kafka: KafkaConfig
    topics: tuple[str, ...]
    start: Start = "earliest"
    """Where a partition begins that the recovery store does not know."""
    until_end: bool = False
    """End each part at the end of its log as seen at start."""
    batch_messages_max: int = 8_000
    """Records of one batch. The steps behind pay some 5 ms a batch, whatever its size, so a backlog is read
    in large ones; a flow that falls behind finds more at each poll, until it keeps up."""
    batch_bytes_max: int = 4 << 20
    """A batch ends with the record that reaches so many bytes; the steps behind make several copies of each.
    Without it payloads of 0.7 MB in a row came in batches of 33 MB, and the process took 700 MiB, not 600."""
    epoch_s: float = 2
    """Time between epochs' ends. The last poll of one takes `LAST_PART` of a batch: everything stands still
    until what it brought is through, 0.13 s for whole batches of four partitions."""
    poll_interval_ms: int = 40
    """A poll that does not fill its batch is followed by the next one after this time. It must stay far below
    the epoch interval: Bytewax can't end an epoch while a source sleeps."""
    heartbeat_s: float = 5
    """An idle part that has been read to its end says so this often, by an empty batch."""
    clock_skew_s: float = 60
    """A heartbeat's `progress_ms` is as long before now: what the broker's clock may lag behind ours, and
    what a record may take to its replicas."""


def _logged(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Log what leaves `method`: a cluster of Bytewax processes loses tracebacks."""

    @functools.wraps(method)
    def logged(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except StopIteration:
            raise
        except SourceError as error:
            _LOG.error("%s", error)  # the sentence says it all
            raise
        except Exception:
            _LOG.exception("the Kafka source failed")
            raise

    return logged


class KafkaSource(FixedPartitionedSource[RawBatch, bytes]):
    """Partitions of one or more topics. All topics of a flow belong in one source: a source step that waits
    holds up the epochs of all others, parts of the same step don't."""

    def __init__(self, config: SourceConfig, now_getter: Callable[[], datetime] = utc_now) -> None:
        self._config = config
        self._now_getter = now_getter
        self._cluster: Cluster | None = None

    @override
    @_logged
    def list_parts(self) -> list[str]:
        partitions = self._describe().partitions
        return [f"{topic}/{number}" for topic, count in partitions.items() for number in range(count)]

    @override
    @_logged
    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> KafkaPartition:
        topic, _, number = for_part.rpartition("/")
        return KafkaPartition(
            self._config,
            self._now_getter,
            self._describe(),
            topic=topic,
            partition=int(number),
            resume_state=resume_state,
        )

    def _describe(self) -> Cluster:
        if self._cluster is None:
            self._cluster = describe(self._config.kafka, self._config.topics)
        return self._cluster


class KafkaPartition(StatefulSourcePartition[RawBatch, bytes]):
    """One partition: its own consumer, assigned to it alone."""

    def __init__(
        self,
        config: SourceConfig,
        now_getter: Callable[[], datetime],
        cluster: Cluster,
        *,
        topic: str,
        partition: int,
        resume_state: bytes | None,
    ) -> None:
        self._config = config
        self._now_getter = now_getter
        self._topic, self._partition = topic, partition
        self._partitions = cluster.partitions[topic]
        self._cluster_id, self._topic_id = cluster.id, cluster.topic_ids[topic]
        self._watch = BrokerWatch(topic, partition)
        self._consumer = consumer(config.kafka, self._watch.callbacks())
        log = self._log()
        position = (
            first_position(log, config.start)
            if resume_state is None
            else resumed_position(log, Position.decode(resume_state))
        )
        self._next_offset = self._watch.next_offset = position.next_offset
        self._progress_ms = position.progress_ms
        self._end = log.high
        self._at_end = False
        self._committed = self._snapshotted = -1
        self._awake_at: datetime | None = None
        self._epoch_began_s = time.monotonic()
        self._heartbeat_at = now_getter()
        labels = (topic, str(partition))
        self._records, self._bytes = RECORDS.labels(*labels), BYTES.labels(*labels)
        self._fetcher = Fetcher(self._consumer, topic, partition)
        self._consumer.assign([TopicPartition(topic, partition, self._next_offset)])
        _LOG.info("%s is read from offset %d of %d", log.name, self._next_offset, log.high)

    @override
    @_logged
    def next_batch(self) -> list[RawBatch]:
        if drain.is_set() or (self._config.until_end and self._next_offset >= self._end):
            raise StopIteration
        now = self._now_getter()
        part = LAST_PART if time.monotonic() - self._epoch_began_s >= self._config.epoch_s else 1
        fetched = self._fetcher.fetch(
            -(-self._config.batch_messages_max // part), self._config.batch_bytes_max // part
        )
        is_full = fetched.is_full
        self._awake_at = None if is_full else now + timedelta(milliseconds=self._config.poll_interval_ms)
        records = self._records_of(fetched)
        if len(records):
            return [self._batch(records, now)]
        if self._at_end and now >= self._heartbeat_at and self._watch.is_heard():
            return [self._heartbeat(now)]
        return []

    @override
    def next_awake(self) -> datetime | None:
        return self._awake_at

    @override
    @_logged
    def snapshot(self) -> bytes:
        """The position after the last emitted record. What the snapshot before said is committed by now."""
        self._epoch_began_s = time.monotonic()
        self._commit(self._snapshotted)
        self._snapshotted = self._next_offset
        return Position(self._next_offset, self._cluster_id, self._topic_id, self._progress_ms).encode()

    @override
    @_logged
    def close(self) -> None:
        self._commit(self._snapshotted)
        self._fetcher.close()
        # librdkafka has been seen to wait for ever here, for a commit that a broker that died never answered.
        # Nothing depends on it: offsets are in the recovery store, and the process is about to end.
        closing = threading.Thread(target=self._consumer.close, name="close-consumer", daemon=True)
        closing.start()
        closing.join(CLOSE_MAX_S)
        if closing.is_alive():
            _LOG.warning("%s/%d: the consumer does not close", self._topic, self._partition)

    def _records_of(self, fetched: Fetched) -> Records:
        """Records to emit, after taking note of what else librdkafka reports among them."""
        if self._watch.fatal:
            raise SourceError(f"{self._topic}/{self._partition}: {self._watch.fatal}")
        records = fetched.records
        if len(records):
            self._advance(records)
            self._at_end = False
        for report in fetched.reports:
            self._take(report)
        if self._config.until_end and self._next_offset > self._end:
            self._next_offset = self._watch.next_offset = self._end
            records = records.select(records.offset < self._end)
        return records

    def _advance(self, records: Records) -> None:
        first, last = int(records.offset[0]), int(records.offset[-1])
        # Gaps are no loss: compaction and transactions leave them.
        if first < self._next_offset or last - first < len(records) - 1:
            raise SourceError(
                f"{self._topic}/{self._partition}: the broker sent records {first} to {last} when asked for"
                f" {self._next_offset}: its log is not the one read before. Start again to have it checked"
            )
        self._next_offset = self._watch.next_offset = last + 1

    def _take(self, report: Report) -> None:
        if report.code == KafkaError._PARTITION_EOF:
            # Its offset is past the gaps that transactions leave at the end of a log.
            self._next_offset = self._watch.next_offset = max(self._next_offset, report.offset)
            self._at_end = report.is_last  # else records came after it
        elif report.code == KafkaError._AUTO_OFFSET_RESET:
            raise SourceError(
                f"{self._topic}/{self._partition}: offset {self._next_offset} is gone from Kafka:"
                f" {report.text}. Start again to learn what is lost"
            )
        elif report.code in PASSING:
            self._watch.note_error(report.text)
        else:
            raise SourceError(f"{self._topic}/{self._partition} can't be read: {report.text}")

    def _batch(self, records: Records, now: datetime) -> RawBatch:
        self._records.inc(len(records))
        self._bytes.inc(int((records.value_end - records.start).sum()))
        # A producer's clock may be years ahead (CreateTime topics); the progress of all must not follow it.
        limit_ms = _ms(now + timedelta(seconds=self._config.clock_skew_s))
        self._progress_ms = max(self._progress_ms, min(int(records.append_ms[-1]), limit_ms))
        self._heartbeat_at = now + timedelta(seconds=self._config.heartbeat_s)
        return RawBatch(self._topic, self._partition, records, self._progress_ms, self._partitions)

    def _heartbeat(self, now: datetime) -> RawBatch:
        reached_ms = _ms(now - timedelta(seconds=self._config.clock_skew_s))
        self._progress_ms = max(self._progress_ms, reached_ms)
        self._heartbeat_at = now + timedelta(seconds=self._config.heartbeat_s)
        return RawBatch(self._topic, self._partition, [], self._progress_ms, self._partitions)

    def _commit(self, offset: int) -> None:
        if offset > self._committed:
            self._committed = offset
            at = TopicPartition(self._topic, self._partition, offset)
            self._consumer.commit(offsets=[at], asynchronous=True)

    def _log(self) -> Log:
        """What the broker has of this partition now."""
        config = self._config.kafka
        name = f"{self._topic}/{self._partition}"
        try:
            at = TopicPartition(self._topic, self._partition)
            low, high = self._consumer.get_watermark_offsets(at, timeout=config.timeout_s)
        except KafkaException as error:
            raise unreachable(config, f"the ends of {name}: {self._watch.last_error or error}") from None
        return Log(name, self._cluster_id, self._topic_id, low, high)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
