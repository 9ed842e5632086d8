"""Calibrations on files alone: in order of what they read, repeated until nothing moves, bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamwright.cli.main import run
from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import ConfigError
from beamwright.core.runs import Interval
from beamwright.event.calibration import Calibration, Fit
from beamwright.event.rolling import in_order
from support import toy

STEERING = """
from support import toy

calibrations = [toy.GainFit()]
constants = {"Gain": toy.gain_payload(1.0)}
banks = toy.BANKS
reader = toy.ToyReader
"""
# Goes half of the way to 8 in each round.
HALVING = STEERING.replace("[toy.GainFit()]", "[Halving()]").replace(
    "calibrations =",
    """
from beamwright.event.calibration import Fit

class Halving(toy.GainFit):
    tolerance = 100.0

    def fit(self, accumulator, previous):
        gain = (float(previous["Gain"]["gain"][0]) + 8) / 2
        return Fit({"Gain": toy.gain_payload(gain)}, {"gain": gain, "before": gain})

calibrations =""",
)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    toy.write_raw(tmp_path / "raw.json", "T", 1, {"event": toy.grid(range(4), 20)})

    def caller(text: str, *more: object) -> tuple[int, Any, str]:
        (tmp_path / "steering.py").write_text(text)
        words = ["calibrate", "steering.py", "-i", "raw.json", "--series", "T", "--run", 1, "--json", *more]
        capsys.readouterr()
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return caller


def test_constants_come_near_the_truth_and_into_a_snapshot(call: Any, tmp_path: Path) -> None:
    code, told, _ = call(STEERING, "--output", "constants.bwc")
    assert code == 0 and told["fits"]["GainFit"]["decision"] == "accept"
    snapshot = Snapshot.load(tmp_path / "constants.bwc")
    (piece,) = snapshot.pieces(["Gain"], Interval("T", (1, 0, 0), (1, 3, 0)))
    gain = snapshot.constants(piece[2])[0]["gain"][0]
    assert piece[2] == told["constants"]["Gain"] and abs(gain - toy.GAIN) < 0.05


@pytest.mark.forks
def test_workers_change_nothing(call: Any) -> None:
    assert call(STEERING)[1]["constants"] == call(STEERING, "--workers", 2)[1]["constants"]


def test_rounds_go_on_until_nothing_moves(call: Any) -> None:
    code, told, said = call(STEERING, "--rounds", 5)
    assert (code, told["converged"], told["rounds"], told["shift"]) == (0, True, 2, 0.0)
    assert "round 2, GainFit: accept" in said


def test_a_calibration_that_does_not_converge_ends_at_the_bound_and_says_so(call: Any) -> None:
    code, told, _ = call(HALVING, "--rounds", 4, "--tolerance", 0.1)
    assert (code, told["converged"], told["rounds"]) == (1, False, 4)
    assert told["shift"] == pytest.approx(7 / 16)
    code, told, _ = call(HALVING, "--rounds", 20, "--tolerance", 0.1)
    assert (code, told["converged"], told["rounds"]) == (0, True, 7)


def test_a_steering_file_without_calibrations_is_refused(call: Any) -> None:
    code, _, said = call("calibration = []\n")
    assert code != 0 and "defines no `calibrations`" in said and "did you mean calibration" in said


def test_constants_to_start_from_that_are_missing_are_named(call: Any) -> None:
    code, _, said = call(STEERING.replace('"Gain":', '"Gian":'))
    assert code == 2 and "has no constants of Gain to start from" in said and "it has: Gian" in said


def test_a_fit_that_fails_is_an_error_at_its_line(call: Any) -> None:
    code, _, said = call(HALVING.replace('previous["Gain"]', 'previous["Gian"]'))
    assert code == 2 and "steering.py:" in said and "KeyError: 'Gian'" in said and "gain = (float" in said


class Stage(Calibration):
    """Makes one tag out of others."""

    def __init__(self, name: str, makes: str, *needs: str) -> None:
        super().__init__()
        self.label, self.tags, self.reads = name, (makes,), tuple(f"{need}@conditions" for need in needs)

    @property
    def name(self) -> str:
        return self.label

    def empty(self) -> Any:
        return {"n": np.zeros(1, np.int64)}

    def collect(self, batch: Any, conditions: Any) -> Any:
        return {"n": np.array([batch.n])}

    def statistics(self, accumulator: Any) -> float:
        return float(accumulator["n"][0])

    def fit(self, accumulator: Any, previous: Any) -> Fit:
        return Fit({self.tags[0]: Payload.arrays({"n": accumulator["n"]})})


def test_what_is_read_is_calibrated_first() -> None:
    alignment, offsets = Stage("alignment", "Alignment", "T0"), Stage("t0", "T0", "T0")
    assert in_order([alignment, offsets]) == [offsets, alignment]


def test_calibrations_that_wait_for_each_other_or_share_a_tag_are_refused() -> None:
    with pytest.raises(ConfigError, match="wait for each other"):
        in_order([Stage("one", "A", "B"), Stage("two", "B", "A")])
    with pytest.raises(ConfigError, match="both make A"):
        in_order([Stage("one", "A"), Stage("two", "A")])
