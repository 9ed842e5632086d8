"""The HTML report is one file that shows the whole document and runs nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import sqlalchemy as sa

from beamwright.core.errors import UsageError
from beamwright.core.histogram import Axis, Histogram
from beamwright.db import views
from beamwright.production.figures import Curve, Figures, Plot, Table, Value
from beamwright.report import document, html, markup, schema, sections, svg

VOID = {"meta"}


class Balance(HTMLParser):
    """Collects text and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def figures() -> Figures:
    made = Figures()
    histogram = Histogram("tot", (Axis(4, 0.0, 8.0, "tot [ns]"),), "time over threshold")
    histogram.fill(np.array([1.0, 1.5, 5.0]))
    section = made.section("calibration", "Offsets", "What <b>changed</b>")
    section.values.append(Value("width", 3.1, "ns", expected=2.81, low=2.3, high=3.7))
    section.plots.append(Plot.of("ToT", "tot [ns]", "hits", [Curve.histogram(histogram)], marks=[(3, "cut")]))
    section.plots.append(Plot.of("empty", "x", "y", [Curve.of("none", [], [])]))
    made.section("extra", "Something else").tables.append(
        Table.of("T", ["a", "b"], [["x & y", float("nan")]])
    )
    return made


def render(conn: sa.Connection) -> str:
    built = document.build(conn, views.find_production(conn), figures=figures().document())
    schema.check(built)
    return html.page(built)


def test_page_is_well_formed_and_shows_every_part(conn: sa.Connection) -> None:
    parser = Balance()
    parser.feed(render(conn))
    shown = " ".join(parser.text)
    assert parser.open == []
    assert "script" not in parser.tags
    for wanted in (
        "A small production",
        "complete: 12 units done, every event accounted for; 2 in quarantine",
        "sample:merged/good.A",
        "Offsets",
        "answer key 2.81",
        "Something else",
        "A:2:3:0",
        "too few hits",
        "carried",
        "nothing to draw: no entries",
    ):
        assert wanted in shown, wanted


def test_page_fetches_nothing_and_escapes_what_it_is_given(conn: sa.Connection) -> None:
    page = render(conn)
    assert not re.search(r"""(?:src|href)=["'](?!#)|url\(|@import|https?://""", page)
    assert "What &lt;b&gt;changed&lt;/b&gt;" in page
    assert "x &amp; y" in page


def test_same_document_gives_the_same_bytes(conn: sa.Connection) -> None:
    assert render(conn) == render(conn)


def test_failed_units_head_the_report() -> None:
    cell = {"state": "failed", "done": 0, "total": 1, "counts": {"failed": 1}}
    broken = {
        "summary": {"units": 3, "units_ok": 2, "unbalanced": 1, "quarantined": 0},
        "grid": {"rows": [{"cells": {"reco": cell}}]},
        "production": {"finished": None},
    }
    text, kind = sections.outcome(broken)
    assert kind == "bad"
    assert text == "1 cells of the grid need attention, 1 ledger lines do not balance"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (2.3, 3.7, [2.5, 3.0, 3.5]),
        (-25, 25, [-20, -10, 0, 10, 20]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert svg.ticks(low, high) == expected


def test_histogram_becomes_steps_with_edges() -> None:
    histogram = Histogram("x", (Axis(2, 0.0, 4.0),))
    histogram.fill(np.array([1.0, 1.0, 3.0, 99.0]))
    assert Curve.histogram(histogram).y == (2.0, 1.0)
    assert Curve.histogram(histogram).x == (0.0, 2.0, 4.0)
    assert sum(Curve.histogram(histogram, density=True).y) * 2.0 == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (Value("w", 3.0, low=2, high=4), "good"),
        (Value("w", 5.0, high=4), "bad"),
        (Value("w", 5.0), ""),
        (Value("w", None, low=1), ""),
    ],
)
def test_value_is_judged_by_its_limits(value: Value, verdict: str) -> None:
    assert value.verdict == verdict


def test_figures_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UsageError, match="2 x for 2 y"):
        Curve.of("c", [0, 1], [1, 2], "steps")
    with pytest.raises(UsageError, match="rows or units"):
        Table.of("t", ["a", "b"], [[1]])


def test_markup_escapes_attributes_and_leaves_out_what_is_none() -> None:
    assert (
        markup.tag("a", "<", title='"', class_="x", id=None, hidden=True)
        == '<a title="&quot;" class="x" hidden>&lt;</a>'
    )


def test_the_key_of_a_plot_says_what_is_shaded() -> None:
    figure = {"curves": [{"label": "data"}], "bands": [[1.0, 2.0, "where the mean should lie"]]}
    assert "where the mean should lie" in svg.legend(figure) and "data" not in svg.legend(figure)
    assert svg.legend(figure | {"bands": []}) == ""
    both = svg.legend(figure | {"curves": [{"label": "data"}, {"label": "reference"}]})
    assert all(word in both for word in ("data", "reference", "where the mean"))
