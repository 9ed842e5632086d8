"""Array bundles and histograms: canonical bytes, exact merging."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamwright.core import bundle
from beamwright.core.errors import FormatError, SchemaMismatchError, UnknownNameError
from beamwright.core.histogram import Axis, Histogram, HistogramSet


def test_a_bundle_gives_back_arrays_and_document() -> None:
    arrays = {
        "b": np.arange(6, dtype=">i4").reshape(2, 3),
        "a": np.array([True, False]),
        "empty": np.zeros((0, 2)),
    }
    found, document = bundle.unpack(bundle.pack(arrays, {"x": [1, None]}))
    assert document == {"x": [1, None]}
    assert all(
        np.array_equal(found[name], arrays[name]) and found[name].shape == arrays[name].shape
        for name in arrays
    )


def test_equal_content_has_equal_bytes_whatever_order_and_layout() -> None:
    values = np.arange(12.0).reshape(3, 4)
    one = bundle.pack({"x": values, "y": values[0]})
    other = bundle.pack({"y": values[0].astype(">f8"), "x": np.asfortranarray(values)})
    assert one == other


@given(st.integers(0, 200))
def test_a_truncated_bundle_is_refused(length: int) -> None:
    data = bundle.pack({"x": np.arange(16.0)})
    with pytest.raises(FormatError, match="no array bundle"):
        bundle.unpack(data[: min(length, len(data) - 1)])


def test_objects_are_refused() -> None:
    with pytest.raises(FormatError, match="dtype object"):
        bundle.pack({"x": np.array([{}])})


@given(st.lists(st.lists(st.floats(-2, 2) | st.just(float("nan")), max_size=8), max_size=6))
def test_histograms_merge_to_the_same_counts_in_any_order(parts: list[list[float]]) -> None:
    def filled(values: list[float]) -> HistogramSet:
        found = HistogramSet()
        found.book("h", Axis(5, -1.0, 1.0)).fill(np.array(values))
        return found

    forward = HistogramSet.merged(filled(part) for part in parts)
    backward = HistogramSet.merged(filled(part) for part in reversed(parts))
    whole = filled([value for part in parts for value in part])
    assert forward.to_bytes() == backward.to_bytes()
    if parts:
        assert forward.to_bytes() == whole.to_bytes()


def test_counts_agree_with_numpy_and_flow_is_kept() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    histogram = Histogram("h", (Axis(20, -1.5, 1.5),))
    histogram.fill(values)
    assert np.array_equal(histogram.values, np.histogram(values, histogram.axes[0].edges())[0])
    assert histogram.counts[0] == (values < -1.5).sum() and histogram.entries == 1000


def test_two_axes_are_counted_together() -> None:
    histogram = Histogram("h", (Axis(2, 0, 2), Axis(3, 0, 3)))
    histogram.fill(np.array([0.5, 1.5, 1.5]), np.array([0.5, 2.5, 2.5]))
    assert histogram.values.tolist() == [[1, 0, 0], [0, 0, 2]]


def test_other_axes_are_not_added_and_other_names_not_found() -> None:
    one, other = HistogramSet(), HistogramSet()
    one.book("rate", Axis(2, 0, 1)), other.book("rate", Axis(3, 0, 1))
    with pytest.raises(SchemaMismatchError):
        one["rate"].add(other["rate"])
    with pytest.raises(UnknownNameError, match="did you mean rate"):
        one["rates"]


def test_a_set_reads_back() -> None:
    one = HistogramSet()
    one.book("tot", Axis(4, 0.0, 40.0, "tot [ns]"), title="time over threshold").fill(np.array([1.0, 50.0]))
    again = HistogramSet.from_bytes(one.to_bytes())
    assert again["tot"].axes == one["tot"].axes and again["tot"].title == "time over threshold"
    assert np.array_equal(again["tot"].counts, one["tot"].counts)
