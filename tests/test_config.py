"""Requests that hold very much are checked in reasonable time, and as exactly."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbone.errors import FieldError
from longlive_rag.config import MemoryConfig, TakeRequest

SPAN = st.tuples(st.integers(0, 12), st.integers(1, 4)).map(lambda span: (span[0], span[0] + span[1]))
SPANS = st.lists(SPAN, max_size=6)


@given(SPANS, SPANS)
def test_what_is_pinned_must_not_be_excluded(pin, exclude):
    clash = next((one for one in pin for other in exclude if max(one[0], other[0]) < min(one[1], other[1])), None)
    memory = MemoryConfig(pin=tuple(pin), exclude=tuple(exclude))
    if clash is None:
        TakeRequest("a red circle", 20.0, memory=memory)
        return
    with pytest.raises(FieldError) as refused:
        TakeRequest("a red circle", 20.0, memory=memory)
    assert (refused.value.field, refused.value.value) == ("pin", clash)
    named = str(refused.value).split("but ")[1].split(" s is")[0]
    start, end = map(float, named.split("-"))
    assert (start, end) in exclude
    assert max(start, clash[0]) < min(end, clash[1])


def test_very_many_spans():
    count = 20_000
    memory = MemoryConfig(pin=((0.0, 1.0),) * count, exclude=((1.0, 2.0),) * count)
    begin_s = time.process_time()
    assert len(TakeRequest("a red circle", 20.0, memory=memory).memory.pin) == count
    assert time.process_time() - begin_s < 10  # every pair: more than a minute
