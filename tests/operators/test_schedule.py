from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from operators.schedule import Schedule


def test_soonest_first_and_each_once() -> None:
    schedule = Schedule()
    for at_ms, number in [(30, 1), (10, 2), (20, 1), (40, 1), (None, 3)]:
        schedule.add(at_ms, number)
    assert schedule.next_ms == 10
    assert list(schedule.pop(9)) == []
    assert list(schedule.pop(20)) == [2, 1]
    assert list(schedule.pop(100)) == []
    assert schedule.next_ms is None


def test_an_account_can_be_added_again_while_it_is_popped() -> None:
    schedule = Schedule()
    schedule.add(1, 7)
    popped = []
    for number in schedule.pop(5):
        popped.append(number)
        if len(popped) < 3:
            schedule.add(len(popped) + 1, number)
    assert popped == [7, 7, 7]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5))), st.integers(0, 50))
def test_who_is_due_is_who_has_a_moment_that_has_come(added: list[tuple[int, int]], now_ms: int) -> None:
    schedule = Schedule()
    for at_ms, number in added:
        schedule.add(at_ms, number)
    soonest = {number: min(at for at, one in added if one == number) for _, number in added}
    assert sorted(schedule.pop(now_ms)) == sorted(n for n, at in soonest.items() if at <= now_ms)
