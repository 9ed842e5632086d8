"""Event keys and the algebra of intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamwright.core.errors import UsageError
from beamwright.core.runs import EventKey, Interval, after, before, gaps, overlaps

positions = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    first, last = sorted((draw(positions), draw(positions)))
    return Interval("a", first, last)


def test_a_key_is_read_as_it_is_written() -> None:
    key = EventKey("44", 6884, 366, 12)
    assert EventKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["", "44", "44:1:2", "44:1:2:x", ":1:2:3", "44:1:2:3:4", "44:-1:2:3"])
def test_what_is_no_key_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="SERIES:RUN:SECTION:EVENT"):
        EventKey.parse(text)


def test_an_interval_that_runs_backwards_is_refused() -> None:
    with pytest.raises(UsageError, match=r"interval 44:2\.\.1 runs backwards"):
        Interval.runs("44", 2, 1)


@given(positions)
def test_after_undoes_before(position: tuple[int, int, int]) -> None:
    if position > (0, 0, 0):
        assert after(before(position)) == position
    assert before(after(position)) == position


@given(intervals(), intervals())
def test_what_is_left_and_what_is_common_make_the_whole(one: Interval, other: Interval) -> None:
    common, left = one.intersect(other), one.subtract(other)
    parts = sorted([*left, *([common] if common else [])])
    assert parts[0].first == one.first and parts[-1].last == one.last
    assert all(after(a.last) == b.first for a, b in zip(parts, parts[1:], strict=False))
    assert all(part.intersect(other) is None for part in left)


@given(intervals(), st.lists(intervals(), max_size=5), positions)
def test_a_position_is_in_a_gap_or_in_a_part(
    whole: Interval, parts: list[Interval], position: tuple[int, int, int]
) -> None:
    key = EventKey("a", *position)
    in_gap = any(gap.contains(key) for gap in gaps(whole, parts))
    assert in_gap == (whole.contains(key) and not any(part.contains(key) for part in parts))


@given(st.lists(intervals(), max_size=5))
def test_overlaps_are_found_exactly_where_there_are_some(parts: list[Interval]) -> None:
    meets = any(a.intersect(b) for i, a in enumerate(parts) for b in parts[i + 1 :])
    assert bool(overlaps(parts)) == meets


def test_intervals_of_different_series_never_meet() -> None:
    one, other = Interval.runs("a", 1, 9), Interval.runs("b", 1, 9)
    assert one.intersect(other) is None and one.subtract(other) == [one] and not one.covers(other)


def test_an_interval_reads_back_from_its_document() -> None:
    interval = Interval.sections("44", 6884, 369)
    assert Interval.from_document(interval.document()) == interval
    assert str(interval) == "44:6884:369..6884"
