"""Sums and parsing against Python's own integers and `decimal` with room for every digit."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.aggregate import (
    Limbs,
    add,
    from_integers,
    from_limbs,
    limbs,
    locate,
    parse_decimals,
    to_decimals,
)
from operators.groups import group, sum_by_group
from schemas.arrow import QUANTITY
from schemas.events import Reason
from schemas.usage import I64, U64

PATIENT = settings(deadline=None)  # a process's first call of Arrow's kernels takes 0.4 s
ROOMY = Context(prec=12_000, rounding=ROUND_HALF_EVEN)
LIMIT = 10**18
KEYS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=60)
INT128 = st.integers(-(2**127), 2**127 - 1)


def split(units: list[int]) -> Limbs:
    lo = np.array([u & 2**64 - 1 for u in units], np.uint64)
    return lo, np.array([u >> 64 for u in units], np.int64)


def join(lo: U64, hi: I64) -> list[int]:
    return [(h << 64) + low for low, h in zip(lo.tolist(), hi.tolist(), strict=True)]


def column(*quantities: str) -> pa.Decimal128Array:
    return pa.array([Decimal(q) for q in quantities], QUANTITY)


def oracle(value: object) -> int | Reason:
    """Units of a value, from the rule as the documentation states it."""
    if value is None:
        return Reason.VALUE_MISSING
    if isinstance(value, bool) or not isinstance(value, int | str):
        return Reason.VALUE_NOT_NUMERIC
    text = str(value)
    if not re.fullmatch(r"[+-]?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?", text):
        return Reason.VALUE_NOT_NUMERIC
    rounded = ROOMY.create_decimal(text).quantize(Decimal("1e-12"), context=ROOMY)
    return int(rounded.scaleb(12, ROOMY)) if abs(rounded) < LIMIT else Reason.VALUE_OUT_OF_RANGE


def parsed(values: list[object]) -> list[int | Reason]:
    result = parse_decimals(values)
    rows: list[int | Reason] = list(join(result.lo, result.hi))
    assert result.errors == sorted(result.errors)
    for row, reason in result.errors:
        assert rows[row] == 0
        rows[row] = reason
    return rows


NUMBERS = st.one_of(
    st.integers(-10_000, 10_000),
    st.integers(-(10**20), 10**20),
    st.integers(-(2**64), 2**64),
)
TEXTS = st.one_of(
    NUMBERS.map(str),
    st.decimals(allow_nan=True, allow_infinity=True).map(str),
    st.from_regex(r"[+-]?[0-9]{1,20}([.][0-9]{0,16})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.from_regex(r"[-+.eE0-9 ,_xN]{0,8}", fullmatch=True),
    st.text(st.characters(codec=None), max_size=5),
)
OTHERS: st.SearchStrategy[object] = st.sampled_from([None, True, False, [], {}])


@PATIENT
@given(
    st.one_of(st.lists(NUMBERS), st.lists(TEXTS), st.lists(st.one_of(NUMBERS, TEXTS, OTHERS), max_size=12))
)
def test_every_value_is_read_exactly_or_refused_for_its_reason(values: list[object]) -> None:
    assert parsed(values) == [oracle(value) for value in values]


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("5", "5"),
        ("+5", "5"),
        ("-0", "0"),
        ("-0.5", "-0.5"),
        ("1e3", "1000"),
        ("2.5E-3", "0.0025"),
        ("999999999999999999.999999999999", "999999999999999999.999999999999"),
        ("0.0000000000005", "0"),  # half, to the even neighbour
        ("0.0000000000015", "0.000000000002"),
        ("-0.0000000000025", "-0.000000000002"),
        ("0.00000000000050000000000000000000000000000000000000001", "0.000000000001"),
        ("0.30000000000000004", "0.3"),
        ("-99999999999999999.99999999999999999999", "-1e17"),
        ("999999999999999999.99999999999949999999", "999999999999999999.999999999999"),
        ("1e-999999999999999999999999", "0"),
        ("0e999999999999999999999999", "0"),
        ("0." + "0" * 100_000 + "7e100001", "7"),
        ("1e00000000000000000000000000000003", "1000"),
    ],
)
def test_a_number_is_read_to_its_last_decimal(text: str, quantity: str) -> None:
    result = parse_decimals([text])
    assert not result.errors
    assert to_decimals(result.lo, result.hi) == [Decimal(quantity)]


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            " 5",
            "5 ",
            "5\n",
            ".5",
            "5.",
            "05",
            "-",
            "+",
            "+-5",
            "1,000",
            "1_000",
            "0x1",
            "1e",
            "e3",
            "1e1.5",
        ),
        *("NaN", "nan", "Infinity", "+Inf", "-inf", "true", "null", "\u0663", "\ud800"),
        *(True, False, [], [1], {}, {"a": 1}),
    ],
)
def test_what_is_no_number_is_not_numeric(value: object) -> None:
    assert parsed([value, "1", 2]) == [Reason.VALUE_NOT_NUMERIC, 10**12, 2 * 10**12]


@pytest.mark.parametrize(
    "value",
    [
        *(LIMIT, -LIMIT, 2**63, -(2**63), 2**64, 10**30, str(LIMIT), "-1e18", "1e999999999", "1e" + "9" * 50),
        *("9" * 100_000, "-1e999999999999999999", "999999999999999999.9999999999995"),
    ],
)
def test_a_value_of_1e18_or_more_is_out_of_range(value: object) -> None:
    assert parsed([value, 1]) == [Reason.VALUE_OUT_OF_RANGE, 10**12]
    assert parsed([value]) == [Reason.VALUE_OUT_OF_RANGE]


def test_a_missing_value_keeps_its_row() -> None:
    assert parsed([None, 1, None]) == [Reason.VALUE_MISSING, 10**12, Reason.VALUE_MISSING]
    assert parsed([]) == []


def test_a_float_is_a_bug_of_the_decoder() -> None:
    with pytest.raises(TypeError, match="value 1 is a float"):
        parse_decimals(["1", 1.5])


def test_a_column_is_viewed_uncopied_and_given_back_uncopied() -> None:
    whole = column("1", "-0.000000000001", "99999999999999999999999999.999999999999", "-7")
    part = whole.slice(1, 2)
    lo, hi = limbs(part)
    assert join(lo, hi) == [-1, 10**38 - 1]
    address = part.buffers()[1].address
    assert lo.__array_interface__["data"][0] == address + 16
    back = from_limbs(lo, hi)
    assert back.buffers()[1].address == address + 16
    assert back.equals(part)
    back.validate(full=True)


def test_a_column_outlives_the_limbs_it_was_made_of() -> None:
    made = from_limbs(*limbs(column(*["3"] * 1000)))
    assert sum(made.to_pylist()) == 3000


@PATIENT
@given(st.lists(st.integers(1 - 10**38, 10**38 - 1), max_size=8))
def test_separate_limbs_become_a_column(units: list[int]) -> None:
    made = from_limbs(*split(units))
    made.validate(full=True)
    assert [int(q.scaleb(12, ROOMY)) for q in made.to_pylist()] == units
    assert join(*limbs(made)) == units


@pytest.mark.parametrize("units", [10**38, -(10**38), 2**127 - 1, -(2**127)])
def test_a_column_holds_38_digits_and_no_more(units: int) -> None:
    with pytest.raises(OverflowError, match="row 1 "):
        from_limbs(*split([0, units]))


def test_limbs_are_of_quantities_without_nulls() -> None:
    with pytest.raises(ValueError, match="expected decimal128"):
        limbs(pa.array([Decimal(1)], pa.decimal128(38, 9)))
    with pytest.raises(ValueError, match="1 of 2 quantities are null"):
        limbs(pa.array([Decimal(1), None], QUANTITY))
    assert join(*limbs(column())) == []


@PATIENT
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**7), 10**7)))
def test_whole_numbers_scale(values: list[int]) -> None:
    assert join(*from_integers(np.array(values, np.int64))) == [v * 10**12 for v in values]


@PATIENT
@given(st.lists(st.tuples(INT128, INT128)))
def test_adding_is_exact_or_an_error(pairs: list[tuple[int, int]]) -> None:
    a, b = split([x for x, _ in pairs]), split([y for _, y in pairs])
    sums = [x + y for x, y in pairs]
    if all(-(2**127) <= total < 2**127 for total in sums):
        assert join(*add(*a, *b)) == sums
    else:
        with pytest.raises(OverflowError):
            add(*a, *b)


@PATIENT
@given(st.lists(st.tuples(st.integers(0, 4), INT128 | st.integers(-(10**30), 10**30)), max_size=40))
def test_grouped_sums_are_exact_or_an_error(rows: list[tuple[int, int]]) -> None:
    expected: dict[int, int] = {}
    for key, units in rows:
        expected[key] = expected.get(key, 0) + units
    order, starts, keys = group(np.array([key for key, _ in rows], np.uint64))
    lo, hi = split([units for _, units in rows])
    if all(-(2**127) <= total < 2**127 for total in expected.values()):
        sums = join(*sum_by_group(lo[order], hi[order], starts))
        assert dict(zip(keys.tolist(), sums, strict=True)) == expected
    else:
        with pytest.raises(OverflowError):
            sum_by_group(lo[order], hi[order], starts)


def test_many_rows_of_the_largest_values_carry_through_every_digit() -> None:
    rows, units = 100_000, -(LIMIT * 10**12 - 1)
    lo, hi = split([units])
    summed = sum_by_group(np.repeat(lo, rows), np.repeat(hi, rows), np.array([0, 1], np.intp))
    assert join(*summed) == [units, units * (rows - 1)]


@pytest.mark.parametrize("starts", [[0, 0, 2], [2, 1], [0, 3], [-1, 0]])
def test_a_group_has_a_row(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        sum_by_group(*split([1, 2, 3]), np.array(starts, np.intp))


@PATIENT
@given(KEYS)
def test_a_group_is_the_rows_of_its_key(keys: list[int]) -> None:
    order, starts, unique = group(np.array(keys, np.uint64))
    assert unique.tolist() == sorted(set(keys))
    runs = np.split(order, starts[1:])
    assert [sorted(run.tolist()) for run in runs if len(run)] == [
        [row for row, key in enumerate(keys) if key == wanted] for wanted in unique.tolist()
    ]


@PATIENT
@given(KEYS, KEYS)
def test_keys_are_located_where_they_are_or_belong(have: list[int], want: list[int]) -> None:
    keys = np.unique(np.array(have, np.uint64))
    positions, found = locate(keys, np.array(want, np.uint64))
    assert found.tolist() == [key in set(have) for key in want]
    assert all(
        (keys[:at] < key).all() and (keys[at:] >= key).all() for at, key in zip(positions, want, strict=True)
    )
