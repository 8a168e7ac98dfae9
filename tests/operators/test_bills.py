"""Bills against the oracle: whatever order the two topics are read in, and wherever the flow crashes."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operators.stories import differences, judged, steps, story_of, tell

Steps = list[tuple[int, str, dict[str, Any]]]
seeds = st.integers(0, 2**32)


@settings(max_examples=150, deadline=None)
@given(steps, seeds)
def test_the_order_in_which_the_topics_are_read_does_not_matter(drawn: Steps, seed: int) -> None:
    story = story_of(drawn)
    assert differences(tell(story, random.Random(seed)), judged(story)) == []


@settings(max_examples=150, deadline=None)
@given(steps, seeds)
def test_crashes_change_no_charge_and_no_wallet(drawn: Steps, seed: int) -> None:
    story = story_of(drawn)
    assert differences(tell(story, random.Random(seed), crashes=3), judged(story)) == []
