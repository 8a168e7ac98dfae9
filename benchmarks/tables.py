"""Results as Markdown tables, and their place in the README: between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bed import BROKER_NAMES
from benchmarks.cost import REST, Cost
from benchmarks.growth import Growth
from benchmarks.latency import QUANTILES, Latency
from benchmarks.machine import describe
from benchmarks.throughput import BYTEWAX, ENGINE, ONE, Result

README = Path(__file__).with_name("README.md")


def throughput_table(results: Sequence[Result], notes: Iterable[str]) -> str:
    rates = {result.contestant: result.rate for result in results}
    header = (
        *(
            "contestant",
            "events",
            "events/s",
            "of the first",
            "CPU µs/event",
            "broker and stores, CPU µs/event",
        ),
        *("RSS MB", "what it stored", "load before / after"),
    )
    rows = [
        (
            result.contestant,
            f"{result.events:,}",
            f"{result.rate:,.0f}",
            f"{result.rate / results[0].rate:.2f}",
            f"{result.cpu_us:.2f}",
            ", ".join(
                f"{engine} {seconds / result.events * 1e6:.2f}"
                for engine, seconds in result.engines_cpu_s.items()
            ),
            f"{result.rss_mb:,.0f}",
            result.verdict,
            result.load,
        )
        for result in results
    ]
    ratios = [
        f"{ONE} takes in {rates[ONE] / rates[other]:.1f} times the events of: {other}."
        for other in (BYTEWAX, ENGINE)
        if ONE in rates and other in rates
    ]
    return "\n\n".join([_table(header, rows), *ratios, *notes])


def cost_table(cost: Cost) -> str:
    steps = sorted(cost.by_step.items(), key=lambda item: (item[0] == REST, -item[1]))
    rows = [(step, f"{us:.2f}", f"{us / cost.total:.0%}") for step, us in steps]
    rows.append(("**all of the process**", f"**{cost.total:.2f}**", "100%"))
    said = (
        f"{cost.events:,} events at {cost.rate:,.0f} events/s, {cost.verdict}; load {cost.load}."
        f" Of all that, Python's garbage collector took {cost.collector:.2f} µs an event. Rows, wallets and"
        " snapshots are paid by the second, not by the event: a slower machine shows more of them."
    )
    return _table(("step", "CPU µs/event", "part"), rows) + "\n\n" + said


def latency_table(results: Sequence[Latency]) -> str:
    names = ", ".join(f"p{part * 100:g}" for part in QUANTILES)
    places = list(results[0].quantiles_ms)
    header = (
        *("events/s asked", "came to", "probes"),
        *(f"{place}: {names} ms" for place in places),
        *("flow's cores", "others' cores", "load before / after"),
    )
    rows = [
        (
            f"{result.rate:,}",
            f"{result.came_to:,}",
            f"{result.probes:,}",
            *(" / ".join(_ms(ms) for ms in result.quantiles_ms[place]) for place in places),
            f"{result.flow_cores:.2f}",
            f"{result.other_cores:.2f}",
            result.load,
        )
        for result in results
    ]
    return _table(header, rows)


def growth_table(results: Sequence[Growth]) -> str:
    header = (
        *("live cells", "active customers", "events/s", "of the first", "RSS MB"),
        *("stall mean ms", "stall max ms", "snapshot ms an epoch", "resume s", "load before / after"),
    )
    rows = [
        (
            f"{result.cells:,}",
            f"{result.active:,}",
            f"{result.rate:,.0f}",
            f"{result.rate / results[0].rate:.2f}",
            f"{result.rss_mb:,.0f}",
            f"{result.stall_mean_ms:.0f}",
            f"{result.stall_max_ms:.0f}",
            ", ".join(f"{step} {ms:.0f}" for step, ms in result.snapshot_ms.items()),
            f"{result.resume_s:.1f}",
            result.load,
        )
        for result in results
    ]
    return _table(header, rows)


def titled(broker: str, table: str) -> str:
    """A table under what it was taken on."""
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return "\n\n".join([f"**{BROKER_NAMES[broker]}**, {moment}. " + "; ".join(describe()) + ".", table])


def write(name: str, text: str) -> None:
    """Put a result into the README, in place of the one that is there."""
    readme = README.read_text()
    place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    new, count = place.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", readme)
    if count != 1:
        raise ValueError(f"{README} has no place for {name}")
    README.write_text(new)


def _ms(ms: float) -> str:
    return "never" if ms == float("inf") else f"{ms:,.0f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines)
