"""Where the values of some names stand in JSON objects, and of which kind they are.

`Texts` of n objects, k names -> `Members`: k times n spans of bytes

No value becomes a Python object here: to make them is half of what a decoder costs, and to put them into
columns again costs as much. An object is read as RFC 8259 has it, to its last byte, with two exceptions,
which are left to who reads it in another way: more levels than `DEPTH_MAX` (operators/json_text.py), and
names that are written with an escape or twice. Bytes past 127 are taken as they are: the caller knows them to
be UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from operators.json_text import scan_objects
from operators.texts import Bytes, Texts
from schemas.usage import I64, Mask


@dataclass(frozen=True, slots=True)
class Members:
    """Values by name and object. A text's span is what stands between its quotes."""

    data: Bytes
    start: I64
    """(k, n), as the next two;"""
    end: I64
    kind: npt.NDArray[np.uint8]
    is_read: Mask
    """(n); the members of an object that was not read mean nothing."""

    def texts(self, name: int) -> Texts:
        """The values of a name."""
        return Texts(self.data, self.start[name], self.end[name])


def scan(objects: Texts, names: Texts) -> Members:
    """Find the values of these names in each object: 0.13 us an object of 280 bytes with 12 values."""
    shape = len(names), len(objects)
    start, end, kind = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.uint8)
    is_read = scan_objects(
        objects.data, objects.start, objects.end, names.data, names.start, names.end, start, end, kind
    )
    return Members(objects.data, start, end, kind, is_read)
