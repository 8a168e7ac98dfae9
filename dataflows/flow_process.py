"""The flow as a process of its own, for the demo and tests: started, watched by its metrics, drained.

State: its log file, and the recovery store that the settings name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dataflows.exits import FailureError

RUN = (sys.executable, "-m", "dataflows.cli", "run")
POLL_S = 0.05
LOG_TAIL_LINES = 15
METRICS_TIMEOUT_S = 2.0


class Sample(NamedTuple):
    """One line of /metrics."""

    labels: str
    value: float


class Metrics:
    """What /metrics said: our own metrics, by name."""

    def __init__(self, text: str = "") -> None:
        self._samples: dict[str, list[Sample]] = {}
        for line in text.splitlines():
            if line.startswith("meterline_"):
                series, _, value = line.rpartition(" ")
                name, _, labels = series.partition("{")
                self._samples.setdefault(name, []).append(Sample(labels.removesuffix("}"), float(value)))

    def total(self, name: str, label: str = "") -> float:
        """The sum over all series whose labels have this text."""
        return sum(sample.value for sample in self._samples.get(name, []) if label in sample.labels)

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Value of a label -> sum of its series."""
        sums: dict[str, float] = {}
        for sample in self._samples.get(name, []):
            value = sample.labels.partition(f'{label}="')[2].partition('"')[0]
            sums[value] = sums.get(value, 0) + sample.value
        return sums

    def quantile(self, name: str, part: float) -> float | None:
        """Of a histogram, by straight lines between its bounds, as Prometheus does; None if it is empty."""
        buckets = sorted(
            (float(bound), count) for bound, count in self.by_label(f"{name}_bucket", "le").items()
        )
        if not buckets or not buckets[-1][1]:
            return None
        wanted, low, below = part * buckets[-1][1], 0.0, 0.0
        for bound, count in buckets:
            if count >= wanted:
                inside = count - below
                return low if bound == float("inf") else low + (bound - low) * (wanted - below) / inside
            low, below = bound, count
        return low


class FlowProcess:
    """`meterline run` with these settings on top of this process's environment."""

    def __init__(self, environment: Mapping[str, str], log: Path, arguments: Sequence[str] = ()) -> None:
        self._environment, self._log, self._arguments = environment, log, arguments
        self._url = f"http://127.0.0.1:{environment['METERLINE_METRICS_PORT']}/metrics"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                [sys.executable, "-m", "dataflows.embedded.leash", *RUN, *self._arguments],
                env={**os.environ, **self._environment},
                stdin=subprocess.PIPE,  # its end is the leash: whatever ends us, ends the flow
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which drains the flow
            )

    def metrics(self) -> Metrics:
        """What the flow counts; nothing until it serves them. Raises FailureError if it has ended."""
        self.require_running()
        try:
            with urllib.request.urlopen(self._url, timeout=METRICS_TIMEOUT_S) as answer:  # noqa: S310
                return Metrics(answer.read().decode())
        except OSError:
            return Metrics()

    def require_running(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise FailureError(f"the flow ended:\n{self._log_tail()}")

    def drain(self, timeout_s: float) -> None:
        """SIGTERM, and wait until its last epoch is committed. Raises FailureError if it fails at that."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise FailureError(f"the flow did not drain in {timeout_s:g} s:\n{self._log_tail()}") from None
        if code:
            raise FailureError(f"the flow ended with exit code {code}:\n{self._log_tail()}")

    def kill(self) -> None:
        """End it now, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin:
                self._process.stdin.close()
            self._process = None

    def wait_until_read(self, records: int, timeout_s: float) -> None:
        """Return when it has read so many records of its topics."""
        deadline = time.monotonic() + timeout_s
        while (read := self.metrics().total("meterline_source_records_total")) < records:
            if time.monotonic() > deadline:
                raise FailureError(f"the flow has read {read:.0f} of {records} records after {timeout_s:g} s")
            time.sleep(POLL_S)

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])
