"""Owners take turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from longlive_rag.engines.turns import in_turns

OWNERS = st.sampled_from("abc")


def test_one_that_has_asked_for_much_waits_for_those_who_have_not() -> None:
    assert in_turns("aaab", {}, {}) == [0, 3, 1, 2]
    assert in_turns("aaab", {"a": 1}, {"a": 0}) == [3, 0, 1, 2]
    assert in_turns("aabb", {}, {"a": 7, "b": 3}) == [2, 0, 3, 1]
    assert in_turns("", {"a": 1}, {}) == []


@given(st.lists(OWNERS), st.dictionaries(OWNERS, st.integers(0, 3)), st.dictionaries(OWNERS, st.integers(0, 9)))
def test_each_has_one_place_in_the_order_in_which_its_owner_asked(owners, running, served) -> None:
    order = in_turns(owners, running, served)
    assert sorted(order) == list(range(len(owners)))
    for owner in set(owners):
        own = [place for place in order if owners[place] == owner]
        assert own == sorted(own)


@given(st.lists(OWNERS), st.dictionaries(OWNERS, st.integers(0, 3)))
def test_nobody_has_two_more_than_somebody_who_waits(owners, running) -> None:
    has, left = dict.fromkeys("abc", 0) | running, list(owners)
    for place in in_turns(owners, running, {}):
        assert has[owners[place]] == min(has[owner] for owner in left)
        has[owners[place]] += 1
        left.remove(owners[place])
