"""Numbers of keys."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.numbering import SLOTS_MIN, UNKNOWN, Numbering

keys = st.one_of(st.integers(0, 40), st.integers(0, (1 << 24) - 1).map(lambda number: number << 40))


@given(st.lists(st.lists(keys, max_size=SLOTS_MIN), max_size=4), st.lists(keys, max_size=9))
def test_each_key_has_the_number_of_its_place(parts: list[list[int]], asked: list[int]) -> None:
    known: dict[int, int] = {}
    numbering = Numbering()
    for part in parts:
        new = [key for key in dict.fromkeys(part) if key not in known]
        numbering.add(np.array(new, np.uint64))
        known |= {key: len(known) + place for place, key in enumerate(new)}
    for one in (numbering, Numbering(numbering.keys)):
        assert len(one) == len(known)
        assert one.keys.tolist() == list(known)
        assert one.find(np.array(asked, np.uint64)).tolist() == [known.get(key, UNKNOWN) for key in asked]
