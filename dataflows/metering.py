"""The flow, from Kafka to ClickHouse and Redis. Read this first.

    usage-events ─► decode ─► meter ─► shard ─► dedupe ─┬─► usage_events
                      │         │                       ├─► window ─┬─► usage_windows
                      ▼ ceiling ▼                       │           └─► late_readings
                     dead_letters ◄─────────────────────┼─► bill ─┬─► usage_charges
                                ▲                       │         └─► wallets
    account-events ─► decode_accounts ──────────────────┘

An item is a batch; a key is a shard of customers. Every output is an absolute row with a version, so that
what a crash repeats changes nothing; a row is acknowledged, or part of the state, before its epoch commits.

Values are read (`meter`) before ids are taken (`dedupe`): an event that a meter can't read must not use up
its id, or its repaired copy would be dropped as a repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import FixedPartitionedSource
from bytewax.operators import KeyedStream
from bytewax.outputs import FixedPartitionedSink

from dataflows import operator_metrics as metrics
from dataflows.catalogs import read_catalog
from dataflows.settings import Settings
from dataflows.sources import KafkaConfig, KafkaSource, SourceConfig, install_drain_handler
from dataflows.state_files import StateFiles
from operators.account_state import DAY_MS
from operators.archive import Archive
from operators.bill import bill
from operators.bills import BillConfig
from operators.ceiling import Ceiling, CeilingConfig
from operators.decode import DecodeConfig, decode
from operators.decode_accounts import DecodeAccountsConfig, decode_accounts
from operators.dedupe import DedupeConfig, dedupe
from operators.meter import meter
from operators.shard import shard, shard_key
from operators.snapshot_files import SnapshotFiles
from operators.window import WindowConfig, window
from operators.window_state import WindowedMeter
from schemas.catalog import Catalog
from schemas.events import RawBatch, Reject
from schemas.usage import Slice
from schemas.wallets import WalletAlert, WalletRow
from sinks.clickhouse import ClickHouseConfig
from sinks.dead_letter_topic import DeadLetterTopicSink
from sinks.dead_letters import dead_letters, reject_rows
from sinks.late_readings import late_readings
from sinks.live_alerts import LiveAlertsSink
from sinks.usage_charges import usage_charges
from sinks.usage_events import usage_events
from sinks.usage_windows import usage_windows
from sinks.wallet_alerts import WalletAlertsSink
from sinks.wallets import RedisConfig, WalletsSink

RawSource = FixedPartitionedSource[RawBatch, Any]
RowSink = FixedPartitionedSink[pa.RecordBatch, Any]


@dataclass(frozen=True)
class Sinks:
    """Where results go: one a table or store, named like it."""

    usage_events: RowSink
    usage_windows: RowSink
    late_readings: RowSink
    usage_charges: RowSink
    dead_letters: RowSink
    dead_letter_topic: FixedPartitionedSink[Sequence[Reject], Any]
    wallets: FixedPartitionedSink[list[WalletRow], Any]
    wallet_alerts: FixedPartitionedSink[Sequence[WalletAlert], Any]
    live_alerts: FixedPartitionedSink[Sequence[WalletAlert], Any]


def build_flow(
    catalog: Catalog,
    settings: Settings,
    source: RawSource,
    sinks: Sinks,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    archive: Archive | None = None,
) -> Dataflow:
    """The flow over any source of both topics, and any sinks. Opens nothing.

    :arg archive: Files beside the recovery store, for state that is written once.
    """
    shards = settings.shards
    flow = Dataflow("metering")

    ceiling = Ceiling(CeilingConfig(settings.dead_letter_ratio_max, settings.dead_letter_ratio_records))
    records = op.map("polled", op.input("records", flow, source), metrics.polled)
    topics = op.branch("topics", records, lambda batch: batch.topic == settings.usage_topic)
    decoded = decode("decode", op.map("polls", topics.trues, ceiling.count), _decode_config(settings))
    metered = meter("meter", decoded.events, meters=catalog.meters)
    slices = shard("shard", metered.metered, shards=shards)
    horizon = DedupeConfig(settings.dedupe_horizon_s, settings.dedupe_ids_max)
    deduped = dedupe(
        "dedupe",
        slices,
        config=horizon,
        on_evicted=metrics.EVICTED_IDS.inc,
        on_repeated=metrics.EVENTS_REPEATED.inc,
        archive=archive,
    )
    counted = op.map_value("counted", deduped, metrics.counted)
    op.output("usage_events", op.filter_map_value("events", counted, _events), sinks.usage_events)

    windows = [WindowedMeter.of(m) for m in catalog.meters]
    window_config = WindowConfig(windows, settings.window_flush_ms)
    windowed = window(
        "window",
        counted,
        config=window_config,
        now=now,
        on_held=metrics.WINDOWS_HELD.inc,
        archive=archive,
    )
    op.output("usage_windows", windowed.upserts, sinks.usage_windows)
    op.output("late_readings", op.map_value("late", windowed.late, metrics.late), sinks.late_readings)

    account_config = DecodeAccountsConfig(shards, settings.event_bytes_max)
    moved = decode_accounts("decode_accounts", topics.falses, config=account_config)
    bill_config = BillConfig(
        catalog,
        settings.wallet_flush_ms,
        charge_flush_ms=settings.charge_flush_ms,
        shards=shards,
        event_age_max_ms=settings.event_age_max_d * DAY_MS,
    )
    on_held = metrics.ACCOUNTS_HELD.inc
    billed = bill(
        "bill", counted, moved.slices, config=bill_config, now=now, on_held=on_held, archive=archive
    )
    op.output("usage_charges", billed.charges, sinks.usage_charges)
    op.output("wallets", billed.wallets, sinks.wallets)
    op.output("wallet_alerts", billed.alerts, sinks.wallet_alerts)
    op.output("live_alerts", billed.alerts, sinks.live_alerts)

    contradictions = op.map("contradictions", billed.rejects, lambda item: item[1])
    unmetered = op.merge("unmetered", decoded.rejects, metered.rejects)
    judged = op.flat_map_batch("ceiling", unmetered, ceiling.judge)
    rejects = op.merge("rejects", judged, moved.rejects, contradictions)
    dead = _by_partition(rejects, shards)
    op.output("dead_letters", op.map_value("reject_rows", dead, reject_rows), sinks.dead_letters)
    op.output("dead_letter_topic", dead, sinks.dead_letter_topic)
    return flow


def flow() -> Dataflow:
    """The flow of the environment's settings: `python -m bytewax.run "dataflows.metering:flow()"`."""
    settings = Settings.load()
    install_drain_handler()
    archive = StateFiles(settings.recovery_dir)
    sinks = store_sinks(settings, archive)
    return build_flow(
        read_catalog(settings.catalog), settings, kafka_source(settings), sinks, archive=archive
    )


def kafka_source(settings: Settings, *, until_end: bool = False) -> RawSource:
    """Both topics of a Kafka cluster, in one source: its partitions end their epochs together, where those of
    two would wait for each other, 0.3 s of each epoch.

    :arg until_end: Stop at the end that each partition has at start.
    """
    kafka = KafkaConfig(
        brokers=settings.kafka_brokers,
        group=settings.kafka_group,
        options=settings.kafka_options,
        timeout_s=settings.kafka_timeout_s,
    )
    config = SourceConfig(
        kafka=kafka,
        topics=(settings.usage_topic, settings.account_topic),
        until_end=until_end,
        batch_messages_max=settings.poll_messages_max,
        epoch_s=settings.epoch_s,
        poll_interval_ms=settings.poll_interval_ms,
    )
    return KafkaSource(config)


def store_sinks(settings: Settings, archive: Archive) -> Sinks:
    """ClickHouse, Redis and the dead-letter topic.

    :arg archive: Files beside the recovery store, for rows that wait for ClickHouse.
    """
    shards, files = settings.shards, partial(SnapshotFiles, archive)
    store = ClickHouseConfig(
        url=settings.clickhouse_url,
        insert_rows_max=settings.clickhouse_insert_rows_max,
        insert_interval_ms=settings.clickhouse_insert_interval_ms,
        retry_deadline_s=settings.clickhouse_retry_s,
        receive_timeout_s=settings.clickhouse_timeout_s,
        epoch_s=settings.epoch_s,
    )
    options = {**settings.kafka_options, "bootstrap.servers": settings.kafka_brokers}
    redis = RedisConfig(
        url=settings.redis_url, timeout_s=settings.redis_timeout_s, drain_s=settings.redis_drain_s
    )
    return Sinks(
        usage_events=usage_events(store, shards, settings.usage_topic, files),
        usage_windows=usage_windows(store, shards, files),
        late_readings=late_readings(store, shards, files),
        usage_charges=usage_charges(store, shards, files),
        dead_letters=dead_letters(store, shards, files),
        dead_letter_topic=DeadLetterTopicSink(options, settings.dead_letter_topic, shards),
        wallets=WalletsSink(redis, shards),
        wallet_alerts=WalletAlertsSink(options, settings.alert_topic, shards),
        live_alerts=LiveAlertsSink(redis, shards),
    )


def _decode_config(settings: Settings) -> DecodeConfig:
    return DecodeConfig(
        event_bytes_max=settings.event_bytes_max,
        ahead_max_s=settings.event_ahead_max_s,
        age_max_d=settings.event_age_max_d,
    )


def _events(piece: Slice) -> pa.RecordBatch | None:
    return piece.taken() if len(piece) else None


def _by_partition(rejects: Stream[Reject], shards: int) -> KeyedStream[Sequence[Reject]]:
    """Rejects keyed for a sink that knows shards only: by partition, so that each keeps its order."""

    def key(found: list[Reject]) -> list[tuple[str, Sequence[Reject]]]:
        by_key: dict[str, list[Reject]] = {}
        for reject in found:
            by_key.setdefault(shard_key(reject.partition % shards), []).append(reject)
        return list(by_key.items())

    return op.flat_map_batch("by_partition", rejects, key)
