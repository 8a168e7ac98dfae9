"""A contestant's processes: started on their cores, watched from outside, timed between what they say.

The clock runs from the first process's `BEGINS` to the last one's `ENDS`, as their logs have it:
interpreters, imports and connections are not what is compared. CPU seconds are the kernel's, meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import Used, cpu_s, used

ROOT = Path(__file__).parents[1]
BEGINS, ENDS = "is read from offset", "at the end of every partition"
"""What `meterline run` logs when it opens a partition, and after its last epoch is committed."""
POLL_S = 0.02
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Timing:
    """What a contestant took for its log."""

    seconds: float
    cpu_s: float
    """Of its own processes."""
    engines_cpu_s: dict[str, float]
    """Of the broker and of each store, meanwhile."""
    rss_mb: float
    start_s: float
    """From the process's start to the clock's."""


class ContestantError(RuntimeError):
    """A contestant ended badly; the text ends with its log."""


class Contestant:
    """Running processes of one contestant; each has a log of its own."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> None:
        self.processes, self._logs = processes, logs
        self._started = time.perf_counter()
        self.started_at = time.time()
        """Unix seconds."""

    def time(self, engines: Mapping[str, int]) -> Timing:
        """Watch from its beginning to its end, and wait until it has exited well; `engines`: name -> pid."""
        self.wait_until_said(BEGINS)
        began = time.perf_counter()
        engines_before = {name: cpu_s(pid) for name, pid in engines.items()}
        before, last = self._used(), self._used()
        while not all(ENDS in log.read_text(errors="replace") for log in self._logs):
            self._check()
            time.sleep(POLL_S)
            last = [new or old for new, old in zip(self._used(), last, strict=True)]
        seconds = time.perf_counter() - began
        engines_cpu_s = {name: cpu_s(pid) - engines_before[name] for name, pid in engines.items()}
        self.require_end()
        spent = sum(b.cpu_s for b in last if b) - sum(a.cpu_s for a in before if a)
        rss_mb = sum(each.rss_mb for each in last if each)
        return Timing(seconds, spent, engines_cpu_s, rss_mb, began - self._started)

    def wait_until_said(self, text: str) -> None:
        """Return when some process's log has this text."""
        deadline = time.monotonic() + TIMEOUT_S
        while not any(text in log.read_text(errors="replace") for log in self._logs):
            self._check()
            if time.monotonic() > deadline:
                raise ContestantError(f"never said {text!r}:\n{self.log_tail()}")
            time.sleep(POLL_S)

    def require_end(self) -> None:
        """Wait for all processes; raises if one failed."""
        for process in self.processes:
            if process.wait(120):
                raise ContestantError(f"exit code {process.returncode}:\n{self.log_tail()}")

    def terminate(self) -> None:
        """SIGTERM, and wait for the end."""
        for process in self.processes:
            process.terminate()
        self.require_end()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def log_tail(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in self._logs)

    def _used(self) -> list[Used | None]:
        return [used(process.pid) for process in self.processes]

    def _check(self) -> None:
        if any(process.poll() for process in self.processes):
            self.kill()
            raise ContestantError(f"a process ended badly:\n{self.log_tail()}")


@contextmanager
def contestant(
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    directory: Path,
    cores: Sequence[Sequence[int]],
) -> Iterator[Contestant]:
    """Start a command on each set of cores; whatever still runs afterwards is killed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    here = os.sched_getaffinity(0)
    processes, logs = [], []
    began = time.time_ns()
    for number, (command, environment) in enumerate(zip(commands, environments, strict=True)):
        logs.append(directory / f"contestant-{began}-{number}.log")
        os.sched_setaffinity(0, cores[number])  # a child starts on its parent's cores
        with logs[-1].open("wb") as log:
            processes.append(
                subprocess.Popen(  # noqa: S603 - the commands are ours
                    command,
                    env=clean | dict(environment),
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
        os.sched_setaffinity(0, here)
    running = Contestant(processes, logs)
    try:
        yield running
    finally:
        running.kill()
