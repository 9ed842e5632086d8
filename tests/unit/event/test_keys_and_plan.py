"""Indexes of keys, prescales, and the plan of a pass."""

from __future__ import annotations

import numpy as np
import pytest

from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import ConditionsError, FormatError, NotCoveredError, UsageError
from beamwright.core.runs import EVENT_MAX, SECTION_MAX, Interval
from beamwright.event.keys import Ascending, Index, are_among, distinct, is_ascending, key_hash, prescaled
from beamwright.event.plan import Piece, Stage, Task, make_plan, pieces_of


def index(size: list[int] | None = None) -> Index:
    return Index.build([2, 1, 1, 1, 2], [5, 9, 3, 3, 5], [1, 0, 8, 7, 0], name="f", size=size)


def test_keys_in_any_order_are_sorted_and_remember_their_entry() -> None:
    made = index([10, 11, 12, 13, 14])
    keys = list(zip(made.run.tolist(), made.section.tolist(), made.event.tolist(), strict=True))
    assert keys == [(1, 3, 7), (1, 3, 8), (1, 9, 0), (2, 5, 0), (2, 5, 1)]
    assert made.entry.tolist() == [3, 2, 1, 4, 0]
    assert made.size is not None and made.size.tolist() == [13, 12, 11, 14, 10]
    assert str(made.key("A", 1)) == "A:1:3:8"


def test_a_key_that_comes_twice_is_refused_with_its_file() -> None:
    with pytest.raises(FormatError, match=r"raw\.root holds the record 1:2:3 more than once"):
        Index.build(1, [2, 2], [3, 3], name="raw.root")


@pytest.mark.parametrize(("section", "event"), [([-1], [0]), ([0], [-5]), ([2**32], [0])])
def test_keys_outside_their_range_are_refused(section: list[int], event: list[int]) -> None:
    with pytest.raises(FormatError, match="numbers from"):
        Index.build(1, section, event, name="raw.root")


@pytest.mark.parametrize(
    ("first", "last", "span"),
    [
        ((1, 3, 8), (2, 5, 0), (1, 4)),
        ((0, 0, 0), (9, 0, 0), (0, 5)),
        ((1, 4, 0), (1, 8, EVENT_MAX), (2, 2)),
        ((2, 0, 0), (2, SECTION_MAX, EVENT_MAX), (3, 5)),
    ],
)
def test_an_interval_spans_the_keys_inside_it(
    first: tuple[int, int, int], last: tuple[int, int, int], span: tuple[int, int]
) -> None:
    made = index()
    assert made.span(Interval("A", first, last)) == span
    assert len(made.within(Interval("A", first, last))) == span[1] - span[0]


def test_the_hash_of_a_key_is_pinned() -> None:
    assert key_hash(6884, 366, 12, 5).tolist() == [int(key_hash([6884], [366], [12], 5)[0])]
    assert key_hash(1, 2, 3).tolist() == [16914669369030367833]


def test_a_prescale_keeps_about_its_share_and_is_a_property_of_the_key() -> None:
    events = np.arange(100_000)
    kept = prescaled(1, 2, events, 10)
    assert 9_500 < kept.sum() < 10_500
    assert np.array_equal(kept[500:700], prescaled(1, 2, events[500:700], 10))
    assert prescaled(1, 2, events, 1).all()


def test_counting_and_finding_keys() -> None:
    section, event = np.array([1, 1, 2, 1]), np.array([5, 5, 5, 6])
    assert distinct(section, event) == 3
    assert distinct(section[:0], event[:0]) == 0
    assert are_among(section, event, np.array([1]), np.array([5])).tolist() == [True, True, False, False]
    assert not is_ascending(section, event)
    assert is_ascending(np.array([1, 1, 2]), np.array([5, 6, 0]))


def plan(**options: int) -> list[tuple[int, int, int]]:
    events = Index.build([1] * 25 + [2] * 5, [0] * 30, list(range(25)) + list(range(5)), name="f")
    whole = Interval.runs("A", 1, 2)
    cut = Interval("A", (1, 0, 0), (1, 0, 12)), Interval("A", (1, 0, 13), whole.last)
    made = make_plan(events, "A", "event", whole, [Piece(part, {}) for part in cut], **options)
    return [(span.start, span.stop, span.piece) for span in made.spans]


def test_batches_end_at_runs_at_conditions_and_at_their_size() -> None:
    assert plan() == [(0, 13, 0), (13, 25, 1), (25, 30, 1)]
    assert plan(batch_events=10) == [(0, 10, 0), (10, 13, 0), (13, 23, 1), (23, 25, 1), (25, 30, 1)]


def test_batches_are_cut_by_bytes_where_sizes_are_known() -> None:
    events = Index.build(1, [0] * 6, range(6), name="f", size=[10, 10, 50, 10, 10, 10])
    made = make_plan(
        events, "A", "event", Interval.runs("A", 1, 1), [Piece(Interval.runs("A", 1, 1), {})], batch_bytes=25
    )
    assert [(span.start, span.stop) for span in made.spans] == [(0, 2), (2, 3), (3, 5), (5, 6)]


def test_a_plan_counts_what_is_read_and_what_the_prescale_drops() -> None:
    events = Index.build(1, 0, range(1000), name="f")
    whole = Interval.sections("A", 1)
    made = make_plan(events, "A", "event", whole, [Piece(whole, {})], prescale=4)
    assert made.read == 1000
    assert made.prescaled + len(made.kept) == 1000
    assert 150 < len(made.kept) < 350


def test_an_empty_interval_has_no_batch() -> None:
    whole = Interval.sections("A", 9)
    made = make_plan(index(), "A", "event", whole, [Piece(whole, {})])
    assert (made.read, made.spans) == (0, ())


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match="prescale 0"):
        make_plan(index(), "A", "event", Interval.sections("A", 1), [], prescale=0)


def test_pieces_cut_where_conditions_change_and_refuse_gaps() -> None:
    one, two = Payload.json({"x": 1}), Payload.json({"x": 2})
    first, second = Interval.sections("A", 1, 0, 4), Interval.sections("A", 1, 5)
    snapshot = Snapshot("g", [("T", first, one.id), ("T", second, two.id)], {p.id: p for p in (one, two)})
    found = pieces_of(snapshot, ("T",), Interval.sections("A", 1))
    assert [(p.interval, p.payloads) for p in found] == [(first, {"T": one.id}), (second, {"T": two.id})]
    with pytest.raises(NotCoveredError):
        pieces_of(snapshot, ("T",), Interval.sections("A", 2))
    with pytest.raises(ConditionsError, match="there are none"):
        pieces_of(None, ("T",), Interval.sections("A", 1))
    assert len(pieces_of(None, (), Interval.sections("A", 1))) == 1


def test_tasks_are_halved_down_to_single_records_which_are_tried_twice() -> None:
    halves = Task(0, 4, 9, tries=1).halves()
    assert [(t.start, t.stop, t.tries) for t in halves] == [(4, 6, 1), (6, 9, 1)]
    assert [t.tries for t in halves[0].halves()] == [0, 0]
    after = Task(0, 4, 5, Stage.AFTER, 0, 3).halves()
    assert [(t.start, t.stop, t.first, t.last) for t in after] == [(4, 5, 0, 1), (4, 5, 1, 3)]


@pytest.mark.parametrize("wanted", [slice(None), slice(2, 5), slice(5, 2), slice(None, None, 3), 0, -1, 3,
                                    [0, 2, -1], np.arange(8) % 2 == 0])  # fmt: skip
def test_places_in_order_are_those_of_an_array(wanted) -> None:
    places = Ascending(4, 12)
    assert np.array_equal(places[wanted], np.arange(4, 12)[wanted])
    assert np.array_equal(np.asarray(places), np.arange(4, 12)) and len(places) == 8
    assert [places.before(n) for n in (0, 4, 7, 12, 99)] == [0, 0, 3, 8, 8]


@pytest.mark.parametrize("wanted", [8, -9, [0, 8], [-9]])
def test_places_beyond_the_last_are_refused(wanted) -> None:
    with pytest.raises(IndexError):
        Ascending(4, 12)[wanted]
    assert len(Ascending(5, 3)) == 0 and len(Ascending(5, 3)[:]) == 0
