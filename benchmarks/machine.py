"""What a figure was taken on: processor, load and versions; and what a process has used so far."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

TICKS_S = os.sysconf("SC_CLK_TCK")
PACE_TEXTS = 100_000
PACKAGES = ("bytewax", "confluent-kafka", "clickhouse-connect", "chdb", "pyarrow", "numpy", "msgspec")


@dataclass(frozen=True)
class Used:
    """CPU seconds of a process and its threads so far, and the most memory that it ever had."""

    cpu_s: float = 0.0
    rss_mb: float = 0.0


def used(pid: int) -> Used | None:
    """None if there is no such process any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return Used((int(fields[11]) + int(fields[12])) / TICKS_S, int(peak[1]) / 1024) if peak else None


def cpu_s(pid: int) -> float:
    """CPU seconds of a process that runs; 0 of one that does not."""
    found = used(pid)
    return found.cpu_s if found else 0.0


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def busy_s(of: Iterable[int]) -> float:
    """Seconds that these cores have worked for anybody here so far."""
    lines = dict(line.split(" ", 1) for line in Path("/proc/stat").read_text().splitlines())
    ticks = [[int(value) for value in lines[f"cpu{core}"].split()] for core in of]
    return sum(sum(core[:3]) + sum(core[5:7]) for core in ticks) / TICKS_S


def pin(pid: int, to: Iterable[int]) -> None:
    """Let all threads of a process run on these cores only; those it starts later do as their starter."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), to)


@cache
def _texts() -> list[bytes]:
    fields = {f"field_{number}": "x" * 20 for number in range(7)}
    return [json.dumps({"number": number, **fields}).encode() for number in range(PACE_TEXTS)]


def pace_us() -> float:
    """CPU time of reading one JSON text of 260 bytes, of 26 MB of them: what a core gives at the moment.

    Neighbours of a virtual machine share its caches and its memory, and that is stolen from no clock.
    """
    texts = _texts()
    began_s = time.thread_time()
    for text in texts:
        json.loads(text)
    return (time.thread_time() - began_s) / PACE_TEXTS * 1e6


@dataclass(frozen=True)
class Load:
    """How busy the machine is with other things: its load averages, what a hypervisor has withheld, and what
    neighbours have: the pace."""

    averages: str
    stolen: int
    ticks: int
    """Of all cores, as `stolen`."""
    pace_us: float

    @staticmethod
    def now() -> Load:
        ticks = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        averages = " ".join(f"{value:.2f}" for value in os.getloadavg())
        return Load(averages, ticks[7], sum(ticks), pace_us())

    def until_now(self) -> str:
        """Both loads, the part of all cores' time that was stolen in between, and both paces."""
        now = Load.now()
        stolen = (now.stolen - self.stolen) / max(1, now.ticks - self.ticks)
        paces = f"{self.pace_us:.2f} / {now.pace_us:.2f} µs"
        return f"{self.averages} / {now.averages}, {stolen:.0%} stolen, pace {paces}"


def describe() -> list[str]:
    """Lines on the machine and the versions."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    hardware = (
        f"{model[1] if model else platform.processor()}, {len(cores())} cores,"
        f" {int(memory[1]) / 2**20 if memory else 0:.0f} GB, {platform.system()} {platform.release()}"
    )
    return [hardware, f"Python {platform.python_version()}, {versions}"]
