"""Usage events by the million, as columns and as the JSON that producers send, at over 500,000 a second.

`draw(shape, start_ms)` -> `Events`, numpy columns, deterministic by seed; `.payloads()` -> bytes of each.
The text is laid into templates of a fixed width a column at a time: no event is ever a Python object before
it is bytes. `benchmarks.truth` adds up the same columns and never reads the bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from benchmarks.catalog import API, LLM, MODELS, NAMES, REGIONS, STORAGE, TENANT

I64 = npt.NDArray[np.int64]
Bytes2D = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

NAME_CHANCES = (0.4, 0.4, 0.2)
DUPLICATE_BACK_MAX = 1_000
"""A repeat comes at most so many events after the first."""
PAYLOAD_BYTES = 280
AMOUNT_SCALES = (1, 0, 4)
"""Decimals of `amount`, by event name: a latency in tenths, tokens, gigabyte-hours in ten thousandths."""


@dataclass(frozen=True)
class Shape:
    """What is drawn. `rate`: events a second of the events' own time."""

    events: int
    customers: int = 10_000
    zipf: float = 1.1
    users: int = 100_000
    duplicates: float = 0.01
    rate: float = 10_000
    seed: int = 1


@dataclass(frozen=True)
class Events:
    """Columns of events in the order they are produced; `number` is the id, which duplicates repeat."""

    number: I64
    customer: I64
    at_ms: I64
    name: I64
    amount: I64
    model: I64
    region: I64
    user: I64
    duplicate: Mask

    def __len__(self) -> int:
        return len(self.number)

    def select(self, rows: Mask | I64 | slice) -> Events:
        return Events(*(getattr(self, f.name)[rows] for f in fields(self)))

    def payloads(self) -> npt.NDArray[np.object_]:
        """The JSON of each event, as bytes."""
        out = np.empty(len(self), np.object_)
        for index, template in enumerate(_TEMPLATES):
            rows = np.flatnonzero(self.name == index)
            if len(rows):
                out[rows] = template.render(self.select(rows))
        return out


def draw(shape: Shape, start_ms: int) -> Events:
    """`shape.events` events, the first at `start_ms`."""
    random = np.random.default_rng(shape.seed)
    count = shape.events
    number = np.arange(count, dtype=np.int64)
    weights = np.arange(1, shape.customers + 1) ** -shape.zipf
    chances = np.cumsum(weights / weights.sum())
    name = np.searchsorted(np.cumsum(NAME_CHANCES), random.random(count), side="right").clip(0, 2)
    amount = random.integers(100, 1000, count)  # a latency, 10.0 to 99.9
    amount = np.where(name == NAMES.index(LLM), random.integers(1000, 10_000, count), amount)
    amount = np.where(name == NAMES.index(STORAGE), random.integers(10_000, 100_000, count), amount)
    drawn = Events(
        number=number,
        customer=np.searchsorted(chances, random.random(count)).clip(0, shape.customers - 1),
        at_ms=start_ms + (number * (1000 / shape.rate)).astype(np.int64),
        name=name,
        amount=amount,
        model=random.integers(0, len(MODELS), count),
        region=random.integers(0, len(REGIONS), count),
        user=random.integers(0, shape.users, count),
        duplicate=random.random(count) < shape.duplicates,
    )
    if not count:
        return drawn
    drawn.duplicate[0] = False
    firsts, repeats = np.flatnonzero(~drawn.duplicate), np.flatnonzero(drawn.duplicate)
    back = random.integers(1, DUPLICATE_BACK_MAX, len(repeats))
    source = number.copy()
    source[repeats] = firsts[(np.searchsorted(firsts, repeats) - back).clip(0)]
    return replace(drawn.select(source), duplicate=drawn.duplicate)


class _Template:
    """JSON with slots like `<id:12>`, all of a fixed width."""

    def __init__(self, text: str) -> None:
        self._slots: dict[str, slice] = {}
        while found := re.search(r"<(\w+):(\d+)>", text):
            width = int(found[2])
            self._slots[found[1]] = slice(found.start(), found.start() + width)
            text = text[: found.start()] + "?" * width + text[found.end() :]
        self._bytes = np.frombuffer(text.encode(), np.uint8)

    def render(self, events: Events) -> list[bytes]:
        rows: Bytes2D = np.tile(self._bytes, (len(events), 1))
        scale = AMOUNT_SCALES[int(events.name[0])]
        second, millis = np.divmod(events.at_ms, 1000)
        columns = {
            "number": events.number,
            "customer": events.customer,
            "user": events.user,
            "hour": second // 3600 % 24,
            "minute": second // 60 % 60,
            "second": second % 60,
            "ms": millis,
            "whole": events.amount // 10**scale,
            "fraction": events.amount % 10**scale,
        }
        for name, place in self._slots.items():
            if name in columns:
                _digits(rows[:, place], columns[name])
        rows[:, self._slots["date"]] = _dates(second // 86_400)
        if "model" in self._slots:
            rows[:, self._slots["model"]] = _texts(MODELS)[events.model]
            rows[:, self._slots["region"]] = _texts(REGIONS)[events.region]
        payloads: list[bytes] = rows.view(f"S{rows.shape[1]}").ravel().tolist()
        return payloads


def _digits(into: Bytes2D, values: I64) -> None:
    for column in range(into.shape[1] - 1, -1, -1):
        into[:, column] = values % 10 + ord("0")
        values = values // 10


def _dates(days: I64) -> Bytes2D:
    each, row = np.unique(days, return_inverse=True)
    texts = [datetime.fromtimestamp(day * 86_400, UTC).date().isoformat() for day in each.tolist()]
    return _texts(tuple(texts))[row]


def _texts(texts: tuple[str, ...]) -> Bytes2D:
    return np.array([list(text.encode()) for text in texts], np.uint8)


def _template(name: str, properties: str) -> _Template:
    text = (
        f'{{"id":"evt-<number:12>","tenant_id":"{TENANT}","event_name":"{name}",'
        '"external_customer_id":"cust_<customer:6>",'
        '"timestamp":"<date:10>T<hour:2>:<minute:2>:<second:2>.<ms:3>Z","source":"gateway-eu",'
        f'"properties":{{{properties},"agent":"'
    )
    width = len(re.sub(r"<\w+:(\d+)>", lambda slot: "?" * int(slot[1]), text))
    return _Template(text + "python/1.50.3".ljust(PAYLOAD_BYTES - width - 3, "x") + '"}}')


_TEMPLATES = (
    _template(API, '"status":200,"method":"GET","path":"/v1/items","latency_ms":<whole:2>.<fraction:1>'),
    _template(LLM, '"tokens":<whole:4>,"model":"<model:5>","region":"<region:4>","user_id":"user_<user:6>"'),
    _template(STORAGE, '"gb_hours":<whole:1>.<fraction:4>,"bucket":"bucket-7","class":"standard"'),
)
