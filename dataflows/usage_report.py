"""What `meterline usage` and `meterline wallet` print: what a customer has used, and has left."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import Any, Literal, Self

import orjson

from dataflows.exits import UserError
from dataflows.reports import print_json, print_table
from dataflows.settings import Settings
from dataflows.stores import clickhouse, redis
from schemas.meters import duration_s
from sinks.wallet_store import WalletView, deltas_channel, read_wallet
from sql import query

USAGE_COLUMNS: dict[str, Literal["left", "right"]] = {
    "customer": "left",
    "from (UTC)": "left",
    "events": "right",
    "total": "right",
    "average": "right",
    "uniques": "right",
}
WALLET_COLUMNS: dict[str, Literal["left", "right"]] = {
    "currency": "left",
    "balance": "right",
    "unpaid invoices": "right",
    "usage": "right",
    "available": "right",
    "as of": "left",
}


@dataclass(frozen=True)
class UsageQuery:
    """Which usage; `since` is inclusive, `until` exclusive, of a window's start."""

    tenant: str
    meter: str
    since: datetime
    until: datetime
    step_s: int
    customer: str = ""
    """"" is all."""

    @classmethod
    def parse(
        cls, tenant: str, meter: str, *, since: str, until: str, step: str, customer: str | None
    ) -> Self:
        """From a command line; raises UserError."""
        first, end = moment("--since", since), moment("--until", until)
        if first >= end:
            raise UserError(f"--since {since} is not before --until {until}")
        try:
            step_s = duration_s(step)
        except ValueError as error:
            raise UserError(f"--step {step}: {error}") from None
        if not 0 < step_s < 1 << 32:
            raise UserError(f"--step {step}: must be at least 1s, and shorter than 136 years")
        return cls(tenant, meter, first, end, step_s, customer or "")

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "meter": self.meter,
            "since": self.since,
            "until": self.until,
            "step": self.step_s,
            "customer": self.customer,
        }


@dataclass(frozen=True)
class Usage:
    """A customer's usage in one step, or (the total) all of it."""

    external_customer_id: str | None
    window_start: datetime | None
    events: int
    total: Decimal
    average: Decimal
    uniques: int


def print_usage(settings: Settings, asked: UsageQuery, *, as_json: bool) -> None:
    """Print the rows, and the total of them; distinct values of the total are counted once."""
    rows, total = read_usage(settings, asked)
    if as_json:
        print_json({"rows": [asdict(row) for row in rows], "total": asdict(total)})
        return
    cells = [
        (row.external_customer_id, _minute(row.window_start), row.events, row.total, row.average, row.uniques)
        for row in rows
    ]
    last = ("total", "", total.events, total.total, total.average, total.uniques)
    print_table(f"{asked.tenant} {asked.meter}", USAGE_COLUMNS, [*cells, last], total=1)


def read_usage(settings: Settings, asked: UsageQuery) -> tuple[list[Usage], Usage]:
    """Rows by customer and step, and their total."""
    with clickhouse(settings.clickhouse_url) as client:
        found = client.query(query("usage_rows"), parameters=asked.parameters).result_rows
        sums = client.query(query("usage_total"), parameters=asked.parameters).result_rows
    rows = [
        Usage(customer, start.replace(tzinfo=UTC), events, total, average, uniques)
        for customer, start, events, total, average, uniques in found
    ]
    events, total, uniques = sums[0]
    return rows, Usage(None, None, events, total, _average(total, events), uniques)


def print_wallet(settings: Settings, tenant: str, customer: str, *, as_json: bool) -> bool:
    """Print a customer's wallets; whether there are any."""
    with redis(settings.redis_url) as client:
        wallets = read_wallet(client, tenant, customer)
    if as_json:
        print_json([asdict(wallet) for wallet in wallets])
    elif wallets:
        print_table(f"{tenant}/{customer}", WALLET_COLUMNS, [_wallet_cells(wallet) for wallet in wallets])
    else:
        print(f"{tenant}/{customer} has no wallet")
    return bool(wallets)


def watch_wallet(settings: Settings, tenant: str, customer: str, *, as_json: bool) -> None:
    """Print every change of a customer's wallets, until Ctrl-C."""
    with redis(settings.redis_url) as client, client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(deltas_channel(tenant))
        while True:
            message = channel.get_message(timeout=1.0)
            change = orjson.loads(message["data"]) if message else {}
            if change.get("external_customer_id") != customer:
                continue
            if as_json:
                print_json(change)
            else:
                print(
                    f"{change['as_of']}  {change['delta']:>16} {change['currency']}"
                    f"  available {change['available']}",
                    flush=True,
                )


def _wallet_cells(wallet: WalletView) -> tuple[object, ...]:
    return (
        wallet.currency,
        wallet.balance,
        wallet.unpaid_invoices,
        wallet.usage,
        wallet.available,
        wallet.as_of,
    )


def _average(total: Decimal, events: int) -> Decimal:
    """Cut off after 12 decimals, as the view does."""
    with localcontext(prec=76):
        return (total / max(events, 1)).quantize(Decimal("1e-12"), ROUND_DOWN)


def _minute(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else ""


def moment(option: str, text: str) -> datetime:
    """A command line's date or time, whole seconds of ClickHouse's DateTime; raises UserError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"{option} {text}: not a date such as 2026-11-01, nor a time such as 2026-11-01T09:30:00Z"
        ) from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at.microsecond or not 1970 <= at.year < 2106:  # what ClickHouse's DateTime holds
        raise UserError(f"{option} {text}: must be a whole second from 1970 to 2105")
    return at
