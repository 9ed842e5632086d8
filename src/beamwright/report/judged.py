"""Histograms drawn against the references that judge them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from beamwright.core.histogram import Histogram
from beamwright.production.access import Access
from beamwright.production.figures import Curve, Figures, Plot, Section
from beamwright.quality.checks import SHOWN, Check, check_histogram
from beamwright.quality.references import HistogramLimits, References, TrendLimits
from beamwright.quality.statistics import change_point

QUALITY = "quality"
Found = dict[str, Histogram]


def add_judged(figures: Figures, access: Access, references: References) -> None:
    """Draw every histogram with a reference in the section on quality, with band and verdict.

    A plot that the experiment drew under the histogram's title gets these instead of a second plot.
    """
    drawn = [(limits, _histograms(access, limits)) for limits in references.histogram]
    drawn = [(limits, found) for limits, found in drawn if found]
    trends = [plot for limits in references.trend for plot in _trends(access, limits)]
    if not drawn and not trends:
        return
    section = next((s for s in figures.sections if s.name == QUALITY), None)
    section = section or figures.section(QUALITY, "Data quality", "Histograms and trends against references.")
    bad = access.bad_runs()
    for limits, found in drawn:
        _place(section, limits, found, bad.get((limits.subject, limits.name), []))
    section.plots += trends


def _trends(access: Access, limits: TrendLimits) -> Iterator[Plot]:
    """Draw a quantity over the runs of each series, with its limits and where its mean changes."""
    for (series, _), held in access.checked(limits.subject, *limits.key).items():
        runs, values = [one.run for one in held], [one.value for one in held]
        change = change_point(values, limits.least)
        has_changed = change is not None and change.p_value < limits.p_value
        marks = [(float(runs[change.index]), "changes")] if change is not None and has_changed else []
        lines = [
            Curve.of(label, [runs[0], runs[-1]], [limit, limit])
            for label, limit in (("lowest allowed", held[-1].low), ("highest allowed", held[-1].high))
            if limit is not None and len(runs) > 1
        ]
        title = f"{limits.name}: {limits.quantity} by run, series {series}"
        note = "" if change is None else f"most probable change: p = {change.p_value:.2g}"
        curves = [Curve.of(limits.quantity, runs, values, "points"), *lines]
        verdict = "bad" if has_changed else "good"
        yield Plot.of(title, "run", limits.quantity, curves, marks=marks, verdict=verdict, note=note)


def _place(section: Section, limits: HistogramLimits, found: Found, bad: list[str]) -> None:
    title = next(iter(found.values())).title or limits.name
    plot = next((p for p in section.plots if p.title == title), None)
    judged = _judged(plot or _overlay(title, found), limits, found, bad)
    if plot is None:
        section.plots.append(judged)
    else:
        section.plots[section.plots.index(plot)] = judged


def _histograms(access: Access, limits: HistogramLimits) -> Found:
    """Return the histogram of each series of the step, summed over its runs, where it has entries."""
    series = sorted({collection.series for collection in access.collections(step=limits.step or None)})
    sets = {name: access.histograms(limits.step, series=name) for name in series}
    chosen = {name: held[limits.name] for name, held in sets.items() if limits.name in held}
    return {
        name: histogram
        for name, histogram in chosen.items()
        if histogram.entries and len(histogram.axes) == 1
    }


def _overlay(title: str, found: Found) -> Plot:
    curves = [Curve.histogram(h, f"series {name}", density=len(found) > 1) for name, h in found.items()]
    label = next(iter(found.values())).axes[0].label
    return Plot.of(title, label, "density" if len(found) > 1 else "entries", curves)


def _judged(plot: Plot, limits: HistogramLimits, found: Found, bad: list[str]) -> Plot:
    """Return the plot of all runs together with what its limits say; runs that are bad alone are named."""
    checks = {name: check_histogram(histogram, limits) for name, histogram in found.items()}
    bands = ((*limits.mean, "where the mean should lie"),) if limits.mean else plot.bands
    told = [f"series {name}: {text}" for name, done in checks.items() if (text := _told(done))]
    left = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    told += [f"bad in {', '.join(bad[:SHOWN])}{left}"] if bad else []
    note = "; ".join([*([plot.note] if plot.note else []), *told])
    return replace(
        plot,
        curves=(*plot.curves, *_reference(limits, found)),
        bands=bands,
        verdict=_worst(check for done in checks.values() for check in done),
        note=note,
    )


def _reference(limits: HistogramLimits, found: Found) -> list[Curve]:
    """Return the reference, brought to the entries of what it is drawn with."""
    histogram = next(iter(found.values()))
    total, axis = sum(limits.reference), histogram.axes[0]
    if not total or len(limits.reference) != axis.bins:
        return []
    scale = histogram.values.sum() if len(found) == 1 else axis.bins / (axis.high - axis.low)
    counts = [count * float(scale) / total for count in limits.reference]
    edges = axis.edges()
    return [Curve.of("reference", (edges[1:] + edges[:-1]) / 2, counts)]


def _worst(checks: Iterable[Check]) -> str:
    outcomes = {check.outcome for check in checks}
    return "bad" if "bad" in outcomes else "good" if "good" in outcomes else ""


def _told(checks: Iterable[Check]) -> str:
    shown = [f"{c.quantity} {c.value:.3g}" for c in checks if c.value is not None and c.outcome != "unknown"]
    return ", ".join(shown)
