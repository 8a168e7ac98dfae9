"""Runs the flow of this environment until it is drained, or until the end of what is in Kafka.

settings, catalog -> checks, each with a sentence of its own -> the recovery store -> Bytewax. Everything that
can be known to be wrong is said before the first record is read.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType

import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

from dataflows.catalogs import read_catalog
from dataflows.exits import UserError
from dataflows.metering import build_flow, kafka_source, store_sinks
from dataflows.ports import require_free_port
from dataflows.recovery import RecoveryStore, Slot, open_store
from dataflows.settings import Settings
from dataflows.sources import drain, install_drain_handler
from dataflows.state_files import StateFiles
from dataflows.stores import migrate_clickhouse, require_migrations
from dataflows.topics import require_topics

_LOG = logging.getLogger(__name__)

GC_ALLOCATIONS = 50_000
"""Young objects between collections. A poll makes hundreds of messages that are free by reference counts:
with the collector out of the way, reading from librdkafka costs 0.28 us a message instead of 0.42."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line says beside the settings."""

    until_end: bool = False
    """End at the end that each partition has at start."""
    migrate: bool = False
    """Bring ClickHouse's tables up to date first."""
    slot: Slot = field(default_factory=Slot)


def run(settings: Settings, options: RunOptions) -> None:
    """Run the flow in this process; returns when it is drained or at the end."""
    _check_slot(options.slot)
    _start_logging(settings.log_level)
    catalog = read_catalog(settings.catalog)
    # Bytewax goes on without its page, or ends without a word, if the port is taken.
    require_free_port("0.0.0.0", settings.metrics_port, "Set METERLINE_METRICS_PORT to a free one")
    with open_store(settings.recovery_dir, settings.shards, options.slot) as store:
        if options.migrate:
            migrate_clickhouse(settings.clickhouse_url)
        else:
            require_migrations(settings.clickhouse_url)
        require_topics(settings)
        source = kafka_source(settings, until_end=options.until_end)
        archive = StateFiles(store.directory)
        flow = build_flow(catalog, settings, source, store_sinks(settings, archive), archive=archive)
        _serve_metrics(settings.metrics_port, store)
        _drain_on_signals()
        _tune_memory()
        _LOG.info("metering %d meters; recovery store %s", len(catalog.meters), store.directory)
        _execute(flow, settings, store, options.slot)
    _LOG.info("drained" if drain.is_set() else "at the end of every partition")


def _execute(flow: Dataflow, settings: Settings, store: RecoveryStore, slot: Slot) -> None:
    os.environ.setdefault("RUST_BACKTRACE", "0")  # of an exception in a step, Python's traceback is the one
    clustered = bool(slot.addresses)
    cli_main(  # type: ignore[no-untyped-call]
        flow,
        process_id=slot.process_id if clustered else None,
        addresses=list(slot.addresses) if clustered else None,
        epoch_interval=timedelta(seconds=settings.epoch_s),
        recovery_config=RecoveryConfig(str(store.directory)),  # type: ignore[no-untyped-call]
    )


def _check_slot(slot: Slot) -> None:
    if slot.process_id >= max(1, len(slot.addresses)) or slot.process_id < 0:
        raise UserError(
            f"--process-id {slot.process_id} has no address among the {len(slot.addresses)} of --addresses:"
            " ids count from 0, and every process is given the addresses of all"
        )


def _serve_metrics(port: int, store: RecoveryStore) -> None:
    """Bytewax's own page: its metrics and ours. It writes the drawn flow beside this process's lock."""
    os.environ["BYTEWAX_DATAFLOW_API_ENABLED"] = "1"
    os.environ["BYTEWAX_DATAFLOW_API_PORT"] = str(port)
    os.environ["BYTEWAX_DATAFLOW_API_CACHE_PATH"] = str(store.slot_directory)


def _drain_on_signals() -> None:
    """SIGTERM and the first Ctrl-C drain; a second Ctrl-C ends at once, and the last epoch is repeated."""
    install_drain_handler()

    def interrupted(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        drain.set()

    signal.signal(signal.SIGINT, interrupted)


def _tune_memory() -> None:
    """Arrow's memory from malloc, as everything else is, and Python's collector out of the way.

    Arrow's own pool (mimalloc) keeps what batches of other sizes have left: 5 % more CPU an event in
    `make bench`, and 100 MB more when events are large (tests/e2e/test_hostile.py).
    """
    pa.set_memory_pool(pa.system_memory_pool())
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 50, 100)


def _start_logging(level: str) -> None:
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=level, format="%(asctime)sZ %(levelname)s %(name)s: %(message)s")
