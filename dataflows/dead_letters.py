"""`meterline dead-letters list` and `show`: records that were not metered, from the table `dead_letters`.

What a payload holds is anyone's: texts are printed only if every character of them can be seen.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

import msgspec
import orjson

from dataflows.exits import FailureError, UserError
from dataflows.reports import moment_text, print_json, print_table
from dataflows.settings import Settings
from dataflows.stores import clickhouse
from dataflows.usage_report import moment
from schemas.events import Reason
from sql import query

BINARY: dict[str, str | dict[str, str]] = {"key": "bytes", "payload": "bytes"}
"""How clickhouse-connect is to give these columns: it would read them as UTF-8."""

EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2299, 12, 31, tzinfo=UTC))
HEX_ROW_BYTES = 16
COLUMNS: dict[str, Literal["left", "right"]] = {
    "place": "left",
    "reason": "left",
    "appended at": "left",
    "bytes": "right",
    "replayed": "left",
    "detail": "left",
}


@dataclass(frozen=True)
class Selection:
    """Which dead letters: of one reason ("" is all), appended from `since` until before `until`."""

    reason: str = ""
    since: datetime = EVER[0]
    until: datetime = EVER[1]

    @classmethod
    def parse(cls, *, reason: str | None, since: str | None, until: str | None) -> Self:
        """From a command line; raises UserError."""
        if reason is not None and reason not in list(Reason):
            raise UserError(f"--reason {reason}: must be one of {', '.join(Reason)}")
        first = EVER[0] if since is None else moment("--since", since)
        end = EVER[1] if until is None else moment("--until", until)
        if first >= end:
            raise UserError(f"--since {since} is not before --until {until}")
        return cls(reason or "", first, end)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"reason": self.reason, "since": self.since, "until": self.until}


@dataclass(frozen=True)
class DeadLetter:
    """One row of the table, with the record's original bytes."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    appended_at: datetime
    key: bytes
    payload: bytes
    headers: tuple[tuple[str, bytes], ...]

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Self:
        """From the columns of `dead_letters_page.sql`."""
        reason, detail, topic, partition, offset, appended_at, key, payload, headers = row
        return cls(
            reason=reason,
            detail=detail,
            topic=topic,
            partition=partition,
            offset=offset,
            appended_at=appended_at.replace(tzinfo=UTC),
            key=key,
            payload=payload,
            headers=tuple((name, base64.b64decode(value)) for name, value in orjson.loads(headers)),
        )

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


def print_dead_letters(settings: Settings, selection: Selection, limit: int, *, as_json: bool) -> None:
    """The newest dead letters of a selection, and how many there are by reason."""
    with clickhouse(settings.clickhouse_url) as client:
        counts = client.query(query("dead_letters_by_reason"), parameters=selection.parameters).result_rows
        rows = client.query(
            query("dead_letters_found"), parameters={**selection.parameters, "limit": limit}
        ).result_rows
    listed = [
        {
            "place": f"{topic}/{partition}/{offset}",
            "reason": reason,
            "appended_at": moment_text(appended_at),
            "bytes": payload_bytes,
            "replayed": bool(replayed),
            "detail": detail,
        }
        for reason, detail, topic, partition, offset, appended_at, payload_bytes, replayed in rows
    ]
    total = sum(found for _, found, _ in counts)
    if as_json:
        by_reason = {reason: {"found": found, "replayed": replayed} for reason, found, replayed in counts}
        print_json({"found": total, "by_reason": by_reason, "dead_letters": listed})
        return
    if listed:
        cells = [[("yes" if v else "") if isinstance(v, bool) else v for v in row.values()] for row in listed]
        print_table(None, COLUMNS, cells)
    for reason, found, replayed in counts:
        print(f"{found:,} {reason}" + (f", {replayed:,} of them replayed" if replayed else ""))
    print(f"{len(listed):,} of {total:,} dead letters" if total else "no dead letters")


def print_dead_letter(settings: Settings, place: str, *, as_json: bool) -> None:
    """One dead letter, whole. Raises FailureError if there is none at `place`."""
    topic, partition, offset = parse_place(place)
    where = {"topic": topic, "partition": partition, "offset": offset}
    with clickhouse(settings.clickhouse_url) as client:
        rows = client.query(query("dead_letter"), parameters=where, column_formats=BINARY).result_rows
    if not rows:
        raise FailureError(
            f"there is no dead letter at {place}; `meterline dead-letters list` has their places"
        )
    *columns, replays = rows[0]
    letter = DeadLetter.of_row(tuple(columns))
    copies = [
        {"replayed_at": moment_text(datetime.fromisoformat(at)), "copy": f"{topic}/{copy_partition}/{copy}"}
        for at, copy_partition, copy in replays
    ]
    if as_json:
        print_json(
            {
                "place": letter.place,
                "reason": letter.reason,
                "detail": letter.detail,
                "appended_at": letter.appended_at,
                "key_base64": base64.b64encode(letter.key).decode(),
                "headers": [[name, base64.b64encode(value).decode()] for name, value in letter.headers],
                "payload_base64": base64.b64encode(letter.payload).decode(),
                "replays": copies,
            }
        )
        return
    print(f"place     {letter.place}")
    print(f"reason    {letter.reason}: {one_line(letter.detail.encode())}")
    print(f"appended  {moment_text(letter.appended_at)}")
    print(f"key       {one_line(letter.key)}")
    for name, value in letter.headers:
        print(f"header    {one_line(name.encode())}: {one_line(value)}")
    for copy in copies:
        print(f"replayed  {copy['replayed_at']} as {copy['copy']}")
    print(f"payload   {len(letter.payload):,} bytes")
    print(payload_text(letter.payload))


def parse_place(place: str) -> tuple[str, int, int]:
    """TOPIC/PARTITION/OFFSET; raises UserError. Rows that are no record have the partition -1."""
    topic, _, rest = place.partition("/")
    partition, _, offset = rest.partition("/")
    try:
        numbers = int(partition), int(offset)
    except ValueError:
        numbers = (-2, -2)
    if not topic or not -1 <= numbers[0] < 1 << 31 or not 0 <= numbers[1] < 1 << 63:
        raise UserError(f"{place} is not TOPIC/PARTITION/OFFSET, such as usage-events/3/41")
    return topic, *numbers


def payload_text(payload: bytes) -> str:
    """JSON with a line a member, its values as they were sent; other text as it is; else a hexdump."""
    try:
        text = msgspec.json.format(payload, indent=2).decode()
    except (ValueError, RecursionError):
        text = payload.decode(errors="replace") if _is_seen(payload) else ""
    return text if text and _is_seen(text.encode()) else hexdump(payload)


def hexdump(data: bytes) -> str:
    """Offset, 16 bytes, and those of them that are ASCII, a row."""
    rows = []
    for start in range(0, len(data), HEX_ROW_BYTES):
        part = data[start : start + HEX_ROW_BYTES]
        seen = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        rows.append(f"{start:08x}  {part.hex(' '):<{HEX_ROW_BYTES * 3}} {seen}")
    return "\n".join(rows)


def one_line(data: bytes) -> str:
    """Text that can be seen as it is, anything else as a Python literal."""
    text = data.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else repr(data)


def _is_seen(data: bytes) -> bool:
    """Whether this is text whose characters are printed as themselves: no terminal's escapes."""
    try:
        lines = data.decode().replace("\t", " ").splitlines()
    except UnicodeDecodeError:
        return False
    return all(line.isprintable() for line in lines)
