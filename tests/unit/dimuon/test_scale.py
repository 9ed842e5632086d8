"""The momentum scale: the fit of the peak, and which changes are made."""

from __future__ import annotations

import numpy as np
import pytest

from beamwright.event.calibration import fit_calibration
from beamwright.event.module import Constants
from dimuon import scale
from dimuon.calibration import MomentumScale, scale_payload
from dimuon.experiment import SERIES, sample
from dimuon.modules import SCALE, pairs_of, sum_of
from dimuon.reader import NtupleReader


def masses(run: int) -> np.ndarray:
    reader = NtupleReader(sample(), SERIES, run)
    muons = reader.read("event", np.arange(len(reader.index("event"))))["Muon"]
    _, first, second = pairs_of(muons)
    return scale.mass(*sum_of(muons, first, second))


def constants(value: float, error: float) -> dict[str, Constants]:
    arrays, document = scale_payload(value, error).unpack()
    return {SCALE: Constants(arrays, document)}


@pytest.mark.demo
@pytest.mark.parametrize(
    ("runs", "peak", "error"),
    [((148029, 148031), 90.76, 0.135), ((148029,), 90.35, 0.24), ((148031,), 90.95, 0.16)],
)
def test_the_peak_of_the_sample(runs: tuple[int, ...], peak: float, error: float) -> None:
    found = scale.fit_peak(scale.count(np.concatenate([masses(run) for run in runs])))
    assert found.mass == pytest.approx(peak, abs=0.02)
    assert found.error == pytest.approx(error, abs=0.01)
    assert 1.0 < found.sigma < 2.0


def spectrum(peak: float, pairs: int = 20_000) -> np.ndarray:
    """Return masses of a known peak with background."""
    noise = np.random.default_rng(7)
    signal = peak + scale.Z_WIDTH / 2 * noise.standard_cauchy(pairs) + noise.normal(0, 1.5, pairs)
    return np.concatenate([signal, noise.uniform(scale.LOW, scale.HIGH, pairs // 10)])


def test_the_fit_finds_a_known_peak_within_its_error() -> None:
    found = scale.fit_peak(scale.count(spectrum(90.2)))
    assert abs(found.mass - 90.2) < 3 * found.error
    assert found.error < 0.05
    assert found.sigma == pytest.approx(1.5, abs=0.1)


def test_the_error_falls_with_the_square_root_of_the_pairs() -> None:
    few, many = (scale.fit_peak(scale.count(spectrum(91.0, n))).error for n in (2_000, 32_000))
    assert few / many == pytest.approx(4.0, rel=0.25)


def fitted(counts: np.ndarray, value: float, error: float) -> tuple[str, str]:
    decision = fit_calibration(MomentumScale(), {"counts": counts}, constants(value, error)).decision
    return decision.verdict, decision.reason


@pytest.mark.demo
def test_the_first_run_is_a_significant_change_and_the_second_is_not() -> None:
    first = fit_calibration(MomentumScale(), {"counts": scale.count(masses(148029))}, constants(1.0, 0.0))
    assert first.decision.verdict == "accept"
    arrays, _ = first.payloads[SCALE].unpack()
    value, error = float(arrays["scale"][0]), float(arrays["error"][0])
    assert value == pytest.approx(scale.Z_MASS / 90.35, abs=2e-4)
    verdict, reason = fitted(scale.count(masses(148031) * value), value, error)
    assert verdict == "carry"
    assert "not significant: a change of -0.66%, 2.1 standard deviations" in reason


def test_a_change_beyond_belief_is_rejected_and_few_pairs_are_carried() -> None:
    assert fitted(scale.count(spectrum(83.0)), 1.0, 0.0)[0] == "reject"
    assert fitted(scale.count(spectrum(91.0, 30)), 1.0, 0.0)[0] == "carry"


def test_a_spectrum_without_a_peak_moves_nothing() -> None:
    flat = np.full(scale.BINS, 1, np.int64)
    assert fitted(flat, 1.0, 0.0)[0] in ("reject", "carry")
