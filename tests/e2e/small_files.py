"""`meterline` that cuts its state into small files, so that the seconds of a test have many of them.

python -m tests.e2e.small_files run --until-end
"""

from __future__ import annotations

from dataflows.cli import main
from operators import account_log, cell_log, id_log, snapshot_files
from sinks import clickhouse

__all__ = ["main"]

id_log.RUN_IDS = 20
cell_log.CELLS_MIN = 10
account_log.BYTES_MIN = 100
snapshot_files.BYTES_MIN = 1_000
clickhouse.BEGUN_S, clickhouse.BEGUN_BYTES_MIN = 0.2, 1

if __name__ == "__main__":
    main()
