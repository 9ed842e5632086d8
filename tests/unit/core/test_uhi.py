"""Histograms for plotting libraries and for hist."""

from __future__ import annotations

import numpy as np
import pytest

from beamwright.core.histogram import Axis, Histogram
from beamwright.core.uhi import Plottable, to_hist


@pytest.fixture
def mass():
    histogram = Histogram("mass", (Axis(4, 0.0, 2.0, "m [GeV]"), Axis(2, -1.0, 1.0)), "Mass")
    histogram.fill(np.array([-1.0, 0.1, 0.6, 0.6, 5.0, np.nan]), np.array([0.5, 0.5, -0.5, 0.5, 0.5, 9.0]))
    return histogram


def test_a_histogram_follows_the_protocol(mass):
    shown = Plottable(mass)
    assert shown.kind == "COUNT" and [len(axis) for axis in shown.axes] == [4, 2]
    assert list(shown.axes[0]) == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.0)]
    assert shown.axes[0] == shown.axes[0] != shown.axes[1] and shown.axes[0].label == "m [GeV]"
    assert not shown.axes[0].traits.circular and not shown.axes[0].traits.discrete
    with pytest.raises(IndexError):
        shown.axes[0][4]
    assert shown.values().tolist() == shown.counts().tolist() == [[0, 1], [1, 1], [0, 0], [0, 0]]
    assert shown.variances().sum() == 3


def test_uhi_accepts_it(mass):
    protocol = pytest.importorskip("uhi.typing.plottable")
    assert isinstance(Plottable(mass), protocol.PlottableHistogram)


def test_hist_gets_axes_and_counts_with_flow(mass):
    pytest.importorskip("hist")
    made = to_hist(mass)
    assert np.array_equal(made.view(flow=True), mass.counts)
    assert (made.name, made.label, made.axes[0].label) == ("mass", "Mass", "m [GeV]")
    again = to_hist(Histogram("mass", mass.axes))
    again.fill([-1.0, 0.1, 0.6, 0.6, 5.0], [0.5, 0.5, -0.5, 0.5, 0.5])
    assert np.array_equal(again.values(), made.values())
