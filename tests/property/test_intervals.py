"""The algebra of intervals against plain sets of positions."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from beamwright.core.runs import (
    EVENT_MAX,
    SECTION_MAX,
    EventKey,
    Interval,
    after,
    before,
    gaps,
    meeting,
    overlaps,
    touch,
    union,
)
from beamwright.testing.strategies import intervals, keys, positions, probes

PROBES = probes()


def inside(*found: Interval) -> set[tuple[int, int, int]]:
    return {p for p in PROBES for interval in found if interval.contains(EventKey("A", *p))}


@given(intervals(), intervals())
def test_an_intersection_holds_what_both_hold(a: Interval, b: Interval) -> None:
    common = a.intersect(b)
    assert inside(*([common] if common else [])) == inside(a) & inside(b)


@given(intervals(), intervals())
def test_a_difference_holds_what_only_the_first_holds(a: Interval, b: Interval) -> None:
    left = a.subtract(b)
    assert inside(*left) == inside(a) - inside(b)
    assert left == sorted(left)
    assert overlaps(left) == []


@given(intervals(), intervals())
def test_covering_is_containing_every_position(a: Interval, b: Interval) -> None:
    assert a.covers(b) == (inside(b) <= inside(a))


@given(intervals(), st.lists(intervals(), max_size=5))
def test_gaps_and_parts_make_the_whole(whole: Interval, parts: list[Interval]) -> None:
    missing = gaps(whole, parts)
    assert inside(*missing) == inside(whole) - inside(*parts)
    assert overlaps(missing) == []


@given(st.lists(intervals(), max_size=6))
def test_a_union_holds_what_the_parts_hold_in_the_fewest_intervals(parts: list[Interval]) -> None:
    joined = union(parts)
    assert inside(*joined) == inside(*parts)
    assert joined == sorted(joined) == union(joined)
    assert not any(touch(one, other) for one, other in pairwise(joined))


@given(intervals(), st.lists(intervals(), max_size=5))
def test_a_union_leaves_the_gaps_that_its_parts_leave(whole: Interval, parts: list[Interval]) -> None:
    assert gaps(whole, union(parts)) == gaps(whole, parts)
    clipped = [common for part in parts if (common := whole.intersect(part)) is not None]
    assert union([*clipped, *gaps(whole, parts)]) == [whole]


@given(intervals(), st.lists(intervals(), max_size=5))
def test_coverage_is_a_gapless_union(whole: Interval, parts: list[Interval]) -> None:
    assert (gaps(whole, parts) == []) == any(joined.covers(whole) for joined in union(parts))


@given(intervals(), st.lists(intervals(), max_size=5), st.lists(intervals("B"), max_size=2))
def test_those_that_meet_one_are_found(one: Interval, parts: list[Interval], others: list[Interval]) -> None:
    ordered = union([*parts, *others])
    assert list(meeting(ordered, one)) == [part for part in ordered if part.intersect(one) is not None]


@given(intervals(), intervals())
def test_taking_out_and_putting_back_gives_the_same(a: Interval, b: Interval) -> None:
    common = a.intersect(b)
    assert union([*a.subtract(b), *([common] if common else [])]) == [a]


@given(st.lists(intervals(), max_size=6))
def test_overlaps_are_found_exactly_when_two_share_a_position(parts: list[Interval]) -> None:
    shared = any(a.intersect(b) for i, a in enumerate(parts) for b in parts[:i])
    assert bool(overlaps(parts)) == shared


@given(positions())
def test_after_and_before_undo_each_other(position: tuple[int, int, int]) -> None:
    assert before(after(position)) == position
    assert position == (0, 0, 0) or after(before(position)) == position
    assert after(position) > position


@given(intervals())
def test_a_document_reads_back(interval: Interval) -> None:
    assert Interval.from_document(interval.document()) == interval


@given(keys())
def test_a_key_reads_back(key: EventKey) -> None:
    assert EventKey.parse(str(key)) == key


def test_series_never_meet() -> None:
    a, b = Interval.runs("A", 1, 2), Interval.runs("B", 1, 2)
    assert a.intersect(b) is None
    assert a.subtract(b) == [a]
    assert overlaps([a, b]) == []
    assert gaps(a, [b]) == [a]
    assert union([b, a]) == [a, b]


def test_whole_runs_and_sections_end_at_the_end() -> None:
    assert Interval.runs("A", 1, 2) == Interval("A", (1, 0, 0), (2, SECTION_MAX, EVENT_MAX))
    assert after(Interval.sections("A", 1, 3, 5).last) == (1, 6, 0)
