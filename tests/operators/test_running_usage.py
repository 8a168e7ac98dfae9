"""Usage in columns and usage in ledgers: every wallet and charge that is sent is the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.bills import Bills
from operators.hyperloglog import EXACT_MAX
from schemas.catalog import Catalog, load_catalog
from tests.operators.pipeline import Pipeline, utc
from tests.operators.stories import BEGIN, CATALOG, CATALOG_YAML, Story, batch, busy_steps, steps, story_of

Steps = list[tuple[int, str, dict[str, Any]]]

FEES = (
    "      - price: {model: flat, amount: 5}\n",
    '      - {meter: stored, price: {model: per_unit, unit_amount: "0.25"}}\n',
)
WITHOUT_FEES = load_catalog(CATALOG_YAML.replace(FEES[0], "").replace(FEES[1], ""))
"""On whose default plan usage of a meter can begin in columns."""

TOPICS = ("usage-events", "account-events")


def bills_of(pipeline: Pipeline) -> list[Bills]:
    return [bill._bills for _, _, bill in pipeline._shard.values()]


def never(_: Sequence[int], __: Sequence[int]) -> list[int]:
    """In place of `_start`: all stays in ledgers."""
    return []


class Twins:
    """A flow, and one that knows no columns; they are told the same."""

    def __init__(self, catalog: Catalog, story: Story) -> None:
        self.running, self.plain = (Pipeline(catalog, BEGIN, shards=2) for _ in range(2))
        self._logs = {"usage-events": story.usage, "account-events": story.accounts}
        self._read = dict.fromkeys(TOPICS, 0)
        self._kept = (self.running.snapshot(), self.plain.snapshot(), dict(self._read))
        self._forbid()

    def _forbid(self) -> None:
        for bills in bills_of(self.plain):
            vars(bills.shelf.running)["_start"] = never

    def each(self, told: Callable[[Pipeline], object]) -> None:
        for pipeline in (self.running, self.plain):
            told(pipeline)

    @property
    def is_read(self) -> bool:
        return all(self._read[topic] == len(log) for topic, log in self._logs.items())

    def poll(self, topic: str, count: int) -> None:
        records = self._logs[topic][self._read[topic] :][:count]
        self._read[topic] += len(records)
        if not records:
            return
        at_ms = records[-1].append_ms
        for pipeline in (self.running, self.plain):
            pipeline.now = max(pipeline.now, utc(at_ms))
            read = pipeline.poll if topic == TOPICS[0] else pipeline.poll_accounts
            read(batch(records, topic, at_ms))

    def tick(self, seconds: float) -> None:
        self.each(lambda pipeline: pipeline.tick(seconds))
        assert self.running.stores.wallets == self.plain.stores.wallets
        assert self.running.stores.charges == self.plain.stores.charges

    def snapshot(self) -> None:
        self._kept = (self.running.snapshot(), self.plain.snapshot(), dict(self._read))

    def crash(self) -> None:
        running, plain, read = self._kept
        self.running.resume(running)
        self.plain.resume(plain)
        self._read = dict(read)
        self._forbid()

    def resume_with(self, catalog: Catalog) -> None:
        """Start again with another catalog."""
        for name in ("running", "plain"):
            before: Pipeline = getattr(self, name)
            later = Pipeline(catalog, before.now, shards=2)
            later.stores, later.archive = before.stores, before.archive
            later.resume(before.snapshot())
            setattr(self, name, later)
        self._forbid()

    @property
    def accounts(self) -> int:
        """How many accounts run in columns."""
        shelves = [bills.shelf for bills in bills_of(self.running)]
        return sum(number in shelf.running for shelf in shelves for number in range(len(shelf.ledgers)))


@pytest.mark.parametrize("catalog", [CATALOG, WITHOUT_FEES], ids=["fees", "without fees"])
@pytest.mark.parametrize("drawn_steps", [busy_steps, steps], ids=["busy", "weeks"])
@settings(max_examples=60)
@given(st.data(), st.integers(0, 2**32))
def test_columns_send_what_ledgers_send(
    catalog: Catalog, drawn_steps: st.SearchStrategy[Steps], data: st.DataObject, seed: int
) -> None:
    chance = random.Random(seed)
    twins = Twins(catalog, story_of(data.draw(drawn_steps)))
    crashes = 2
    while not twins.is_read:
        choice = chance.random()
        if choice < 0.15:
            twins.snapshot()
        elif choice < 0.2 and crashes:
            crashes -= 1
            twins.crash()
        elif choice < 0.6:
            twins.tick(chance.choice([0.2, 0.2, 1.1, 30]))
        else:
            twins.poll(TOPICS[choice < 0.7], chance.choice([1, 1, 2, 5]))
    twins.snapshot()
    twins.tick(2)
    twins.each(lambda pipeline: pipeline.drain())
    twins.tick(0)


USAGE = {"event_name": "llm", "tokens": 4, "user": "u1", "lag_s": 0}
OTHER = USAGE | {"event_name": "free"}
LATE = USAGE | {"lag_s": 7300}  # of October
CREDIT = {
    "type": "credit_granted",
    "plan_id": "",
    "anchor": None,
    "amount": 1,
    "currency": "USD",
    "number": 1,
}


def told(drawn: Steps, catalog: Catalog = WITHOUT_FEES) -> Twins:
    """A poll and a tick for every record."""
    story = story_of(drawn)
    twins = Twins(catalog, story)
    for record in sorted(story.records, key=lambda record: record.append_ms):
        twins.poll(record.topic, 1)
        twins.tick(0.2)
    return twins


def test_an_account_runs_from_its_first_usage_on_or_with_fees_from_its_second() -> None:
    assert told([(7200, "c1", USAGE)], CATALOG).accounts == 0
    assert told([(7200, "c1", USAGE), (1, "c1", USAGE)], CATALOG).accounts == 1
    twins = told([(7200, "c1", USAGE)])
    assert (twins.accounts, told([(7200, "c1", USAGE), (1, "c2", USAGE)]).accounts) == (1, 2)
    twins.crash()
    assert twins.accounts == 0


def test_an_account_whose_running_segment_has_a_meter_that_never_resets_stays_in_its_ledger() -> None:
    assert told([(7200, "c1", USAGE | {"event_name": "store"})]).accounts == 0


@pytest.mark.parametrize("catalog", [CATALOG, WITHOUT_FEES], ids=["fees", "without fees"])
def test_a_meter_may_begin_while_its_account_runs(catalog: Catalog) -> None:
    twins = told([(7200, "c1", USAGE), (1, "c1", USAGE), (1, "c1", OTHER), (1, "c1", OTHER)], catalog)
    assert twins.accounts == 1
    twins.snapshot()
    twins.crash()  # what began is in the snapshot
    twins.tick(0.2)


def test_usage_that_began_in_columns_is_found_under_another_catalog() -> None:
    lines = CATALOG_YAML.replace(FEES[0], "").replace(FEES[1], "").replace('"0.333"', '"0.444"').split("\n")
    lines[2:8] = reversed(lines[2:8])
    other = load_catalog("\n".join(lines))
    drawn: Steps = [
        (7200, "c1", USAGE),
        (1, "c2", OTHER),
        (1, "c1", OTHER),
        (1, "c2", USAGE),
        (1, "c1", USAGE),
    ]
    twins = Twins(WITHOUT_FEES, story_of(drawn))
    twins.poll(TOPICS[0], 3)
    twins.tick(0.2)
    twins.resume_with(other)
    twins.tick(2)
    twins.poll(TOPICS[0], 2)
    twins.tick(0.2)
    twins.resume_with(other)
    twins.tick(2)
    assert {key[1] for key in twins.running.stores.charges} == {"c1", "c2"}
    assert {row["version"] >> 52 for row in twins.running.stores.charges.values()} == {1}


def test_usage_of_another_segment_is_added_to_the_ledger_and_the_account_runs_on() -> None:
    assert told([(7200, "c1", USAGE), (1, "c1", LATE), (1, "c1", USAGE)]).accounts == 1


def test_an_account_event_finds_the_usage_that_ran_and_the_account_runs_on_with_its_next() -> None:
    drawn: Steps = [(7200, "c1", USAGE), (1, "c1", USAGE), (1, "c1", CREDIT | {"lag_s": 0})]
    assert told(drawn).accounts == 0
    assert told([*drawn, (1, "c1", USAGE)]).accounts == 1


def test_a_credit_that_expires_changes_the_wallet_of_an_account_that_runs() -> None:
    twins = told([(7200, "c1", CREDIT | {"lag_s": 0}), (1, "c1", USAGE), (1, "c1", USAGE)])
    before = dict(twins.running.stores.wallets)
    twins.tick(1001)
    assert twins.running.stores.wallets != before


def test_distinct_values_past_those_that_are_kept_exactly() -> None:
    story = story_of(
        [(7200, "c1", USAGE)] + [(0, "c1", USAGE | {"user": f"u{n}"}) for n in range(EXACT_MAX + 5)]
    )
    twins = Twins(WITHOUT_FEES, story)
    for count in (3, 2000, 1000, 1095, 10, 10):
        twins.poll(TOPICS[0], count)
        twins.tick(0.2)
        twins.snapshot()
    twins.tick(2)
    assert twins.is_read


def test_an_amount_that_no_column_holds_goes_back_to_its_ledger() -> None:
    huge = USAGE | {"tokens": 10**17}
    twins = told([(7200, "c1", USAGE), (1, "c1", USAGE), (1, "c1", huge), (1, "c1", huge)])
    assert twins.accounts == 0
    assert told([(7200, "c1", USAGE), (1, "c1", huge)]).accounts == 0
