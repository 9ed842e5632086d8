"""The figures: the scale run by run, and the Z before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from beamwright.production.figures import Curve, Figures, Plot, Table, Value
from dimuon import scale

if TYPE_CHECKING:
    from beamwright.production.access import Access

STEP = "reco"
_COLUMNS = ("run", "state", "applied", "fitted", "error", "change", "pairs", "reason")
_UNITS = ("", "", "", "", "", "std. dev.", "", "")


def figures(access: Access) -> Figures:
    """Make all figures that the production has data for."""
    made = Figures()
    _calibration(access, made)
    _physics(access, made)
    return made


def _calibration(access: Access, made: Figures) -> None:
    text = (
        "The scale of a run puts the peak of its muon pairs to the mass of the Z, starting from the scale of"
        " the run before. It is taken over where the change is significant, and carried otherwise."
    )
    section = made.section("calibration", "Momentum scale", text)
    rows = []
    for link in access.links():
        found = link.figures.get("MomentumScale", {})
        fit = found.get("figures", {})
        cells = (fit.get(name) for name in ("applied", "scale", "error", "significance", "pairs"))
        rows.append((link.run, link.state, *cells, found.get("reason", link.reason)))
    section.tables.append(Table.of("Scale by run", _COLUMNS, rows, units=_UNITS))


def _physics(access: Access, made: Figures) -> None:
    text = (
        "The peak of each run as measured and with the scale of its constants. A carried scale is that of"
        " another run: where it is 2 standard deviations off, the corrected peak is further from the Z than"
        " the measured one. Only more data could tell; a lower threshold would follow fluctuations."
    )
    section = made.section("physics", "The mass of the Z", text)
    for run in sorted({c.interval.first[0] for c in access.collections(step=STEP, stream="dst")}):
        measured, corrected = _masses(access, run)
        for label, masses in (("measured", measured), ("corrected", corrected)):
            peak = scale.fit_peak(scale.count(masses))
            note = f"± {peak.error:.2f} GeV, {peak.pairs} pairs"
            section.values.append(
                Value(f"peak, run {run}, {label}", peak.mass, "GeV", expected=scale.Z_MASS, note=note)
            )
    histograms = access.histograms(STEP)
    curves = [
        Curve.histogram(histograms[name])
        for name in ("mass_measured", "mass_corrected")
        if name in histograms
    ]
    marks = [(scale.Z_MASS, "Z")]
    section.plots.append(
        Plot.of("Mass of muon pairs", "mass [GeV]", "events per 0.5 GeV", curves, marks=marks)
    )


def _masses(access: Access, run: int) -> tuple[Any, Any]:
    pairs = [
        batch["Pair"]
        for batch in access.batches(access.collections(step=STEP, stream="dst", run=run), ["Pair"])
    ]
    empty = np.zeros(0)
    return (
        np.concatenate([empty, *(table.measured for table in pairs)]),
        np.concatenate([empty, *(table.mass for table in pairs)]),
    )
