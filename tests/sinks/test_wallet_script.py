"""`wallets.lua` against the same in Python's decimals: any history, any amounts, deltas to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from redis import Redis

from schemas.wallets import WalletRow
from sinks.wallet_store import (
    PUBLISHED,
    SAME_AMOUNTS,
    STALE,
    WalletStore,
    decimal_text,
    read_wallet,
    wallet_key,
)
from tests.sinks.wallets import deltas, wallet

customers = (f"customer-{number}" for number in count())

amounts = (
    st.decimals(-(10**19), 10**19, places=12)
    | st.decimals(-100, 100, places=2)
    | st.integers(-3, 3).map(Decimal)
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, Decimal, Decimal]]:
    """(version, balance, usage) in any order, with repeated versions."""
    return draw(
        st.lists(st.tuples(st.integers(0, 4) | st.integers(2**62, 2**63), amounts, amounts), max_size=12)
    )


@dataclass
class Model:
    """The script in obvious words."""

    stored: WalletRow | None = None
    deltas: list[tuple[Decimal, Decimal, int]] = field(default_factory=list)

    def apply(self, row: WalletRow) -> int:
        old = self.stored
        same = old is not None and (old.balance, old.usage) == (row.balance, row.usage)
        if old is not None and (row.version < old.version or (row.version == old.version and same)):
            return STALE
        self.stored = row
        if same:
            return SAME_AMOUNTS
        self.deltas.append((row.available - (old.available if old else 0), row.available, row.version))
        return PUBLISHED


@pytest.fixture
def exact() -> Iterator[None]:
    """Decimals of 40 digits add without rounding."""
    with localcontext(prec=60):
        yield


@pytest.mark.usefixtures("exact")
@given(history=histories())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_deltas_are_exact_and_add_up_to_available(
    store: WalletStore, redis: Redis, history: list[tuple[int, Decimal, Decimal]]
) -> None:
    customer, model = next(customers), Model()
    rows = [
        structs.replace(
            wallet(customer, "0", version=version), balance=balance, usage=usage, available=balance - usage
        )
        for version, balance, usage in history
    ]
    assert store.apply(rows) == [model.apply(row) for row in rows]
    views = read_wallet(redis, "acme", customer)
    if model.stored is None:
        assert views == []
        return
    published = deltas(redis, model.stored)
    assert published == model.deltas
    assert sum(delta for delta, _, _ in published) == views[0].available == model.stored.available


@st.composite
def numbers_of_about_15_digits(draw: st.DrawFn) -> tuple[Decimal, Decimal]:
    """Where the script goes from doubles to digits; near each other, so that little is left of them."""
    places = draw(st.integers(0, 16))
    units = draw(st.integers(9 * 10**14, 11 * 10**14) | st.integers(0, 2 * 10**15))
    apart = draw(st.integers(-20, 20) | st.integers(-(2 * 10**15), 2 * 10**15))
    sign, other_sign = draw(st.sampled_from([1, -1])), draw(st.sampled_from([1, -1]))
    return Decimal(sign * units).scaleb(-places), Decimal(other_sign * (units + apart)).scaleb(-places)


@pytest.mark.usefixtures("exact")
@given(pairs=st.lists(numbers_of_about_15_digits(), min_size=20, max_size=40))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_deltas_are_exact_where_doubles_end(
    store: WalletStore, redis: Redis, pairs: list[tuple[Decimal, Decimal]]
) -> None:
    customer = next(customers)
    rows = [
        structs.replace(wallet(customer, "0", version=version), balance=amount, available=amount)
        for version, amount in enumerate([amount for pair in pairs for amount in pair])
    ]
    store.apply(rows)
    published: Any = redis.xrange(wallet_key("acme", customer, "deltas"))
    available = {int(entry[b"version"]): entry[b"delta"].decode() for _, entry in published}
    before = Decimal(0)
    for row in rows:
        if row.version in available:  # all but those with the same amounts again
            assert available[row.version] == decimal_text(row.available - before)
        else:
            assert row.available == before
        before = row.available


@pytest.mark.usefixtures("exact")
@given(amounts)
def test_an_amount_as_text_is_canonical_and_exact(amount: Decimal) -> None:
    text = decimal_text(amount)
    assert Decimal(text) == amount
    assert text == decimal_text(amount * Decimal("1.000"))
    assert "E" not in text
    assert text != "-0"
