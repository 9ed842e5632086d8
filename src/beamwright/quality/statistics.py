"""Tests of shapes and of trends: probabilities by SciPy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """Where a series of values changes: the index of the first new value, by how much, how probable."""

    index: int
    size: float
    p_value: float


def agreement(counts: Counts, reference: Counts) -> float | None:
    """Return the chi-square probability that two sets of counts have one shape; None where there is none.

    Bins are joined until each expected count is at least five.
    """
    from scipy import special

    joined = _joined(np.stack([counts, reference]).astype(np.float64))
    if joined.shape[1] < 2:
        return None
    expected = joined.sum(axis=1, keepdims=True) * joined.sum(axis=0) / joined.sum()
    chi2 = float(((joined - expected) ** 2 / expected).sum())
    return float(special.chdtrc(joined.shape[1] - 1, chi2))


def kolmogorov(counts: Counts, reference: Counts) -> float | None:
    """Return the Kolmogorov-Smirnov probability of two sets of counts; None where one is empty.

    In bins it is larger than it should be: the finer the bins, the less.
    """
    from scipy import special

    first, second = counts.sum(), reference.sum()
    if not first or not second:
        return None
    distance = np.abs(np.cumsum(counts) / first - np.cumsum(reference) / second).max()
    return float(special.kolmogorov(distance * np.sqrt(first * second / (first + second))))


def anderson(counts: Counts, reference: Counts) -> float | None:
    """Return the Anderson-Darling probability of two sets of counts, within 0.001 and 0.25.

    Entries of one bin are ties. None where one is empty, or all entries are in one bin.
    """
    from scipy import stats

    samples = [np.repeat(np.arange(part.size), part) for part in (counts, reference)]
    if not all(part.size for part in samples) or np.unique(np.concatenate(samples)).size < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the probability is at an end of its table
        return float(stats.anderson_ksamp(samples).pvalue)


def change_point(values: Sequence[float], least: int = 3) -> Change | None:
    """Return the most probable change of the mean of a series; None with too few values.

    Each cut with at least ``least`` values before it is tried with a t-test, and the probability counts all
    the cuts that were tried.
    """
    from scipy import stats

    series = np.asarray(values, np.float64)
    number = len(series)
    if number <= least:
        return None
    cuts = np.arange(least, number)
    sums, squares = np.cumsum(series - series.mean()), np.cumsum((series - series.mean()) ** 2)
    left, right = _moments(sums[cuts - 1], squares[cuts - 1], cuts)
    rest = _moments(sums[-1] - sums[cuts - 1], squares[-1] - squares[cuts - 1], number - cuts)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = stats.ttest_ind_from_stats(left, right, cuts, rest[0], rest[1], number - cuts)
    p_values = np.where(np.isfinite(found.pvalue), found.pvalue, np.where(left == rest[0], 1.0, 0.0))
    best = int(np.argmin(p_values))
    p_value = float(min(1.0, p_values[best] * len(cuts)))
    return Change(int(cuts[best]), float(rest[0][best] - left[best]), p_value)


def _moments(
    sums: NDArray[np.float64], squares: NDArray[np.float64], number: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and standard deviations; the latter is 0 for one value."""
    mean = sums / number
    variance = np.maximum(squares - sums * mean, 0.0) / np.maximum(number - 1, 1)
    return mean, np.sqrt(variance)


def _joined(rows: NDArray[np.float64], least: float = 5.0) -> NDArray[np.float64]:
    """Join neighbouring columns until the smaller row expects ``least`` in each."""
    total = rows.sum(axis=0)
    if not total.sum():
        return np.zeros((rows.shape[0], 0))
    share = rows.sum(axis=1).min() / total.sum()
    starts, held = [0], 0.0
    for number, expected in enumerate((total * share).tolist(), 1):
        held += expected
        if held >= least:
            starts.append(number)
            held = 0.0
    if len(starts) == 1:
        return np.zeros((rows.shape[0], 0))
    return np.add.reduceat(rows, starts[:-1], axis=1)
