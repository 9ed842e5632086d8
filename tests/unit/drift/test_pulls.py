"""The synthetic drift chamber: constants that are found lie around the truth as their errors say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from beamwright.core.runs import SECTION_MAX, Interval
from beamwright.event.rolling import Rolled, Source, roll
from drift import truth
from drift.calibrations import ALIGNMENT, OFFSETS, Alignment, TimeOffsets
from drift.experiment import constants
from drift.pulls import Pulls, moments, of_run, table
from drift.reader import BANKS, DriftReader

DRAWN = {one.tag: one.payload for one in constants("drawn")}


def calibrated(folder: Path, run: int, most: int = 8, step: float = 1.0, **more: object) -> Rolled:
    path = folder / f"{run}.json"
    path.write_text(json.dumps({"run": run, "pulses": 100, "tracks": 300} | more))
    reader = DriftReader.open({"raw": path}, series=truth.SERIES, run=run)
    whole = Interval.sections(truth.SERIES, run, 0, SECTION_MAX)
    alignment = Alignment()
    alignment.set("step", step)
    return roll([alignment, TimeOffsets()], Source(reader, whole, BANKS), DRAWN, most=most, tolerance=5e-4)


def pulls(folder: Path, run: int) -> list[Pulls]:
    found = calibrated(folder, run)
    assert found.is_converged
    arrays = {role: found.constants[role].unpack()[0] for role in (OFFSETS, ALIGNMENT)}
    columns = {OFFSETS: "offset", ALIGNMENT: "shift"}
    return [of_run(role, run, arrays[role][columns[role]], arrays[role]["error"]) for role in arrays]


@pytest.mark.parametrize("runs", [24, pytest.param(1200, marks=pytest.mark.slow)])
def test_pulls_have_mean_zero_and_width_one(tmp_path: Path, runs: int) -> None:
    found = [one for run in range(1, runs + 1) for one in pulls(tmp_path, run)]
    print("\n".join(table(found)[-2:]))
    for role in (OFFSETS, ALIGNMENT):
        values = np.concatenate([one.values for one in found if one.role == role])
        # Constants of one run share their hits; runs are independent.
        (mean, error_of_mean), (width, error_of_width) = moments(values)
        assert abs(mean) < 4 * error_of_mean and abs(width - 1) < 4 * error_of_width
        assert error_of_mean == pytest.approx(1 / np.sqrt(values.size), rel=0.3)


def test_constants_really_move_from_run_to_run() -> None:
    moves = [truth.truth(run).shifts - truth.truth(run - 1).shifts for run in range(1, 200)]
    assert np.std(np.stack(moves)[:, truth.FREE]) == pytest.approx(0.03, rel=0.1)


def test_the_alignment_takes_the_offsets_that_were_found_before_it(tmp_path: Path) -> None:
    order = list(calibrated(tmp_path, 1, most=1).rounds[0])
    assert order == ["TimeOffsets", "Alignment"]


def test_a_second_round_is_needed_and_a_third_confirms_it(tmp_path: Path) -> None:
    found = calibrated(tmp_path, 1)
    tracks = [fits["Alignment"].figures["tracks"] for fits in found.rounds]
    assert len(tracks) == 3 and tracks[0] < tracks[1] == tracks[2]


def test_steps_that_are_too_short_do_not_converge_within_the_bound(tmp_path: Path) -> None:
    found = calibrated(tmp_path, 1, most=4, step=0.2)
    assert not found.is_converged and len(found.rounds) == 4 and found.shift > 5e-4


def test_a_dead_channel_rejects_the_offsets_by_its_number(tmp_path: Path) -> None:
    fitted = calibrated(tmp_path, 1, most=1, dead=[7]).rounds[0]["TimeOffsets"]
    assert fitted.decision.verdict == "reject"
    assert "channel 7 is not finite" in fitted.decision.reason


def test_no_pulses_at_all_carry_the_offsets(tmp_path: Path) -> None:
    fitted = calibrated(tmp_path, 1, most=1, pulses=0).rounds[0]["TimeOffsets"]
    assert fitted.decision.verdict == "carry"
    assert "too little statistics: 0 of 20" in fitted.decision.reason
