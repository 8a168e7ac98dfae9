"""What the demo shows while it runs: one `Status` a moment, as a live table or as lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from clickhouse_connect.driver.client import Client
from redis import Redis
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from dataflows.flow_process import Metrics
from dataflows.workload_catalog import CURRENCY
from sinks.wallet_store import read_wallet

TOP_CUSTOMERS = 5
TOP_INTERVAL_S = 1.0
RATE_OVER_S = 4.0
"""Two epochs: at the end of one the sources stand still until the stores have acknowledged it."""
LINE_INTERVAL_S = 2.0
FRESHNESS = "meterline_wallet_freshness_seconds"
TOP = """
SELECT tenant_id, external_customer_id, sum(amount) AS spent FROM usage_charges FINAL
GROUP BY tenant_id, external_customer_id ORDER BY spent DESC, external_customer_id LIMIT {top:UInt32}
"""


@dataclass(frozen=True)
class Customer:
    """A customer who spends much: what is left, and what went since the last look."""

    name: str
    spent: Decimal
    available: Decimal
    change: Decimal


@dataclass(frozen=True)
class Status:
    """One moment of the demo."""

    elapsed_s: float
    produced: int
    read: int
    rate: float
    lag: int
    freshness_p50_s: float | None
    freshness_p99_s: float | None
    dead_letters: dict[str, int] = field(default_factory=dict)
    customers: list[Customer] = field(default_factory=list)


class Watch:
    """Makes each `Status` out of the flow's metrics and what the stores have by now."""

    def __init__(self, clickhouse: Client, redis: Redis) -> None:
        self._clickhouse, self._redis = clickhouse, redis
        self._started = time.monotonic()
        self._reads: deque[tuple[float, int]] = deque([(self._started, 0)])
        self._available: dict[str, Decimal] = {}
        self._customers: list[Customer] = []
        self._customers_at = 0.0

    def look(self, metrics: Metrics, produced: int) -> Status:
        now = time.monotonic()
        read = int(metrics.total("meterline_source_records_total"))
        while len(self._reads) > 1 and now - self._reads[1][0] > RATE_OVER_S:
            self._reads.popleft()
        since, read_then = self._reads[0]
        self._reads.append((now, read))
        if now - self._customers_at >= TOP_INTERVAL_S:
            self._customers, self._customers_at = self._top(), now
        return Status(
            elapsed_s=now - self._started,
            produced=produced,
            read=read,
            rate=max(0, read - read_then) / max(now - since, 1e-3),
            lag=max(0, produced - read),
            freshness_p50_s=metrics.quantile(FRESHNESS, 0.5),
            freshness_p99_s=metrics.quantile(FRESHNESS, 0.99),
            dead_letters={
                reason: int(count)
                for reason, count in metrics.by_label("meterline_dead_letters_total", "reason").items()
            },
            customers=self._customers,
        )

    def _top(self) -> list[Customer]:
        customers = []
        found = self._clickhouse.query(TOP, parameters={"top": TOP_CUSTOMERS})
        for tenant, customer, spent in found.result_rows:
            name = f"{tenant}/{customer}"
            for wallet in read_wallet(self._redis, tenant, customer, CURRENCY):
                before = self._available.get(name, wallet.available)
                self._available[name] = wallet.available
                customers.append(Customer(name, spent, wallet.available, wallet.available - before))
        return customers


class View(Protocol):
    """Shows moments as they come."""

    def show(self, status: Status) -> None: ...
    def note(self, text: str) -> None: ...


@contextmanager
def view() -> Iterator[View]:
    """A table that stays in place on a terminal, lines anywhere else; on stderr, both."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveTable(live)


class Lines:
    """A line each `LINE_INTERVAL_S`."""

    def __init__(self) -> None:
        self._shown_at = 0.0

    def show(self, status: Status) -> None:
        if time.monotonic() - self._shown_at >= LINE_INTERVAL_S:
            self._shown_at = time.monotonic()
            self.note(line(status))

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class LiveTable:
    """Three small tables that are drawn anew."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, status: Status) -> None:
        self._live.update(tables(status))

    def note(self, text: str) -> None:
        self._live.console.print(text)


def line(status: Status) -> str:
    freshness = f"p50 {seconds(status.freshness_p50_s)} p99 {seconds(status.freshness_p99_s)}"
    letters = sum(status.dead_letters.values())
    return (
        f"{status.elapsed_s:5.1f} s  {status.rate:,.0f} events/s, {status.read:,} of {status.produced:,},"
        f" lag {status.lag:,}, freshness {freshness}, {letters} dead letters"
    )


def tables(status: Status) -> RenderableType:
    flow = Table(title="flow", title_justify="left", min_width=70)
    for name in ("time", "events/s", "read", "lag", "freshness p50", "p99"):
        flow.add_column(name, justify="right")
    flow.add_row(
        f"{status.elapsed_s:.0f} s",
        f"{status.rate:,.0f}",
        f"{status.read:,}",
        f"{status.lag:,}",
        seconds(status.freshness_p50_s),
        seconds(status.freshness_p99_s),
    )
    wallets = Table(title="top customers, and their wallets", title_justify="left", min_width=70)
    wallets.add_column("customer")
    for name in ("spent", "available", "change"):
        wallets.add_column(name, justify="right")
    for customer in status.customers:
        colour = "red" if customer.change < 0 else "dim"
        wallets.add_row(
            customer.name,
            f"{customer.spent:,.2f}",
            f"{customer.available:,.2f}",
            f"[{colour}]{customer.change:+,.2f}[/]",
        )
    letters = sorted(status.dead_letters.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{reason} {count}" for reason, count in letters)
    return Group(flow, wallets, f"dead letters: {listed or 'none'}")


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
