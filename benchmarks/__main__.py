"""`make bench`, `python -m benchmarks --help`: run the benchmarks and print their tables.

Options -> tables on stdout, and with `--readme` in README.md. Everything it makes is under `.cache/`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.bed import Bed, bed
from benchmarks.cost import cost
from benchmarks.events import Shape
from benchmarks.growth import growth_of
from benchmarks.latency import latency_of
from benchmarks.machine import cores
from benchmarks.throughput import CHDB_PYTHON, throughput

SECTIONS = ("throughput", "cost", "latency", "growth")
BROKERS = ("embedded", "apache")
HERE = Path(__file__).parent
CHDB = "chdb==3.7.2"
"""The last chdb whose Kafka engine works (ClickHouse 25.8)."""


def main() -> None:
    options = _options()
    if "throughput" in options.only and "apache" in options.broker:
        _install_chdb()
    if len(cores()) < 2:
        print("One core: contestants and engines share it, which is not how the results are meant.")
    directory = HERE / ".cache" / f"run-{os.getpid()}"
    try:
        for kind in options.broker:
            _run(kind, directory / kind, options)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(kind: str, directory: Path, options: argparse.Namespace) -> None:
    try:
        with bed(kind, directory, cores()[1:] or cores()) as running:
            for section, table in _sections(running, options):
                text = tables.titled(kind, table)
                print(f"\n## {section}\n\n{text}\n", flush=True)
                if options.readme:
                    tables.write(f"{section} {kind}", text)
    except pytest.skip.Exception as why:  # Java, Maven or the jars are not there
        print(f"{kind}: not run: {why}")


def _sections(running: Bed, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    shape = Shape(options.events)
    if "throughput" in options.only:
        results, notes = throughput(running, shape, options.bytewax_events, options.rounds)
        yield "throughput", tables.throughput_table(results, notes)
    if "cost" in options.only:
        yield "cost", tables.cost_table(cost(running, shape))
    if "latency" in options.only:
        latencies = list(latency_of(running, options.rates, options.seconds, options.rounds))
        yield "latency", tables.latency_table(latencies)
    if "growth" in options.only:
        grown = list(growth_of(running, options.cells, options.growth_events, options.rounds))
        yield "growth", tables.growth_table(grown)


def _install_chdb() -> None:
    """A virtual environment for the Kafka engine; without it the contestant says that it can't run."""
    directory = CHDB_PYTHON.parents[1]
    try:
        if not CHDB_PYTHON.exists():
            subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)  # noqa: S603
        pip = [str(CHDB_PYTHON), "-m", "pip", "install", "--quiet", CHDB]
        subprocess.run(pip, check=True)  # noqa: S603 - our own arguments
    except subprocess.CalledProcessError as error:
        shutil.rmtree(directory, ignore_errors=True)
        print(f"{CHDB} can't be installed: {error}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").splitlines()[0])

    def listed(name: str, default: tuple[str, ...], choices: tuple[str, ...], text: str) -> None:
        parser.add_argument(name, nargs="+", default=default, choices=choices, help=text)

    def whole(name: str, default: int, text: str) -> None:
        parser.add_argument(name, type=int, default=default, help=f"{text} ({default:,})")

    listed("--only", SECTIONS, SECTIONS, "which benchmarks (all)")
    listed("--broker", BROKERS, BROKERS, "which brokers (both)")
    whole("--events", 3_000_000, "events of throughput and cost")
    whole("--bytewax-events", 300_000, "events of the per-event flow")
    whole(
        "--rounds",
        2,
        "runs of each contestant and of each row of latency and growth, of which the best counts",
    )
    whole("--seconds", 30, "length of a latency run")
    whole("--growth-events", 3_000_000, "events that growth measures")
    parser.add_argument(
        "--rates", type=int, nargs="+", default=(1_000, 10_000, 20_000, 50_000), help="of latency"
    )
    parser.add_argument("--cells", type=int, nargs="+", default=(1_000, 100_000, 1_000_000), help="of growth")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
