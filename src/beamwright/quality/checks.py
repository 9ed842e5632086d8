"""Checks of histograms and figures against references: pure, no database, statistics by SciPy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beamwright.core.histogram import Histogram
from beamwright.quality.references import FigureLimits, HistogramLimits, References, TrendLimits
from beamwright.quality.statistics import agreement, anderson, change_point, kolmogorov

SHOWN = 8
Outcome = Literal["good", "bad", "unknown"]
Past = Mapping[tuple[str, str, str], Sequence[tuple[int, float]]]
"""Values by subject, name and quantity: (run, value) of earlier runs."""
SHAPES = {"p_value": agreement, "kolmogorov": kolmogorov, "anderson": anderson}


@dataclass(frozen=True)
class Check:
    """One quantity against its limits; ``value`` is None when it could not be had."""

    name: str
    quantity: str
    outcome: Outcome
    value: float | None
    low: float | None
    high: float | None
    message: str = ""

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return dict(vars(self))


@dataclass(frozen=True)
class Reported:
    """What a step reports of one run."""

    histograms: Mapping[str, Histogram]
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class Judgement:
    """The verdict on one subject with the checks behind it."""

    subject: str
    value: Outcome
    reason: str
    checks: tuple[Check, ...]


def judge(references: References, steps: Mapping[str, Reported], past: Past | None = None) -> list[Judgement]:
    """Return a verdict on each subject that the references name for what steps reported, by name.

    A reference without a step is held against all steps together. Trends are followed through the ``past``.
    """
    everything = Reported(
        {name: h for reported in steps.values() for name, h in reported.histograms.items()},
        {name: v for reported in steps.values() for name, v in reported.figures.items()},
    )
    known = {"": everything} | dict(steps)
    checks: dict[str, list[Check]] = defaultdict(list)
    for limits in references.histogram:
        if limits.step in known:
            found = known[limits.step].histograms.get(limits.name)
            checks[limits.subject] += check_histogram(found, limits)
    for limit in references.figure:
        if limit.step in known:
            checks[limit.subject].append(check_figure(known[limit.step].figures.get(limit.name), limit))
    for trend in references.trend:
        checks[trend.subject] += check_trend(checks.get(trend.subject, ()), trend, past or {})
    return [summarise(subject, found) for subject, found in sorted(checks.items()) if found]


def summarise(subject: str, checks: Sequence[Check]) -> Judgement:
    """Return bad when any check is bad, else unknown when any is or there is none, else good."""
    for outcome in ("bad", "unknown"):
        found = [check for check in checks if check.outcome == outcome]
        if found:
            reason = "; ".join(check.message for check in found)
            return Judgement(subject, "bad" if outcome == "bad" else "unknown", reason, tuple(checks))
    if not checks:
        return Judgement(subject, "unknown", "nothing was checked", ())
    return Judgement(subject, "good", f"{len(checks)} check{'s' * (len(checks) != 1)} passed", tuple(checks))


def check_figure(value: float | None, limits: FigureLimits) -> Check:
    """Check a figure; one that is missing or no number is unknown."""
    if value is None or not math.isfinite(value):
        return _unknown(limits.name, "value", f"{limits.name} is not there")
    return _within(limits.name, "value", value, *limits.range)


def check_trend(checks: Sequence[Check], limits: TrendLimits, past: Past) -> list[Check]:
    """Check whether a quantity has just changed against the runs before; without a value nothing is said."""
    known = (check.value for check in checks if (check.name, check.quantity) == limits.key)
    value = next((value for value in known if value is not None), None)
    if value is None:
        return []
    held = list(past.get((limits.subject, *limits.key), ()))[-limits.runs :]
    found = change_point([*(v for _, v in held), value], limits.least)
    quantity = f"trend of {limits.quantity}"
    if found is None:
        return [Check(limits.name, quantity, "good", None, limits.p_value, None, "too few runs to tell")]
    is_recent = found.index > len(held) - limits.settle
    if not is_recent or found.p_value >= limits.p_value:
        return [Check(limits.name, quantity, "good", found.p_value, limits.p_value, None)]
    where = f"at run {held[found.index][0]}" if found.index < len(held) else "at this run"
    message = (
        f"{limits.quantity} of {limits.name} changes by {found.size:+.3g} {where} (p = {found.p_value:.1g})"
    )
    return [Check(limits.name, quantity, "bad", found.p_value, limits.p_value, None, message)]


def check_histogram(histogram: Histogram | None, limits: HistogramLimits) -> list[Check]:
    """Check all that the limits ask for; with too few entries the answer is unknown."""
    name = limits.name
    if histogram is None:
        return [_unknown(name, "entries", f"histogram {name} is not there")]
    entries = histogram.entries
    if entries < limits.entries:
        message = f"{name} has {entries} entries; {limits.entries} are needed"
        return [Check(name, "entries", "unknown", float(entries), float(limits.entries), None, message)]
    found = [*_moments(histogram, limits), *_channels(histogram, limits)]
    if limits.outside is not None:
        fraction = 1 - float(histogram.values.sum()) / entries
        found.append(_within(name, "fraction outside", fraction, None, limits.outside))
    found += _shapes(histogram, limits)
    return found or [Check(name, "entries", "good", float(entries), float(limits.entries), None)]


def moments(histogram: Histogram) -> tuple[float, float]:
    """Return mean and standard deviation of a histogram with one axis: bin centres, no flow bins."""
    edges = histogram.axes[0].edges()
    centres, counts = (edges[1:] + edges[:-1]) / 2, histogram.values
    total = counts.sum()
    if total == 0:
        return math.nan, math.nan
    mean = float((centres * counts).sum() / total)
    return mean, float(math.sqrt(((centres - mean) ** 2 * counts).sum() / total))


def _moments(histogram: Histogram, limits: HistogramLimits) -> list[Check]:
    if limits.mean is None and limits.width is None:
        return []
    if len(histogram.axes) != 1:
        message = f"{limits.name} has {len(histogram.axes)} axes: neither a mean nor a width"
        return [_unknown(limits.name, "mean", message)]
    mean, width = moments(histogram)
    found = []
    for quantity, value, limit in (("mean", mean, limits.mean), ("width", width, limits.width)):
        if limit is not None:
            found.append(_within(limits.name, quantity, value, *limit))
    return found


def _channels(histogram: Histogram, limits: HistogramLimits) -> list[Check]:
    """Bins as channels: how many are dead or hot against the median."""
    if limits.dead is None and limits.hot is None:
        return []
    counts = histogram.values.ravel()
    median = float(np.median(counts))
    found = []
    if limits.dead is not None:
        # Where half of the channels are empty, the median says nothing of the others.
        is_dead = counts < limits.dead_below * median if median else counts == 0
        found.append(_named(limits.name, "fraction dead", is_dead, limits.dead))
    if limits.hot is not None and median:
        is_hot = counts > limits.hot_above * median
        found.append(_named(limits.name, "fraction hot", is_hot, limits.hot))
    elif limits.hot is not None:
        message = f"{limits.name}: the median channel is empty"
        found.append(_unknown(limits.name, "fraction hot", message))
    return found


def _named(name: str, quantity: str, is_so: NDArray[np.bool_], limit: float) -> Check:
    """Check the fraction of bins that are so, and name them where there are too many."""
    check = _within(name, quantity, float(is_so.mean()), None, limit)
    if check.outcome != "bad":
        return check
    bins = np.flatnonzero(is_so)
    told = ", ".join(map(str, bins[:SHOWN])) + (f" and {bins.size - SHOWN} more" if bins.size > SHOWN else "")
    return replace(check, message=f"{check.message}: bins {told}")


def _shapes(histogram: Histogram, limits: HistogramLimits) -> list[Check]:
    asked = [(name, test) for name, test in SHAPES.items() if getattr(limits, name) is not None]
    if not asked:
        return []
    counts, reference = histogram.values.ravel(), np.array(limits.reference, np.int64)
    if counts.size != reference.size:
        message = f"histogram {limits.name} has {counts.size} bins, its reference {reference.size}"
        return [_unknown(limits.name, name.replace("_", "-"), message) for name, _ in asked]
    found = []
    for name, test in asked:
        p_value, quantity = test(counts, reference), name.replace("_", "-")
        if p_value is None:
            message = f"{limits.name} has too few entries to compare its shape"
            found.append(_unknown(limits.name, quantity, message))
        else:
            found.append(_within(limits.name, quantity, p_value, getattr(limits, name), None))
    return found


def _within(name: str, quantity: str, value: float, low: float | None, high: float | None) -> Check:
    if not math.isfinite(value):
        return _unknown(name, quantity, f"{quantity} of {name} cannot be had")
    if low is not None and value < low:
        return Check(
            name, quantity, "bad", value, low, high, f"{quantity} of {name} is {value:.4g}, below {low:g}"
        )
    if high is not None and value > high:
        return Check(
            name, quantity, "bad", value, low, high, f"{quantity} of {name} is {value:.4g}, above {high:g}"
        )
    return Check(name, quantity, "good", value, low, high)


def _unknown(name: str, quantity: str, message: str) -> Check:
    return Check(name, quantity, "unknown", None, None, None, message)
