"""Sets of tokens in one array against a Python set each, and their states against `UniqueSketch`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import token_sets
from operators.hyperloglog import EMPTY_STATE, EXACT_MAX, UniqueSketch
from operators.token_sets import TokenSets
from schemas.usage import I64

tokens = st.one_of(st.integers(0, 12), st.integers(2**64 - 3, 2**64 - 1), st.integers(0, 2**64 - 1))
added = st.lists(st.tuples(st.integers(0, 5), tokens), min_size=1, max_size=30)
turns = st.lists(st.one_of(added, st.sampled_from(["read", "forget", "crash"])), max_size=12)


def state_of(values: set[int]) -> bytes:
    sketch = UniqueSketch()
    sketch.add(np.array(list(values), np.uint64))
    return sketch.state()


def add(sets: TokenSets, found: list[tuple[int, int]]) -> None:
    numbers = np.array([number for number, _ in found], np.int64)
    sets.add(numbers, np.array([token for _, token in found], np.uint64))


def every(model: list[set[int]]) -> I64:
    return np.arange(len(model))


@pytest.mark.parametrize("small_max", [1, 3, 256])
@pytest.mark.parametrize("waiting_max", [0, 20, 1 << 16])
def test_a_set_holds_what_was_added_to_it(small_max: int, waiting_max: int) -> None:
    @settings(max_examples=25, deadline=None)
    @given(turns)
    def holds(story: list[list[tuple[int, int]] | str]) -> None:
        sets, model = TokenSets(), [set[int]() for _ in range(6)]
        sets.begin(len(model))
        for turn in story:
            if isinstance(turn, list):
                add(sets, turn)
                for number, token in turn:
                    model[number].add(token)
            elif turn == "read":
                assert sets.states(every(model)).to_pylist() == [state_of(values) for values in model]
            elif turn == "crash":
                sets = TokenSets.restore(*sets.dump(every(model)))
            else:
                model = model[::-1][: max(1, len(model) - 1)]
                sets.keep(np.arange(len(model) + 1)[::-1][: len(model)])
                sets.begin(6 - len(model))
                model += [set() for _ in range(6 - len(model))]
        assert sets.states(every(model)).to_pylist() == [state_of(values) for values in model]
        assert [sets.sketch(number).state() for number in range(6)] == [state_of(v) for v in model]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_sets, "SMALL_MAX", small_max)
        patch.setattr(token_sets, "WAITING_MAX", waiting_max)
        holds()


@pytest.mark.parametrize("n", [1, 16, 17, 127, 128, 255, 256, 257, EXACT_MAX, EXACT_MAX + 1])
def test_a_state_is_the_sketchs_to_the_byte(n: int) -> None:
    values = np.random.default_rng(n).integers(0, 2**64, n, np.uint64)
    sets = TokenSets()
    sets.begin(3)
    for part in np.array_split(values, 5):
        sets.add(np.full(len(part), 1), part)
        sets.states(np.array([1]))
    sketch = UniqueSketch()
    sketch.add(values)
    assert sets.states(np.array([0, 1, -1, 2, 1])).to_pylist() == [
        EMPTY_STATE,
        sketch.state(),
        EMPTY_STATE,
        EMPTY_STATE,
        sketch.state(),
    ]
    assert len(sets.states(np.empty(0, np.int64))) == 0


def test_states_that_a_column_cannot_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = TokenSets()
    sets.begin(1)
    sets.add(np.zeros(3, np.int64), np.arange(3, dtype=np.uint64))
    monkeypatch.setattr(token_sets, "_STATE_BYTES_MAX", 3 * 26 - 1)
    assert len(sets.states(np.zeros(2, np.int64))) == 2
    with pytest.raises(OverflowError, match="3 changed cells take 78 bytes"):
        sets.states(np.zeros(3, np.int64))


def test_sets_that_become_sketches_leave_no_more_behind_than_others_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_sets, "SMALL_MAX", 10)
    sets, count = TokenSets(), 100
    sets.begin(count)
    for number in range(count):
        sets.add(np.full(11, number), np.arange(11, dtype=np.uint64))
        assert sets._used <= 22
    sets.begin(1)
    sets.add(np.full(10, count), np.arange(10, dtype=np.uint64))
    assert sets.dump(np.arange(count + 1))[0].tolist() == [-1] * count + [10]
    assert sorted(sets.dump(np.arange(count, count + 1))[1].tolist()) == list(range(10))


def test_a_set_that_many_tokens_collide_in_is_right() -> None:
    sets, tokens = TokenSets(), np.arange(3_000, dtype=np.uint64) << np.uint64(40)
    sets.begin(2)
    for turn in range(3):
        sets.add(np.arange(3_000) % 2, np.roll(tokens, 2 * turn))
    assert sets.dump(np.array([1, 0]))[0].tolist() == [1_500, 1_500]
    found = sets.dump(np.array([1, 0]))[1]
    assert np.sort(found[:1_500]).tolist() == tokens[1::2].tolist()
    assert np.sort(found[1_500:]).tolist() == tokens[::2].tolist()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=120), st.permutations(range(6)))
def test_a_dump_is_the_same_by_a_pass_and_along_the_chains(
    pairs: list[tuple[int, int]], order: list[int]
) -> None:
    numbers = np.array(order[: len(order) - len(pairs) % 3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_sets, "SMALL_MAX", 10)
        sets = TokenSets()
        sets.begin(6)
        add(sets, pairs)
        dumps = []
        for part in (0, 1_000_000):
            patch.setattr(token_sets, "PASS_PART", part)
            counts, tokens_, large = sets.dump(numbers)
            dumps.append((counts.tolist(), tokens_.tolist(), large))
    assert dumps[0] == dumps[1]


def test_what_was_dumped_does_not_change_with_the_sets() -> None:
    sets = TokenSets()
    sets.begin(2)
    add(sets, [(0, 1), (1, 2), (1, 3)])
    counts, tokens_, large = sets.dump(np.arange(2))
    add(sets, [(0, 7), (1, 8)])
    sets.states(np.arange(2))
    assert (counts.tolist(), sorted(tokens_.tolist()), large) == ([1, 2], [1, 2, 3], [])


def test_the_sets_of_another_stand_behind_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_sets, "SMALL_MAX", 2)
    models = [[{1, 2, 3}, {4}, set[int]()], [{1, 5}, {6, 7, 8}]]
    sets, other = TokenSets(), TokenSets()
    for one, model in zip((sets, other), models, strict=True):
        one.begin(len(model))
        add(one, [(number, token) for number, values in enumerate(model) for token in values])
        one.states(every(model))
        add(one, [(1, 90), (1, 91)])  # which wait
        model[1] |= {90, 91}
    assert sets.extend(other) == 3
    joined = models[0] + models[1]
    assert sets.states(every(joined)).to_pylist() == [state_of(values) for values in joined]
    assert sets.begin(1).tolist() == [5]
    add(sets, [(number, 92) for number in range(6)])
    joined.append(set())
    assert sets.states(every(joined)).to_pylist() == [state_of({*values, 92}) for values in joined]
