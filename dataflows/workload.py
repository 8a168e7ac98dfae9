"""A seeded, realistic stream of usage and account events, for the demo, tests and benchmarks.

`Workload(seed, start=…)` -> `events(count)`, `account_events()`: Kafka records, each with what must become
of it. Everything follows from the arguments: the same seed gives the same bytes, and the first n of them do
not depend on how many are asked for. Customers are skewed (Zipf 1.1); some events come twice, late or broken.
`workload_catalog()` is the catalog that prices them; `dataflows.truth` adds up what becomes of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from dataflows.workload_catalog import (
    CURRENCY,
    MODELS,
    REGIONS,
    SUMMED_MODELS,
    SUMMED_REGIONS,
    workload_catalog,
)
from dataflows.workload_faults import BREAKS, UNIQUE_REASONS
from schemas.events import Reason

__all__ = ["Kind", "Produced", "Reading", "Workload", "workload_catalog"]

BLOCK_EVENTS = 4096
"""Drawn at once; a block is a function of the seed and its number."""
RESEND_EVENTS_MAX = 1000
"""A duplicate follows its first at most this many events later: at 2 events/s still within the horizon."""
LATE_MIN_S, LATE_MAX_S = 4 * 3600, 48 * 3600
"""How far back a late event goes: beyond every window and allowed lateness of the catalog."""
NAMES = ("llm_tokens", "api_request", "storage", "agent_heartbeat")
"""Event names; no meter reads the last."""
FORMS = 100
"""An event is a CloudEvent, names only `customer_id` or has its tenant in a header, each once in so many."""
TENANT_HEADER = "tenant-id"

TENANTS = ("acme", "globex", "initech", "umbrella", "hooli", "stark", "wayne", "tyrell")

STATUSES = (200, 200, 200, 204, 404, 500)
USERS = tuple(f"user_{number:04d}" for number in range(211))
Chances = npt.NDArray[np.float64]


class Kind(StrEnum):
    """What must become of a record."""

    GOOD = "good"  # in the raw table, its windows, its bill
    LATE = "late"  # in the raw table, late_readings, its bill
    DUPLICATE = "duplicate"  # nowhere
    BAD = "bad"  # in the dead letters


class Reading(NamedTuple):
    """What one meter reads from an event: a number's text for SUM and AVG, a text for COUNT_UNIQUE."""

    meter_id: str
    value: str | None = None
    unique: str | None = None


class Produced(NamedTuple):
    """One Kafka record to produce, and what the generator knows about it."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    kind: Kind
    reason: Reason | None
    """Why it is a dead letter, of a BAD one."""
    tenant_id: str
    customer: str
    at_ms: int
    readings: tuple[Reading, ...]


class _Draw(NamedTuple):
    """The random numbers of one event."""

    number: int
    kind: Kind
    tenant_id: str
    customer: str
    at_ms: int
    at: str
    name: str
    form: int
    amount: int
    digits: int
    random: int


class Workload:
    """Events of `tenants` tenants with `customers` customers each, `rate` a second from `start` on.

    `start` is the first event's timestamp; produce them at about that time, at most an hour later.
    `duplicates`, `bad` and `late` are parts of all events. Reasons of bad events take turns; `too_large` is
    one of them if `oversize_bytes` (over the flow's limit, under the broker's) is not 0.
    """

    def __init__(
        self,
        seed: int = 1,
        *,
        start: datetime,
        tenants: int = 3,
        customers: int = 1000,
        rate: float = 5000.0,
        duplicates: float = 0.01,
        bad: float = 0.005,
        late: float = 0.005,
        oversize_bytes: int = 0,
    ) -> None:
        if not 1 <= tenants <= len(TENANTS):
            raise ValueError(f"tenants is {tenants}, not from 1 to {len(TENANTS)}")
        self.seed, self.start, self.rate = seed, start.astimezone(UTC), rate
        self.tenants, self.customers = TENANTS[:tenants], customers
        self._start_ms = round(start.timestamp() * 1000)
        self._bounds = np.cumsum([duplicates, bad, late])
        self._oversize_bytes = oversize_bytes
        self._names = [f"cust_{number:06d}" for number in range(customers)]
        self._customer_chances = _zipf(customers, 1.1)
        self._tenant_chances = _zipf(tenants, 1.0)
        self._name_chances = np.cumsum([0.4, 0.4, 0.18, 0.02])

    def events(self, count: int | None = None) -> Iterator[Produced]:
        """The first `count` usage events, in the order to produce them; None: without end."""
        return islice(self._events(), count)

    def _events(self) -> Iterator[Produced]:
        recent: deque[Produced] = deque(maxlen=RESEND_EVENTS_MAX)
        # Each in turn, so that a few thousand events have them all.
        reasons = cycle(
            [reason for reason in BREAKS if reason is not Reason.TOO_LARGE or self._oversize_bytes]
        )
        for draw in self._draws():
            if draw.kind is Kind.DUPLICATE and recent:
                yield recent[draw.random % len(recent)]._replace(kind=Kind.DUPLICATE, readings=())
            elif draw.kind is Kind.BAD:
                yield self._bad(draw, next(reasons))
            else:
                made = self._event(draw)
                recent.append(made)
                yield made

    def _draws(self) -> Iterator[_Draw]:
        kinds = (Kind.DUPLICATE, Kind.BAD, Kind.LATE, Kind.GOOD)
        block = 0
        while True:
            random = np.random.default_rng((self.seed, block))
            number = np.arange(block * BLOCK_EVENTS, (block + 1) * BLOCK_EVENTS)
            kind = np.searchsorted(self._bounds, random.random(BLOCK_EVENTS), side="right")
            at_ms = self._start_ms + (number * (1000 / self.rate)).astype(np.int64)
            back_ms = random.integers(LATE_MIN_S * 1000, LATE_MAX_S * 1000, BLOCK_EVENTS)
            at_ms -= np.where(kind == kinds.index(Kind.LATE), back_ms, 0)
            yield from map(
                _Draw,
                number.tolist(),
                [kinds[k] for k in kind.tolist()],
                [self.tenants[t] for t in _pick(random, self._tenant_chances)],
                [self._names[c] for c in _pick(random, self._customer_chances)],
                at_ms.tolist(),
                np.datetime_as_string(at_ms.astype("datetime64[ms]"), timezone="UTC").tolist(),
                [NAMES[n] for n in _pick(random, self._name_chances)],
                random.integers(0, FORMS, BLOCK_EVENTS).tolist(),
                (random.lognormal(6, 1.2, BLOCK_EVENTS).astype(np.int64) + 1).tolist(),
                random.integers(1, 7, BLOCK_EVENTS).tolist(),
                random.integers(0, 1 << 30, BLOCK_EVENTS).tolist(),
            )
            block += 1

    def _event(self, draw: _Draw) -> Produced:
        """The event of a draw, good but for its age, in one of the forms that producers may write."""
        name, (properties, readings) = draw.name, _content(draw)
        identity = f"evt-{self.seed}-{draw.number:012d}"
        tenant, customer, source = draw.tenant_id, draw.customer, f"gateway-{draw.digits}"
        if draw.form == 0:
            text = (
                f'{{"specversion":"1.0","id":"{identity}","tenantid":"{tenant}","type":"{name}","subject":"{customer}",'
                f'"time":"{draw.at}","source":"{source}","data":{properties}}}'
            )
        else:
            field = "customer_id" if draw.form == 1 else "external_customer_id"
            written = f'"tenant_id":"{tenant}",' if draw.form != 2 else ""
            text = (
                f'{{"id":"{identity}",{written}"event_name":"{name}","{field}":"{customer}",'
                f'"timestamp":"{draw.at}","source":"{source}","properties":{properties}}}'
            )
        headers = ((TENANT_HEADER, tenant.encode()),) if draw.form == 2 else ()
        kind = Kind.LATE if draw.kind is Kind.LATE else Kind.GOOD
        return Produced(
            customer.encode(), text.encode(), headers, kind, None, tenant, customer, draw.at_ms, readings
        )

    def _bad(self, draw: _Draw, reason: Reason) -> Produced:
        name = "llm_tokens" if reason in UNIQUE_REASONS else "storage"
        made = self._event(draw._replace(name=name, form=FORMS - 1))
        event = orjson.loads(made.value)
        if reason is Reason.TOO_LARGE:
            event["properties"]["note"] = "x" * self._oversize_bytes
        value = BREAKS[reason](event)
        value = value if isinstance(value, bytes) else orjson.dumps(value)
        return made._replace(kind=Kind.BAD, reason=reason, value=value, readings=())

    def account_events(self) -> Iterator[Produced]:
        """A credit for every customer at `start`; some have a debit, or an invoice, paid or not."""
        random = np.random.default_rng((self.seed, 1 << 32))
        for tenant in self.tenants:
            for customer, chance in zip(self._names, random.random(self.customers).tolist(), strict=True):
                yield self._account(tenant, customer, "credit_granted", f"{50 + int(chance * 450)}.00")
                if chance < 0.05:
                    yield self._account(tenant, customer, "debit", f"{1 + chance * 100:.2f}")
                if chance > 0.95:
                    yield self._account(tenant, customer, "invoice_issued", "12.34")
                if chance > 0.97:
                    yield self._account(tenant, customer, "invoice_paid", "12.34")

    def _account(self, tenant: str, customer: str, kind: str, amount: str) -> Produced:
        month = self.start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        event = {
            "id": f"{kind}-{self.seed}-{tenant}-{customer}",
            "tenant_id": tenant,
            "external_customer_id": customer,
            "timestamp": self.start.isoformat(timespec="milliseconds"),
            "type": kind,
            "amount": amount,
            "currency": CURRENCY,
        }
        if kind.startswith("invoice"):
            # Of a month before any of these events: what it bills is no part of what they cost.
            before = (month - timedelta(days=40)).replace(day=1)
            event |= {"invoice_id": f"inv-{tenant}-{customer}", "period_start": before.isoformat()}
        at_ms = self._start_ms
        return Produced(
            customer.encode(), orjson.dumps(event), (), Kind.GOOD, None, tenant, customer, at_ms, ()
        )


_USER_READINGS = {user: (Reading("active-users", None, user),) for user in USERS}
_REQUEST_READING = (Reading("api-requests"),)


def _content(draw: _Draw) -> tuple[str, tuple[Reading, ...]]:
    """Properties as JSON, and the readings that the catalog's meters must make of them."""
    random = draw.random
    if draw.name == "llm_tokens":
        model, region, user = MODELS[random % 3], REGIONS[random // 3 % 3], USERS[random // 9 % len(USERS)]
        tokens = str(draw.amount)
        written = f'"{tokens}"' if draw.digits == 1 else tokens
        readings: tuple[Reading, ...] = _USER_READINGS[user]
        if model in SUMMED_MODELS and region in SUMMED_REGIONS:
            readings += (Reading("llm-tokens", tokens),)
        properties = f'"tokens":{written},"model":"{model}","region":"{region}","user_id":"{user}"'
        return f'{{{properties},"request_id":"req_{random:010d}"}}', readings
    if draw.name == "api_request":
        properties = f'"status":{STATUSES[random % 6]},"method":"GET","path":"/v1/items/{random:010d}"'
        if draw.digits == 1:  # a client that hung up has no latency
            return f"{{{properties}}}", _REQUEST_READING
        latency = f"{draw.amount // 10}.{draw.amount % 10}"
        return f'{{{properties},"latency_ms":{latency}}}', (
            *_REQUEST_READING,
            Reading("api-latency", latency),
        )
    if draw.name == "storage":
        scale = 10**draw.digits
        amount = f"{draw.amount // scale}.{draw.amount % scale:0{draw.digits}d}"
        written = f'"{amount}"' if random % 8 == 0 else amount
        properties = f'"gb_hours":{written},"bucket":"bucket_{random:010d}","class":"standard"'
        return f'{{{properties},"encrypted":true}}', (Reading("storage", amount),)
    return f'{{"agent":"agent_{random:010d}","version":"1.50","tags":["a",{{"b":null}}]}}', ()


def _zipf(count: int, exponent: float) -> Chances:
    """Cumulative chances of ranks 1 to `count`."""
    weights = np.arange(1, count + 1) ** -exponent
    return np.cumsum(weights / weights.sum())


def _pick(random: np.random.Generator, chances: Chances) -> list[int]:
    picked = np.searchsorted(chances, random.random(BLOCK_EVENTS), side="right")
    numbers: list[int] = np.minimum(picked, len(chances) - 1).tolist()  # the last chance may round below 1
    return numbers
