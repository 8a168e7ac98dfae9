"""A flow that copies the values of a topic to a file, for tests that signal or break its process.

python -m tests.dataflows.source_flow BROKERS TOPIC OUT [RECOVERY_DIR]
"""

import logging
import sys
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.files import FileSink
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

from dataflows.sources import KafkaConfig, KafkaSource, SourceConfig, install_drain_handler


def main(brokers: str, topic: str, out: str, recovery_dir: str | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    install_drain_handler()
    kafka = KafkaConfig(brokers, timeout_s=2)
    flow = Dataflow("source_flow")
    batches = op.input("usage", flow, KafkaSource(SourceConfig(kafka=kafka, topics=(topic,))))
    lines = op.flat_map(
        "lines", batches, lambda batch: [("all", (r.value() or b"").decode()) for r in batch.records]
    )
    op.output("out", lines, FileSink(Path(out)))
    recovery = RecoveryConfig(recovery_dir) if recovery_dir else None  # type: ignore[no-untyped-call]
    cli_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=recovery)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(*sys.argv[1:])
