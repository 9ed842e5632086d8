"""Tests of shapes and trends: they find what is there, and say nothing where nothing is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from beamwright.core.histogram import Axis, Histogram
from beamwright.quality.checks import Check, Reported, check_histogram, check_trend, judge
from beamwright.quality.references import HistogramLimits, References, TrendLimits
from beamwright.quality.statistics import agreement, anderson, change_point, kolmogorov

EDGES = np.linspace(-5, 5, 201)


def counts(seed: int, number: int = 2000, mean: float = 0.0, tail: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.normal(mean, 1, number)
    far = random.random(number) < tail
    values[far] = random.uniform(3, 5, far.sum())
    return np.histogram(values, EDGES)[0].astype(np.int64)


@pytest.mark.parametrize("test", [agreement, kolmogorov, anderson])
def test_samples_of_one_shape_agree_and_shifted_ones_do_not(test: object) -> None:
    same = [test(counts(i), counts(1000 + i, 4000)) for i in range(20)]  # type: ignore[operator]
    other = [test(counts(i), counts(1000 + i, 4000, mean=0.2)) for i in range(20)]  # type: ignore[operator]
    assert np.mean(np.array(same) < 0.05) <= 0.2
    assert np.mean(np.array(other) < 0.01) >= 0.8


def test_shapes_are_judged_as_scipy_does() -> None:
    first, second = counts(1), counts(2, mean=0.05)
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    samples = [np.repeat(centres, part) for part in (first, second)]
    found = kolmogorov(first, second)
    assert found == pytest.approx(stats.ks_2samp(*samples, method="asymp").pvalue, rel=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = stats.anderson_ksamp(samples).pvalue
    assert anderson(first, second) == pytest.approx(expected)
    whole = np.stack([first, second])[:, 80:120]
    expected = stats.chi2_contingency(whole, correction=False).pvalue
    assert agreement(whole[0], whole[1]) == pytest.approx(expected, rel=1e-9)


def test_anderson_sees_the_tails() -> None:
    clean, tailed = counts(3, 5000), counts(4, 5000, tail=0.03)
    assert anderson(clean, tailed) == pytest.approx(0.001)


@pytest.mark.parametrize("test", [agreement, kolmogorov, anderson])
def test_empty_histograms_have_no_shape(test: object) -> None:
    assert test(np.zeros(10, np.int64), counts(1)[:10]) is None  # type: ignore[operator]


def test_a_histogram_is_held_against_its_reference_in_three_ways() -> None:
    reference, axis = counts(1, 5000), Axis(200, -5.0, 5.0)
    ways = {"p_value": 1e-3, "kolmogorov": 1e-3, "anderson": 0.002}
    limits = HistogramLimits(name="h", subject="s", reference=tuple(reference.tolist()), **ways)

    def outcomes(held: np.ndarray) -> dict[str, str]:
        histogram = Histogram("h", (axis,), "", np.concatenate([[0], held, [0]]))
        return {check.quantity: check.outcome for check in check_histogram(histogram, limits)}

    assert outcomes(counts(2)) == {"p-value": "good", "kolmogorov": "good", "anderson": "good"}
    assert outcomes(counts(2, mean=0.3)) == {"p-value": "bad", "kolmogorov": "bad", "anderson": "bad"}


# --- trends


def test_a_step_is_found_where_it_is() -> None:
    random = np.random.default_rng(5)
    values = [*random.normal(10, 0.1, 20), *random.normal(10.5, 0.1, 4)]
    found = change_point(values)
    assert found is not None and found.index == 20
    assert found.size == pytest.approx(0.5, abs=0.15) and found.p_value < 1e-6


def test_one_value_that_is_far_off_is_a_change() -> None:
    values = [*np.random.default_rng(6).normal(0, 1, 20), 9.0]
    found = change_point(values)
    assert found is not None and (found.index, found.p_value < 1e-4) == (20, True)


def test_noise_is_no_change() -> None:
    found = [change_point(np.random.default_rng(i).normal(0, 1, 25).tolist()) for i in range(200)]
    assert np.mean([change is not None and change.p_value < 0.05 for change in found]) <= 0.1


def test_constant_values_do_not_change_and_few_say_nothing() -> None:
    assert change_point([1.0, 2.0, 3.0]) is None
    found = change_point([2.0] * 10)
    assert found is not None and found.p_value == 1.0
    jumped = change_point([2.0] * 10 + [3.0])
    assert jumped is not None and jumped.p_value == 0.0


TREND = TrendLimits(name="width", subject="timing", p_value=1e-3, runs=20, settle=2)
KEY = ("timing", "width", "value")


def trend(past: list[float], value: float) -> list[str]:
    check = Check("width", "value", "good", value, 0.0, 9.0)
    runs = [(number, held) for number, held in enumerate(past, 1)]
    return [found.message or found.outcome for found in check_trend([check], TREND, {KEY: runs})]


def test_a_trend_tells_when_a_quantity_has_just_changed() -> None:
    past = np.random.default_rng(7).normal(2, 0.05, 15).tolist()
    assert trend(past, 2.0) == ["good"]
    (message,) = trend(past, 3.0)
    assert "value of width changes by +1.01 at this run" in message
    (message,) = trend([*past, 3.0], 3.02)
    assert "at run 16" in message


def test_a_change_that_has_settled_is_normal() -> None:
    past = np.random.default_rng(7).normal(2, 0.05, 15).tolist()
    assert trend([*past, 3.0, 3.02, 2.98], 3.01) == ["good"]


def test_too_few_runs_tell_no_trend_and_a_missing_value_none_at_all() -> None:
    assert trend([2.0, 2.1], 5.0) == ["too few runs to tell"]
    nothing = Check("width", "value", "unknown", None, None, None)
    assert check_trend([nothing], TREND, {}) == []


def test_a_trend_makes_a_verdict_bad() -> None:
    text = {
        "version": 1,
        "figure": [{"name": "width", "subject": "timing", "range": (0, 9)}],
        "trend": [{"name": "width", "subject": "timing", "p_value": 1e-3}],
    }
    references = References.model_validate(text)
    past = {KEY: [(number, 2 + 0.01 * (number % 3)) for number in range(1, 12)]}
    (found,) = judge(references, {"fit": Reported({}, {"width": 4.0})}, past)
    assert found.value == "bad" and "changes by" in found.reason
    (found,) = judge(references, {"fit": Reported({}, {"width": 2.01})}, past)
    assert found.value == "good"


def test_dead_and_hot_channels_are_named() -> None:
    counts = np.full(20, 100)
    counts[[3, 7]] = 0
    counts[11] = 900
    histogram = Histogram("h", (Axis(20, 0.0, 20.0),), "", np.concatenate([[0], counts, [0]]))
    dead, hot = check_histogram(histogram, HistogramLimits(name="h", subject="s", dead=0.05, hot=0.01))
    assert (dead.outcome, hot.outcome) == ("bad", "bad")
    assert dead.message.endswith(": bins 3, 7") and hot.message.endswith(": bins 11")
