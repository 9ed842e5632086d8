"""Tables and batches: checks at the door, selections, filtering with links, cutting."""

from __future__ import annotations

import numpy as np
import pytest

from beamwright.core.errors import ModuleError, UnknownNameError
from beamwright.core.histogram import Axis, Histogram
from beamwright.event.banks import Bank, BankSet
from beamwright.event.batch import Batch, Jagged, Scope, Table

BANKS = BankSet(
    [
        Bank.from_document(
            "Hit",
            {"columns": {"t": {"type": "f4"}, "s": {"type": "u2[]"}, "next": {"type": "link", "to": "Hit"}}},
        ),
        Bank.from_document(
            "Track",
            {"columns": {"hit": {"type": "link", "to": "Hit"}, "hits": {"type": "link[]", "to": "Hit"}}},
        ),
        Bank.from_document("Head", {"rows": "one", "columns": {"n": {"type": "u1"}}}),
    ]
)


def batch() -> Batch:
    """Two records: hits 0 1 | 0 1 2, a track each."""
    made = Batch("event", "A", 1, [4, 4], [5, 9], banks=BANKS)
    made["Hit"] = Table.from_counts(
        "Hit",
        [2, 3],
        {
            "t": np.arange(5.0),
            "s": Jagged.from_counts([1, 0, 2, 0, 1], [10, 20, 21, 40]),
            "next": [1, -1, 2, 0, 1],
        },
    )
    made["Track"] = Table.from_counts(
        "Track", [1, 1], {"hit": [1, 2], "hits": Jagged.from_lists([[0, 1], [1]], np.int32)}
    )
    return made


def test_filtering_a_bank_remaps_every_link_to_it_and_drops_links_to_lost_rows() -> None:
    made = batch()
    hits = made["Hit"].filter([False, True, True, False, True], made)
    assert made["Hit"] is hits
    assert (hits.t.tolist(), hits.counts.tolist()) == ([1.0, 2.0, 4.0], [1, 2])
    assert (hits.s.offsets.tolist(), hits.s.values.tolist()) == ([0, 0, 2, 3], [20, 21, 40])
    assert hits.next.tolist() == [-1, 1, -1]
    assert made["Track"].hit.tolist() == [0, 1]
    assert made["Track"].hits.values.tolist() == [-1, 0, -1]


def test_filtering_without_the_batch_changes_nothing_else() -> None:
    made = batch()
    assert made["Hit"].filter(np.ones(5, bool)).rows == 5
    assert made["Hit"].filter(np.zeros(5, bool)).counts.tolist() == [0, 0]
    assert made["Track"].hit.tolist() == [1, 2]


def test_taking_records_keeps_links_right_and_selections_along() -> None:
    made = batch()
    made.select(np.array([False, True]), "good")
    part = made.take(made.selected("good"))
    assert (part.n, part.key(0).event, part["Hit"].t.tolist()) == (1, 9, [2.0, 3.0, 4.0])
    assert part["Hit"].t[part["Track"].follow("hit", part["Hit"])].tolist() == [4.0]
    assert part.selected("good").tolist() == [True]
    assert part["Hit"].s[0].tolist() == [20, 21]


def test_cutting_and_joining_batches_gives_the_whole_back() -> None:
    made = batch()
    again = Batch.concatenate([made.cut(0, 1), made.cut(1, 2)])
    for name in ("Hit", "Track"):
        for column, values in made[name].columns.items():
            other = again[name].columns[column]
            if isinstance(values, Jagged):
                assert np.array_equal(values.offsets, other.offsets) and np.array_equal(
                    values.values, other.values
                )
            else:
                assert np.array_equal(values, other)
    assert again["Hit"].record_index.tolist() == [0, 0, 1, 1, 1]


def test_a_table_for_another_number_of_records_is_refused() -> None:
    with pytest.raises(ModuleError, match="for 1 records, the batch has 2"):
        batch()["Head"] = {"n": [1]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": [300, 1]}, "do not fit"),
        ({"n": [1.5, 2.0]}, "float64 values, declared uint8"),
        ({"n": [[1], [2]]}, "shape"),
        ({"n": Jagged.from_counts([1, 1], [1, 1])}, "one value per row"),
        ({"m": [1, 2]}, "no column of bank Head is called 'm'"),
        ({}, "lacks its column 'n'"),
    ],
)
def test_columns_that_are_not_as_declared_are_refused(columns: dict[str, object], message: str) -> None:
    made = batch()
    with pytest.raises((ModuleError, UnknownNameError), match=message):
        made["Head"] = Table("Head", [0, 1, 2], columns)  # type: ignore[arg-type]


def test_a_bank_with_one_row_per_record_takes_no_other_number() -> None:
    with pytest.raises(ModuleError, match="one row per record"):
        batch()["Head"] = Table.from_counts("Head", [2, 0], {"n": [1, 2]})
    with pytest.raises(ModuleError, match="do not rise"):
        Table(BANKS["Head"], [0, 2, 1], {"n": [1]})


def test_values_are_rounded_to_the_declared_float_and_never_cut_to_integers() -> None:
    made = batch()
    made["Head"] = {"n": np.array([1, 2], np.int64)}
    assert made["Head"].n.dtype == np.uint8
    assert made["Hit"].t.dtype == np.float32


def test_unknown_banks_columns_and_selections_suggest_the_nearest_name() -> None:
    made = batch()
    made.select(np.array([True, False]), "tracked")
    for ask, hint in (
        (lambda: made["Hitt"], "Hit"),
        (lambda: made["Hit"]["tt"], "t"),
        (lambda: made.selected("traked"), "tracked"),
    ):
        with pytest.raises(UnknownNameError) as caught:
            ask()
        assert hint in caught.value.hint
    with pytest.raises(AttributeError, match="did you mean"):
        _ = made["Track"].hts


def test_a_scope_lets_a_module_see_and_make_only_what_it_declares() -> None:
    made = batch()
    made.scope = Scope("Fit", frozenset({"Hit"}), frozenset())
    assert made["Hit"].rows == 5
    with pytest.raises(ModuleError, match="module Fit reads bank 'Track'"):
        _ = made["Track"]
    with pytest.raises(ModuleError, match="module Fit writes bank 'Head'"):
        made["Head"] = {"n": [1, 2]}


def test_selections_are_booleans_of_the_batch_and_made_once() -> None:
    made = batch()
    with pytest.raises(ModuleError, match="int64"):
        made.select(np.array([1, 0]), "good")
    with pytest.raises(ModuleError, match="shape"):
        made.select(np.array([True]), "good")
    made.select(np.array([True, False]), "good")
    with pytest.raises(ModuleError, match="twice"):
        made.select(np.array([True, False]), "good")


def test_fills_belong_to_the_batch_and_add_up() -> None:
    made, histogram = batch(), Histogram("t", (Axis(5, 0.0, 5.0),))
    made.fill(histogram, made["Hit"].t)
    made.fill(histogram, made["Hit"].t)
    assert made.deposits["histogram/t"]["counts"].tolist() == [0, 2, 2, 2, 2, 2, 0]
    assert histogram.entries == 0


def test_seeds_follow_from_the_job_and_the_key_alone() -> None:
    whole = Batch("event", "A", 1, [1, 1, 2], [1, 2, 1], banks=BANKS, seed=3)
    assert whole.cut(1, 3).seeds().tolist() == whole.seeds()[1:].tolist()
    other = Batch("event", "A", 1, [1, 1, 2], [1, 2, 1], banks=BANKS, seed=4)
    assert len({*whole.seeds().tolist(), *other.seeds().tolist()}) == 6
