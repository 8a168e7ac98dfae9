"""The fields of a batch of events as spans of its payloads. Payloads -> `EventFields`.

The events' own names and CloudEvents' are read here; null and "" are the same as a missing field. What is
unusual is marked `odd` and read by `operators.examine`, which says what an event is.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec
import numpy as np

from operators.examine import CLOUD_NAMES, NO_PROPERTIES, Event
from operators.json_scan import Members, scan
from operators.json_text import ABSENT, ESCAPED, NULL, OBJECT, TEXT
from operators.texts import Texts
from schemas.usage import I64, Mask


class Field(IntEnum):
    """Fields of an event, by their names in JSON."""

    id = 0
    event_name = 1
    external_customer_id = 2
    customer_id = 3
    tenant_id = 4
    source = 5
    timestamp = 6
    properties = 7


_OWN: Final = [field.name.encode() for field in Field]
_CLOUD: Final = [
    {"tenant_id": "tenantid", **CLOUD_NAMES}.get(field.name, field.name).encode() for field in Field
]
_NAMES: Final = [*_OWN, *(name for name in _CLOUD if name not in _OWN), b"specversion", b"data_base64"]
_CLOUD_AT: Final = [_NAMES.index(name) for name in _CLOUD]
_VERSION, _BINARY = map(_NAMES.index, (b"specversion", b"data_base64"))
_WANTED: Final = Texts.of(_NAMES)
_VERSIONS: Final = Texts.of([b"1.0"])

_string = msgspec.json.Decoder(str).decode


def is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class EventFields:
    """Row i of every field is event i; where the field is missing it is empty, but for `properties`: `{}`.

    Texts that stand in no payload as they are (those with escapes, say) are put behind the payloads.
    """

    def __init__(self, objects: Texts, bytes_max: int) -> None:
        found = scan(objects, _WANTED)
        self._data = objects.data
        self._more: list[bytes] = []
        self._size = len(self._data)
        self.odd: Mask = ~found.is_read | (objects.sizes > bytes_max)
        """Which events are not read here: their fields are empty, or mean nothing."""
        self._start, self._end, self._kind = (
            column[: len(Field)] for column in (found.start, found.end, found.kind)
        )
        for row in np.flatnonzero(~objects.are_ascii()).tolist():
            self.odd[row] |= not is_utf8(objects.at(row))
        self._take_cloud_events(found)
        self._check_kinds()
        self._end[:, self.odd] = self._start[:, self.odd]

    def _take_cloud_events(self, found: Members) -> None:
        """Take CloudEvents' fields by their names."""
        kind, version = found.kind, found.texts(_VERSION)
        has_version = (kind[_VERSION] != ABSENT) & (kind[_VERSION] != NULL)
        if not has_version.any():
            return
        is_cloud = version.are(_VERSIONS) & (kind[_VERSION] == TEXT)
        self.odd |= has_version & ~is_cloud
        self.odd |= is_cloud & (kind[_BINARY] != ABSENT) & (kind[_BINARY] != NULL)
        tenant = _CLOUD_AT[Field.tenant_id]
        has_tenant = (kind[tenant] != NULL) & (found.end[tenant] > found.start[tenant])
        for field, cloud in zip(Field, _CLOUD_AT, strict=True):
            is_taken = is_cloud & has_tenant if field is Field.tenant_id else is_cloud
            self._start[field] = np.where(is_taken, found.start[cloud], self._start[field])
            self._end[field] = np.where(is_taken, found.end[cloud], self._end[field])
            self._kind[field] = np.where(is_taken, kind[cloud], self._kind[field])

    def _check_kinds(self) -> None:
        """Empty what is missing, read what has escapes, and mark what can't be such a field."""
        kind = self._kind
        is_missing = (kind == ABSENT) | (kind == NULL)
        self._end[is_missing] = self._start[is_missing]
        texts = kind[: Field.properties]
        is_escaped = texts == ESCAPED
        self.odd |= ~((texts == TEXT) | is_missing[: Field.properties] | is_escaped).all(axis=0)
        self.odd |= ~((kind[Field.properties] == OBJECT) | is_missing[Field.properties])
        if is_escaped.any():
            for field, row in np.argwhere(is_escaped & ~self.odd).tolist():
                self._unescape(Field(field), row)
        if is_missing[Field.properties].any():
            self.put(Field.properties, np.flatnonzero(is_missing[Field.properties]), bytes(NO_PROPERTIES))

    def _unescape(self, field: Field, row: int) -> None:
        text = self._data[self._start[field, row] - 1 : self._end[field, row] + 1].tobytes()
        try:
            self.put(field, [row], _string(text).encode())
        except (msgspec.DecodeError, UnicodeEncodeError):  # half of a surrogate pair
            self.odd[row] = True

    def put(self, field: Field, rows: I64 | list[int], text: bytes) -> None:
        """Let events have this field."""
        self._more.append(text)
        self._start[field, rows] = self._size
        self._size += len(text)
        self._end[field, rows] = self._size

    def put_event(self, row: int, event: Event) -> None:
        """Let an event have the fields of one that was examined."""
        for field in Field:
            value = getattr(event, field.name)
            self.put(field, [row], bytes(value) if field is Field.properties else (value or "").encode())

    def select(self, rows: Mask) -> None:
        """Forget all events but these."""
        self.odd = self.odd[rows]
        self._start, self._end = self._start[:, rows], self._end[:, rows]

    def column(self, field: Field) -> Texts:
        """A field's texts."""
        if self._more:
            self._data = np.frombuffer(b"".join([self._data.data, *self._more]), np.uint8)
            self._more.clear()
        return Texts(self._data, self._start[field], self._end[field])

    @property
    def account(self) -> Texts:
        """The customer's id: the external one, else `customer_id`."""
        external, own = self.column(Field.external_customer_id), self.column(Field.customer_id)
        has_external = external.sizes > 0
        return Texts(
            self._data,
            np.where(has_external, external.start, own.start),
            np.where(has_external, external.end, own.end),
        )
