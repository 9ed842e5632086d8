"""Checks of histograms and figures against references: pure, no database, statistics by SciPy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import SchemaMismatchError
from beamwright.core.histogram import Histogram
from beamwright.quality.references import FigureLimits, HistogramLimits, References

Outcome = Literal["good", "bad", "unknown"]


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
        return asdict(self)


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


def judge(references: References, steps: Mapping[str, Reported]) -> list[Judgement]:
    """Return a verdict on each subject that the references name for what steps reported, by name.

    A reference without a step is held against all steps together.
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
    return [summarise(subject, found) for subject, found in sorted(checks.items())]


def summarise(subject: str, checks: Sequence[Check]) -> Judgement:
    """Return bad when any check is bad, else unknown when any is or there is none, else good."""
    for outcome in ("bad", "unknown"):
        found = [check for check in checks if check.outcome == outcome]
        if found:
            reason = "; ".join(check.message for check in found)
            return Judgement(subject, "bad" if outcome == "bad" else "unknown", reason, tuple(checks))
    if not checks:
        return Judgement(subject, "unknown", "nothing was checked", ())
    return Judgement(subject, "good", f"{len(checks)} checks passed", tuple(checks))


def check_figure(value: float | None, limits: FigureLimits) -> Check:
    """Check a figure; one that is missing or no number is unknown."""
    if value is None or not math.isfinite(value):
        return _unknown(limits.name, "value", f"{limits.name} is not there")
    return _within(limits.name, "value", value, *limits.range)


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
    if limits.p_value is not None:
        found.append(_shape(histogram, limits))
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


def agreement(counts: NDArray[np.int64], reference: NDArray[np.int64]) -> float | None:
    """Return the chi-square probability that two sets of counts have one shape; None where there is none.

    Bins are joined until each expected count is at least five.
    """
    from scipy import stats

    joined = _joined(np.stack([counts, reference]).astype(np.float64))
    if joined.shape[1] < 2:
        return None
    return float(stats.chi2_contingency(joined, correction=False).pvalue)


def _moments(histogram: Histogram, limits: HistogramLimits) -> list[Check]:
    if limits.mean is None and limits.width is None:
        return []
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
    if median == 0:
        return [_unknown(limits.name, "median", f"{limits.name}: the median channel is empty")]
    found = []
    if limits.dead is not None:
        dead = float((counts < limits.dead_below * median).mean())
        found.append(_within(limits.name, "fraction dead", dead, None, limits.dead))
    if limits.hot is not None:
        hot = float((counts > limits.hot_above * median).mean())
        found.append(_within(limits.name, "fraction hot", hot, None, limits.hot))
    return found


def _shape(histogram: Histogram, limits: HistogramLimits) -> Check:
    counts, reference = histogram.values.ravel(), np.array(limits.reference, np.int64)
    if counts.size != reference.size:
        message = f"histogram {limits.name} has {counts.size} bins, its reference {reference.size}"
        raise SchemaMismatchError(message, hint="take the reference from a run of this release")
    p_value = agreement(counts, reference)
    if p_value is None:
        return _unknown(limits.name, "p-value", f"{limits.name} has too few entries to compare its shape")
    return _within(limits.name, "p-value", p_value, limits.p_value, None)


def _joined(rows: NDArray[np.float64], least: float = 5.0) -> NDArray[np.float64]:
    """Join neighbouring columns until the smaller row expects ``least`` in each."""
    share = rows.sum(axis=1).min() / max(rows.sum(), 1.0)
    parts: list[NDArray[np.float64]] = []
    open_part = np.zeros(rows.shape[0])
    for column in rows.T:
        open_part = open_part + column
        if open_part.sum() * share >= least:
            parts.append(open_part)
            open_part = np.zeros(rows.shape[0])
    if parts:
        parts[-1] = parts[-1] + open_part
    return np.stack(parts, axis=1) if parts else np.zeros((rows.shape[0], 0))


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
