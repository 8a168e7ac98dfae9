"""The oracle against decode and meter on mutated payloads: same verdicts, same readings, for every one.

Both were written from DESIGN.md section 5 without sight of each other; what they disagree on is a bug of one.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from dataflows.workload import Workload, workload_catalog
from operators.cityhash import city_hash64
from operators.decode import DecodeConfig, decode_batch
from operators.meter import Measure
from operators.texts import Texts
from schemas.catalog import load_catalog
from schemas.events import RawBatch
from schemas.money import EXACT
from tests.oracle import LogRecord, Rules, read_catalog, read_meters
from tests.oracle_events import RejectedError, read_event

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
PAYLOADS = 10_000
BYTES_MAX = 5000
VALUES = [
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'{"a": [1]}',
        b'""',
        b'"x\xff"',
        b'"\xc3\xa9"',
        b"NaN",
        b"01",
        b"1.",
        b"-0",
    ),
    *(
        b"1e400",
        b"1E+3",
        b"-1e-400",
        b"1e999999999999999999",
        b"9" * 300,
        b"9" * 1900,
        b"9" * 4300,
        b"-" + b"9" * 4300,
        b"[" + b"9" * 4301 + b"]",
        b'"' + b"u" * 1025 + b'"',
        b"0.0000000000005",
    ),
    *(b"0.0000000000015", b"999999999999999999.9999999999994", b"999999999999999999.9999999999995", b"1e18"),
    *(
        b'"+5"',
        b'".5"',
        b'"1e17"',
        b'"1_0"',
        b'" 5"',
        b'"NaN"',
        b'"0x1"',
        b'"' + b"9" * 300 + b'"',
        b'"1.50"',
    ),
    *(
        rb'"\ud800"',
        rb'"\ud83d\ude80"',
        rb'"\udc00\ud800"',
        rb'"\\ud800"',
        rb'"\q"',
        b'"\n"',
        b'"' + b"\xc3\xa9" * 128 + b'"',
    ),
    *(b'"2026-11-02 09:00:00.1234567z"', b'"2026-11-02T09:00:60Z"', b'"2026-11-02T24:00:00Z"'),
    *(
        b'"2026-11-02T09:00:00+24:00"',
        b'"2026-11-02T09:00:00.Z"',
        b'"1969-12-31T23:59:59Z"',
        b'"2300-01-01T00:00:00Z"',
    ),
    *(b'"large"', b'"eu"', b"[" * 255 + b"]" * 255, b"[" * 256 + b"]" * 256, b'"' + b"[" * 300 + b'"'),
]


@dataclass(frozen=True)
class Message:
    """A record as confluent-kafka gives it."""

    log: LogRecord

    def value(self) -> bytes | None:
        return self.log.value

    def key(self) -> bytes | None:
        return self.log.key

    def offset(self) -> int:
        return self.log.offset

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return list(self.log.headers)

    def timestamp(self) -> tuple[int, int]:
        return 2, self.log.append_ms


def mutated(seed: int) -> list[LogRecord]:
    """Good payloads with a byte changed, the end cut off, or a value put in place of another."""
    chance = random.Random(seed)
    good = [event.value for event in Workload(seed, start=START, rate=10, bad=0).events(1000)]
    records = []
    for offset in range(PAYLOADS):
        value, kind, at = chance.choice(good), chance.random(), chance.randrange(200)
        if kind < 0.2:
            value = value[:at] + bytes([chance.randrange(256)]) + value[at + 1 :]
        elif kind < 0.25:
            value = value[:at]
        else:
            spot = chance.choice(list(re.finditer(rb':("[^"]*"|[-0-9.]+|true)', value)))
            value = value[: spot.start(1)] + chance.choice(VALUES) + value[spot.end(1) :]
        headers = (("tenant-id", chance.choice([b"acme", b"\xff", b"", b"t" * 257])),) if kind > 0.9 else ()
        records.append(
            LogRecord(
                "usage-events", 0, offset, round(START.timestamp() * 1000) + 60_000, None, value, headers
            )
        )
    return records


@pytest.mark.parametrize("seed", [1, 2])
def test_the_flow_reads_hostile_payloads_as_the_oracle_does(seed: int) -> None:
    records = mutated(seed)
    raw, meters = read_catalog(workload_catalog())["meters"], load_catalog(workload_catalog()).meters
    judged: dict[int, object] = {}
    for record in records:
        try:
            event = read_event(record, Rules(event_bytes_max=BYTES_MAX))
            judged[record.offset] = sorted(
                (one.meter_id, one.value, token(one.unique)) for one in read_meters(event, raw)
            )
        except RejectedError as rejected:
            judged[record.offset] = str(rejected)

    read: dict[int, object] = {}
    measure = Measure(meters)
    for start in range(0, PAYLOADS, 500):
        messages = [Message(record) for record in records[start : start + 500]]
        poll = RawBatch("usage-events", 0, messages, 0, 1)
        batch, rejects = decode_batch([poll], DecodeConfig(event_bytes_max=BYTES_MAX))
        metered, refused = measure.measure(batch)
        read |= {reject.offset: str(reject.reason) for reject in rejects + refused}
        offsets = metered.events.column("offset").to_pylist()
        found: dict[int, list[tuple[str, Decimal, int]]] = {offset: [] for offset in offsets}
        columns = metered.readings
        for row, meter, lo, hi, hashed in zip(
            columns.row, columns.meter, columns.lo, columns.hi, columns.token, strict=True
        ):
            value = Decimal((int(hi) << 64) + int(lo)).scaleb(-12, EXACT)
            found[offsets[row]].append((meters[meter].id, value, int(hashed)))
        read |= {offset: sorted(readings) for offset, readings in found.items()}
    differences = [
        (record.value, judged[record.offset], read.get(record.offset))
        for record in records
        if judged[record.offset] != read.get(record.offset)
    ]
    assert differences == []
    verdicts = [verdict for verdict in judged.values() if isinstance(verdict, str)]
    assert len(set(verdicts)) >= 12, "reasons"
    assert PAYLOADS / 4 < len(verdicts) < PAYLOADS * 3 / 4, "good and bad ones"


def token(unique: str | None) -> int:
    return 0 if unique is None else int(city_hash64(Texts.of([unique.encode()]))[0])
