from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamwright.core.errors import ConfigError
from beamwright.core.histogram import Axis, Histogram
from beamwright.quality.checks import (
    Reported,
    agreement,
    check_figure,
    check_histogram,
    judge,
    moments,
    summarise,
)
from beamwright.quality.references import (
    FigureLimits,
    HistogramLimits,
    References,
    check_whole,
    load_references,
    read_references,
)


def histogram(counts: list[int], under: int = 0, over: int = 0) -> Histogram:
    return Histogram("h", (Axis(len(counts), 0.0, float(len(counts))),), "", np.array([under, *counts, over]))


def limits(**values: Any) -> HistogramLimits:
    return HistogramLimits(name="h", subject="s", **values)


def outcomes(found: Histogram | None, **values: Any) -> list[str]:
    return [check.outcome for check in check_histogram(found, limits(**values))]


def test_moments_are_those_of_the_bin_centres() -> None:
    mean, width = moments(histogram([0, 2, 2, 0], under=50))
    assert (mean, width) == (2.0, 0.5)
    assert all(math.isnan(value) for value in moments(histogram([0, 0])))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"mean": (1.9, 2.1)}, ["good"]),
        ({"mean": (2.1, 3.0)}, ["bad"]),
        ({"mean": (2.0, 2.0), "width": (0.6, 1.0)}, ["good", "bad"]),
        ({"outside": 0.1}, ["bad"]),
        ({"outside": 0.2}, ["good"]),
        ({"entries": 100}, ["unknown"]),
        ({}, ["good"]),
    ],
)
def test_mean_width_and_flow_are_held_against_their_limits(
    values: dict[str, Any], expected: list[str]
) -> None:
    assert outcomes(histogram([0, 2, 2, 0], over=1), **values) == expected


def test_dead_and_hot_channels_are_fractions_against_the_median() -> None:
    channels = histogram([10, 11, 9, 1, 40, 10, 10, 10, 0, 10])
    assert outcomes(channels, dead=0.2, hot=0.1) == ["good", "good"]
    assert outcomes(channels, dead=0.19) == ["bad"]
    assert outcomes(channels, hot=0.05) == ["bad"]
    assert outcomes(histogram([0, 5, 5, 5]), hot=0.5) == ["good"]


def test_a_detector_of_which_most_is_silent_is_bad() -> None:
    silent = check_histogram(histogram([0, 0, 0, 5, 0]), limits(dead=0.5, hot=0.5))
    assert [check.outcome for check in silent] == ["bad", "unknown"]
    assert "fraction dead of h is 0.8, above 0.5: bins 0, 1, 2, 4" in silent[0].message
    assert "the median channel is empty" in silent[1].message
    assert outcomes(histogram([0, 0, 0, 0], over=9), dead=0.1) == ["bad"]


def test_a_mean_of_two_axes_cannot_be_had_and_nothing_fails() -> None:
    found = Histogram("h", (Axis(2, 0.0, 1.0), Axis(3, 0.0, 1.0)), "", np.ones((4, 5), np.int64))
    mean, dead = check_histogram(found, limits(mean=(0.0, 1.0), width=(0.0, 1.0), dead=0.0))
    assert (mean.outcome, dead.outcome) == ("unknown", "good") and "has 2 axes" in mean.message


def test_a_missing_histogram_is_unknown() -> None:
    assert outcomes(None, mean=(0, 1)) == ["unknown"]


def test_the_same_shape_agrees_and_another_does_not() -> None:
    random = np.random.default_rng(1)
    shape = np.array([5.0, 40, 100, 40, 5])
    reference = random.poisson(shape * 10)
    assert outcomes(histogram(list(random.poisson(shape))), p_value=1e-3, reference=tuple(reference)) == [
        "good"
    ]
    assert outcomes(
        histogram(list(random.poisson(shape[::-1] + [60, 0, 0, 0, 0]))),
        p_value=1e-3,
        reference=tuple(reference),
    ) == ["bad"]


def test_the_p_value_is_uniform_for_one_shape() -> None:
    random = np.random.default_rng(2)
    shape = np.array([2.0, 10, 50, 100, 50, 10, 2])
    values = [agreement(random.poisson(shape), random.poisson(shape * 4)) or 0.0 for _ in range(400)]
    assert 0.4 < float(np.mean(values)) < 0.6
    assert 0.01 < float(np.mean(np.array(values) < 0.05)) < 0.1


def test_too_few_counts_cannot_be_compared() -> None:
    assert agreement(np.array([1, 0, 1]), np.array([100, 100, 100])) is None
    assert outcomes(histogram([1, 0]), p_value=0.1, reference=(50, 50)) == ["unknown"]


def test_a_reference_with_other_bins_says_nothing_of_a_run_and_stops_no_production() -> None:
    found = check_histogram(histogram([1, 2]), limits(p_value=0.1, anderson=0.1, reference=(1, 2, 3)))
    assert [(check.quantity, check.outcome) for check in found] == [
        ("p-value", "unknown"), ("anderson", "unknown"),
    ]  # fmt: skip
    assert {check.message for check in found} == {"histogram h has 2 bins, its reference 3"}


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(2.0, "good"), (1.9, "bad"), (4.1, "bad"), (None, "unknown"), (math.nan, "unknown")],
)
def test_a_figure_lies_in_its_range_or_not(value: float | None, outcome: str) -> None:
    found = check_figure(value, FigureLimits(name="width", subject="s", range=(2.0, 4.0)))
    assert found.outcome == outcome
    assert outcome == "good" or "width" in found.message


def test_one_bad_check_makes_it_bad_and_no_check_leaves_it_unknown() -> None:
    good, bad, unknown = (
        check_figure(v, FigureLimits(name=f"f{v}", subject="s", range=(0, 1))) for v in (0.5, 2.0, None)
    )
    assert [
        summarise("s", checks).value for checks in ([good], [good, bad, unknown], [good, unknown], [])
    ] == [
        "good",
        "bad",
        "unknown",
        "unknown",
    ]
    assert "above 1" in summarise("s", [good, bad]).reason


def test_judging_gives_one_verdict_for_each_subject_of_the_step() -> None:
    references = References(
        version=1,
        histogram=(HistogramLimits(name="h", subject="pmt", mean=(1.0, 3.0)),),
        figure=(
            FigureLimits(name="width", subject="timing", step="pass1", range=(0, 1)),
            FigureLimits(name="other", subject="pmt", step="pass2", range=(0, 1)),
        ),
    )
    found = judge(references, {"pass1": Reported({"h": histogram([0, 2, 2, 0])}, {"width": 7.0})})
    assert [(one.subject, one.value) for one in found] == [("pmt", "good"), ("timing", "bad")]
    assert [one.subject for one in judge(references, {"elsewhere": Reported({}, {})})] == ["pmt"]


TEXT = """
version = 2
[[histogram]]
name = "tot"
subject = "pmt"
mean = [24.0, 28.0]
[[figure]]
name = "width"
subject = "timing"
range = [2.0, 4.0]
"""


def test_references_are_read_and_named_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TEXT)
    (tmp_path / "b.toml").write_text(
        TEXT.replace('"tot"', '"time"').replace('"width"', '"skew"').replace("= 2\n", "= 5\n")
    )
    found = load_references([tmp_path / "a.toml", tmp_path / "b.toml"])
    assert (found.version, found.subjects(), len(found.histogram)) == (5, ("pmt", "timing"), 2)
    assert found.author.startswith("algorithm v5 ")
    assert found.hash != read_references(TEXT, "a").hash
    with pytest.raises(ConfigError, match="tot of pmt has two references"):
        load_references([tmp_path / "a.toml", tmp_path / "a.toml"])


TREND = """
[[trend]]
name = "tot"
subject = "pmt"
quantity = "mean"
p_value = 1e-4
"""


def test_a_trend_follows_what_is_checked_and_nothing_else() -> None:
    assert check_whole(read_references(TEXT + TREND, "refs.toml")).trend[0].key == ("tot", "mean")
    for old, new, nearest in (
        ('"tot"', '"tto"', "follows the name 'tto', which nothing checks"),
        ('"pmt"', '"ptm"', "follows the subject 'ptm', which nothing checks"),
        ('"mean"', '"maen"', "follows the quantity 'maen', which nothing checks"),
        ('"mean"', '"width"', "follows the quantity 'width', which nothing checks"),
    ):
        with pytest.raises(ConfigError, match=nearest):
            check_whole(read_references(TEXT + TREND.replace(old, new), "refs.toml"))


def test_each_quantity_has_the_name_that_its_check_has() -> None:
    every = {"mean": (0.0, 9.0), "width": (0.0, 9.0), "outside": 1.0, "dead": 1.0, "hot": 1.0}
    shapes = {"p_value": 1e-9, "kolmogorov": 1e-9, "anderson": 0.002, "reference": (50, 60, 50)}
    asked = limits(**every, **shapes)
    found = {check.quantity for check in check_histogram(histogram([50, 60, 50]), asked)}
    assert found == asked.quantities() and len(found) == 8
    assert limits().quantities() == {check.quantity for check in check_histogram(histogram([1]), limits())}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("mean =", "maen ="), "did you mean mean"),
        (("[24.0, 28.0]", "[28.0, 24.0]"), "runs backwards"),
        (("[2.0, 4.0]", "[4.0, 2.0]"), "runs backwards"),
        (("mean = [24.0, 28.0]", "p_value = 0.1"), "belong together"),
        (("mean = [24.0, 28.0]", "p_value = 0.1\nreference = [1, -2]"), "negative"),
        (("version = 2", "version = 0"), "version"),
        (("version = 2", "version = "), "not valid TOML"),
    ],
)
def test_wrong_references_are_refused_by_name(change: tuple[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_references(TEXT.replace(*change), "refs.toml")
