"""The figures: how the constants move, and how far they are from the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from beamwright.production.figures import Curve, Figures, Plot, Table, Value
from drift.calibrations import ALIGNMENT, OFFSETS
from drift.pulls import GLOBAL_TAG, moments, pulls
from drift.truth import truth

if TYPE_CHECKING:
    from beamwright.production.access import Access

UNITS = {OFFSETS: "ns", ALIGNMENT: "mm"}


def figures(access: Access) -> Figures:
    """Make all figures that the production has data for."""
    made = Figures()
    for role, column in ((OFFSETS, "offset"), (ALIGNMENT, "shift")):
        _against_truth(access, made, role, column)
    return made


def _against_truth(access: Access, made: Figures, role: str, column: str) -> None:
    text = (
        "The constants of each run that was fitted, compared with the truth in units of their errors: the"
        " pulls should scatter around 0 with a width of 1. Runs with carried constants are left out."
    )
    section = made.section(role.lower(), f"{role} against the truth", text)
    found = pulls(access, role)
    values = np.concatenate([one.values for one in found]) if found else np.zeros(0)
    if not values.size:
        return
    spread = 3.0 / np.sqrt(values.size)
    names, truths = ("mean pull", "width of pulls"), (0.0, 1.0)
    for (value, error), name, expected in zip(moments(values), names, truths, strict=True):
        limits = {"expected": expected, "low": expected - spread, "high": expected + spread}
        section.values.append(Value(f"{name}, {role}", value, note=f"± {error:.3f}", **limits))
    rows = [(o.run, len(o.values), float(o.values.mean()), float(o.values.std()), o.distance) for o in found]
    columns = ("run", "constants", "mean pull", "width", "largest distance")
    section.tables.append(Table.of("Pulls by run", columns, rows, units=("", "", "", "", UNITS[role])))
    section.plots.append(_walk(access, role, column))


def _walk(access: Access, role: str, column: str) -> Plot:
    """Plot one constant and its truth over the runs."""
    held = access.constants(f"{GLOBAL_TAG}/{role}")
    number = 2
    runs = [v.interval.first[0] for v in held]
    values = [float(v.constants[column][number]) for v in held]
    errors = [float(v.constants["error"][number]) for v in held]
    true = [float((truth(run).offsets if role == OFFSETS else truth(run).shifts)[number]) for run in runs]
    curves = [Curve.of("found", runs, values, "points", errors), Curve.of("truth", runs, true)]
    title = f"{role}: number {number}, run by run"
    return Plot.of(title, "run", f"{column} [{UNITS[role]}]", curves)
