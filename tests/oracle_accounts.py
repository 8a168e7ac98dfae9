"""The oracle's accounts: account events and readings -> rejects, charges and wallets, by obvious code.

Everything is decided at the end, from the whole list: first the events of each customer one after the other,
then the segments of the final timeline, then their prices. Nothing of ours is imported; see tests/oracle.py.
Account events are taken to be well-formed, but for their type; whether they fit the account is judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.oracle_events import LogRecord, RejectedError, from_ms, read_json, read_timestamp
from tests.oracle_prices import (
    ZERO,
    Json,
    Phase,
    Segment,
    begun_segments,
    cost,
    meters_of,
    phase_at,
    plans_of,
    quantity_of,
    round_money,
    segment_at,
)
from tests.oracle_thresholds import standings

if TYPE_CHECKING:
    from tests.oracle import Expected, Reading

LAG_MAX = timedelta(minutes=10)
KEPT = timedelta(days=90)
FOREVER = datetime.max.replace(tzinfo=UTC)
SUBSCRIPTION = ("subscription_started", "subscription_changed", "subscription_ended")

Account = tuple[str, str]


@dataclass(frozen=True)
class Charge:
    """One row of `usage_charges`."""

    currency: str
    events: int
    quantity: Decimal
    amount_unrounded: Decimal
    amount: Decimal


@dataclass
class Wallet:
    """One Redis hash; `available` follows from the rest."""

    balance: Decimal = ZERO
    unpaid_invoices: Decimal = ZERO
    usage: Decimal = ZERO

    @property
    def available(self) -> Decimal:
        return self.balance - self.unpaid_invoices - self.usage


@dataclass
class Credit:
    id: str
    currency: str
    left: Decimal
    at: datetime
    expires: datetime
    priority: int


@dataclass
class Invoice:
    currency: str
    amount: Decimal
    unpaid: Decimal
    period_start: datetime
    is_void: bool = False
    settled: datetime = FOREVER


@dataclass
class Books:
    """What the events of one customer come to."""

    phases: list[Phase] = field(default_factory=list)
    credits: list[Credit] = field(default_factory=list)
    overdraft: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    invoices: dict[str, Invoice] = field(default_factory=dict)
    adjustments: list[tuple[str, datetime, Decimal]] = field(default_factory=list)
    applied: dict[str, datetime] = field(default_factory=dict)
    credits_worth: dict[str, Decimal] = field(default_factory=dict)
    """By currency, of all together just after the last was granted."""
    thresholds_set: dict[str, list[list[Json]]] = field(default_factory=lambda: defaultdict(list))
    """By currency, each time that the customer's own were set."""


def bill(
    out: Expected, readings: Iterable[Reading], records: list[LogRecord], catalog: Json, now: datetime
) -> None:
    """Fill in what account events and prices make of a log."""
    books: dict[Account, Books] = defaultdict(Books)
    for record in records:
        try:
            apply(books, record, catalog)
        except RejectedError as rejected:
            out.rejects[record.position] = str(rejected)
    used: dict[Account, list[Reading]] = defaultdict(list)
    for reading in readings:
        used[reading.event.tenant_id, reading.event.external_customer_id].append(reading)
    for account in {**used, **books}:
        price_account(out, account, books[account], used[account], catalog=catalog, now=now)
    for (tenant_id, customer, currency), wallet in out.wallets.items():
        for name, standing in standings(books[tenant_id, customer], currency, wallet, catalog, now).items():
            out.thresholds[tenant_id, customer, currency, name] = standing


# Account events, one after the other


def apply(books: dict[Account, Books], record: LogRecord, catalog: Json) -> None:
    event = read_json((record.value or b"").decode())
    appended = from_ms(record.append_ms)
    at = read_timestamp(event.get("timestamp"), appended)
    kinds = {
        **dict.fromkeys(SUBSCRIPTION, subscribe),
        "credit_granted": grant,
        "debit": debit,
        "invoice_issued": issue,
        "invoice_paid": pay,
        "invoice_voided": void,
        "adjustment": adjust,
        "thresholds_set": set_thresholds,
    }
    if event["type"] not in kinds:
        raise RejectedError("account_event_invalid")
    book = books[event["tenant_id"], event["external_customer_id"]]
    if event["id"] in book.applied and appended - book.applied[event["id"]] <= KEPT:
        return
    kinds[event["type"]](book, event, at, appended, catalog)
    book.applied[event["id"]] = appended


def impossible(condition: bool) -> None:
    if condition:
        raise RejectedError("account_event_impossible")


def subscribe(book: Books, event: Json, at: datetime, appended: datetime, catalog: Json) -> None:
    kind, minute = event["type"], at.replace(second=0, microsecond=0)
    ends = kind == "subscription_ended"
    impossible(not ends and event["plan_id"] not in plans_of(catalog))
    before = phase_at(book.phases, at)
    is_active = before is not None and before.plan_id is not None
    impossible(is_active == (kind == "subscription_started"))
    impossible(appended - at > LAG_MAX)
    anchor = instant(event["period_anchor"]) if event.get("period_anchor") else None
    if kind == "subscription_changed" and anchor is None and before is not None:
        anchor = before.anchor
    plan_id = None if ends else event["plan_id"]
    book.phases.append(Phase(minute, at, event["id"], plan_id, None if ends else anchor))
    book.phases.sort()


def grant(book: Books, event: Json, at: datetime, appended: datetime, catalog: Json) -> None:
    amount, currency = Decimal(event["amount"]), event["currency"]
    paid = min(amount, book.overdraft[currency])
    book.overdraft[currency] -= paid
    expires = instant(event["expires_at"]) if event.get("expires_at") else FOREVER
    book.credits.append(
        Credit(event["id"], currency, amount - paid, at, expires, int(event.get("priority", 100)))
    )
    alive = [one for one in book.credits if one.currency == currency and one.expires > at]
    book.credits_worth[currency] = sum((one.left for one in alive), ZERO)


def debit(book: Books, event: Json, at: datetime, appended: datetime, catalog: Json) -> None:
    amount = Decimal(event["amount"])
    for credit in sorted(book.credits, key=lambda one: (one.priority, one.expires, one.at, one.id)):
        if credit.currency == event["currency"] and credit.expires > max(at, appended - KEPT):
            taken = min(credit.left, amount)
            credit.left -= taken
            amount -= taken
    book.overdraft[event["currency"]] += amount


def issue(book: Books, event: Json, at: datetime, appended: datetime, catalog: Json) -> None:
    known = book.invoices.get(event["invoice_id"])
    impossible(known is not None and known.settled >= appended - KEPT)
    start = instant(event["period_start"]).replace(second=0, microsecond=0)
    amount = Decimal(event["amount"])
    invoice = Invoice(event["currency"], amount, amount, start, settled=FOREVER if amount else appended)
    book.invoices[event["invoice_id"]] = invoice


def open_invoice(book: Books, event: Json, appended: datetime) -> Invoice:
    invoice = book.invoices.get(event["invoice_id"])
    if invoice is None or invoice.is_void or invoice.settled < appended - KEPT:
        raise RejectedError("account_event_impossible")
    impossible(event.get("currency") not in (None, invoice.currency))
    if event.get("period_start"):
        start = instant(event["period_start"]).replace(second=0, microsecond=0)
        impossible(start != invoice.period_start)
    return invoice


def pay(book: Books, event: Json, at: datetime, appended: datetime, catalog: Json) -> None:
    invoice = open_invoice(book, event, appended)
    amount = Decimal(event["amount"]) if event.get("amount") is not None else invoice.unpaid
    impossible(invoice.unpaid == 0 or amount > invoice.unpaid)
    invoice.unpaid -= amount
    if not invoice.unpaid:
        invoice.settled = appended


def void(book: Books, event: Json, at: datetime, appended: datetime, catalog: Json) -> None:
    invoice = open_invoice(book, event, appended)
    impossible(event.get("amount") is not None and Decimal(event["amount"]) != invoice.amount)
    invoice.is_void, invoice.unpaid, invoice.settled = True, ZERO, appended


def adjust(book: Books, event: Json, at: datetime, appended: datetime, catalog: Json) -> None:
    impossible(event["meter_id"] not in meters_of(catalog))
    start = instant(event["period_start"]).replace(second=0, microsecond=0)
    segment = segment_at(book.phases, start, catalog)
    impossible(segment is None or segment.end < appended - KEPT)
    book.adjustments.append((event["meter_id"], start, Decimal(event["quantity"])))


def set_thresholds(book: Books, event: Json, at: datetime, appended: datetime, catalog: Json) -> None:
    book.thresholds_set[event["currency"]].append(event["thresholds"])


def price_account(
    out: Expected, account: Account, book: Books, used: list[Reading], *, catalog: Json, now: datetime
) -> None:
    """The charges and wallets of one customer."""
    placed: dict[tuple[Segment, str], list[Reading]] = defaultdict(list)
    adjusted: dict[tuple[Segment, str], Decimal] = defaultdict(Decimal)
    for reading in used:
        if (segment := segment_at(book.phases, reading.event.timestamp, catalog)) is not None:
            placed[segment, reading.meter_id].append(reading)
    for meter_id, at, quantity in book.adjustments:
        if (segment := segment_at(book.phases, at, catalog)) is not None:
            adjusted[segment, meter_id] += quantity
    segments = {segment for segment, _ in (*placed, *adjusted)}
    segments |= set(begun_segments(book.phases, catalog, now))
    for segment in segments:
        plan = plans_of(catalog)[segment.plan_id]
        is_covered = any(covers(invoice, segment, plan["currency"]) for invoice in book.invoices.values())
        for line in plan["charges"]:
            meter_id, places = line.get("meter", ""), [*placed, *adjusted]
            here = {place for place in places if place == (segment, meter_id)}
            if meter_id and meters_of(catalog)[meter_id].get("reset_usage") == "NEVER":
                here = {(o, name) for o, name in places if name == meter_id and o.start <= segment.start}
            elif not here and line["price"]["model"] != "flat":
                continue
            readings = [reading for place in here for reading in placed.get(place, [])]
            kind = meters_of(catalog)[meter_id]["aggregation"]["type"] if meter_id else "COUNT"
            quantity = quantity_of(kind, readings) + sum((adjusted.get(p, ZERO) for p in here), ZERO)
            unrounded = cost(line["price"], quantity - Decimal(line.get("free_units", 0)))
            amount = round_money(unrounded, plan["currency"])
            events = len(placed.get((segment, meter_id), []))
            row = Charge(plan["currency"], events, quantity, unrounded, amount)
            out.charges[(*account, meter_id, segment.start, segment.plan_id)] = row
            out.wallets[(*account, plan["currency"])].usage += ZERO if is_covered else amount
    for credit in book.credits:
        out.wallets[(*account, credit.currency)].balance += credit.left if credit.expires > now else ZERO
    for currency, overdraft in book.overdraft.items():
        out.wallets[(*account, currency)].balance -= overdraft
    for invoice in book.invoices.values():
        out.wallets[(*account, invoice.currency)].unpaid_invoices += invoice.unpaid


def covers(invoice: Invoice, segment: Segment, currency: str) -> bool:
    is_there = invoice.period_start in (segment.start, segment.period_start)
    return is_there and invoice.currency == currency and not invoice.is_void


def instant(text: str) -> datetime:
    return read_timestamp(text, FOREVER)
