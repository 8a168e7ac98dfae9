"""What waits for a store: shared fairly, kept until it is acknowledged, and as it was in a snapshot."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as NotThere
from typing_extensions import override

from sinks.outbox import Outbox, State
from sinks.wallet_store import RedisConfig
from tests.sinks.batches import eventually


class Item(msgspec.Struct, frozen=True, array_like=True):
    key: str
    value: int = 0


@dataclass
class Store:
    """A store in this process. It takes a pipeline when it `may`, and fails it while `is_away`."""

    may: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    pipelines: list[list[Item]] = field(default_factory=list)
    is_away: bool = False
    tries: int = 0


class Letters(Outbox[str, Item]):
    """The newest item of each key."""

    def __init__(self, store: Store, batch_rows_max: int) -> None:
        config = RedisConfig(url="", batch_rows_max=batch_rows_max, retry_interval_max_s=0.01, drain_s=0.1)
        super().__init__(config, "letters", State(Item, "letters"))
        self._store = store

    @override
    def queue(self, pending: dict[str, Item], items: Sequence[Item]) -> None:
        pending.update((item.key, item) for item in items)

    @override
    def send(self, items: list[Item]) -> None:
        self._store.tries += 1
        self._store.may.acquire()
        if self._store.is_away:
            raise NotThere
        self._store.pipelines.append(items)

    @override
    def disconnect(self) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.may.release(1000)


def items(prefix: str, count: int) -> list[Item]:
    return [Item(f"{prefix}{number}") for number in range(count)]


def test_parts_share_a_pipeline_and_one_s_few_do_not_wait_behind_another_s_many(store: Store) -> None:
    outbox = Letters(store, 10)
    outbox.write("000", [items("first", 1)])  # keeps the thread busy
    eventually(lambda: store.tries == 1)
    outbox.write("000", [items("many", 100)])
    outbox.write("001", [items("also", 100)])
    outbox.write("002", [items("few", 2)])
    store.may.release(2)
    eventually(lambda: len(store.pipelines) == 2)
    assert [item.key for item in store.pipelines[1]] == [
        *("few0", "few1"),
        *(f"many{number}" for number in range(4)),
        *(f"also{number}" for number in range(4)),
    ]
    store.may.release(1000)
    eventually(lambda: outbox.count_pending() == 0)
    outbox.close()
    sent = [item.key for pipeline in store.pipelines for item in pipeline]
    assert len(sent) == len(set(sent)) == 203
    assert max(map(len, store.pipelines)) == 10


def test_what_replaces_an_item_under_way_is_sent_as_well_and_all_is_in_the_snapshot(store: Store) -> None:
    outbox = Letters(store, 10)
    outbox.write("000", [[Item("a", 1)]])
    eventually(lambda: store.tries == 1)
    outbox.write("000", [[Item("a", 2)]])
    state = State(Item, "letters")
    assert state.decode(outbox.snapshot("000")) == [Item("a", 2)]
    store.may.release()
    eventually(lambda: store.pipelines == [[Item("a", 1)]])
    assert state.decode(outbox.snapshot("000")) == [Item("a", 2)]
    store.may.release(1000)
    outbox.close()
    assert store.pipelines == [[Item("a", 1)], [Item("a", 2)]]
    assert state.decode(outbox.snapshot("000")) == []


def test_a_store_that_is_away_gets_all_again(store: Store) -> None:
    outbox = Letters(store, 10)
    store.is_away = True
    outbox.write("000", [items("x", 3)])
    store.may.release(3)
    eventually(lambda: store.may._value == 0)
    store.is_away = False
    store.may.release(1000)
    eventually(lambda: outbox.count_pending() == 0)
    outbox.close()
    assert store.pipelines == [items("x", 3)]


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 30), max_size=8), st.integers(1, 40))
def test_a_pipeline_is_full_or_all_there_is_and_no_part_gets_more_than_one_that_still_waits(
    counts: dict[str, int], room: int
) -> None:
    outbox = Letters(Store(), room)
    outbox._pending = {part: {item.key: item for item in items("", count)} for part, count in counts.items()}
    taken = {id(pending): len(found) for pending, found in outbox._take()}
    assert sum(taken.values()) == min(room, sum(counts.values()))
    lengths = [(taken.get(id(pending), 0), len(pending)) for pending in outbox._pending.values()]
    for mine, _ in lengths:
        assert all(mine <= other + 1 for other, waiting in lengths if other < waiting)
