"""Calibrations: merging, packing, and what a fit ends as."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import FormatError, SchemaMismatchError
from beamwright.core.runs import Interval
from beamwright.event import calibration as calibrating
from beamwright.event.calibration import Fit
from beamwright.event.module import Constants
from support import toy

RUN = Interval.sections("A", 7)
BEFORE = {"Gain": Constants({"gain": np.array([1.2])}, None, "old")}


def sums(charge: int, energy: int, hits: int) -> dict[str, Any]:
    return {"sums": np.array([charge, energy, hits])}


def test_accumulators_survive_their_file() -> None:
    held = {"GainFit": sums(5, 4, 3), "MonitorCount": {"time": np.array([1.0, 2.0])}}
    data = calibrating.pack_accumulators(held, {"GainFit": 3.0, "MonitorCount": 2.0})
    again = calibrating.unpack_accumulators(data)
    assert again.keys() == held.keys()
    assert again["GainFit"]["sums"].tolist() == [5, 4, 3]
    with pytest.raises(FormatError, match="no accumulators"):
        calibrating.unpack_accumulators(Payload.arrays({"a": [1]}).data)


def test_accumulators_are_merged_in_order_by_the_calibration() -> None:
    both = [toy.GainFit(), toy.MonitorCount()]
    parts = [
        {"GainFit": sums(1, 2, 3), "MonitorCount": {"time": np.array([1.0])}},
        {"MonitorCount": {"time": np.array([0.5])}},
        {"GainFit": sums(1, 1, 1), "MonitorCount": {"time": np.array([7.0])}},
    ]
    whole = calibrating.merge_accumulators(both, parts)
    assert whole["GainFit"]["sums"].tolist() == [2, 3, 4]
    assert whole["MonitorCount"]["time"].tolist() == [1.0, 0.5, 7.0]
    assert calibrating.statistics(both, whole) == {"GainFit": 4.0, "MonitorCount": 3.0}


def test_accumulators_of_different_arrays_cannot_be_added() -> None:
    with pytest.raises(SchemaMismatchError, match="GainFit"):
        toy.GainFit().merge(sums(1, 1, 1), {"other": np.zeros(1)})


def fitted(accumulator: dict[str, Any], kind: type[toy.GainFit] = toy.GainFit) -> calibrating.Fitted:
    return calibrating.fit_calibration(kind(), accumulator, BEFORE)


def test_an_accepted_fit_brings_its_payload_and_figures() -> None:
    found = fitted(sums(130, 100, 50))
    assert (found.decision.verdict, found.payloads["Gain"].id) == ("accept", toy.gain_payload(1.3).id)
    document = found.document()
    assert document["figures"] == {"gain": 1.3, "before": 1.2}
    assert document["payloads"] == {"Gain": toy.gain_payload(1.3).id}
    assert (document["tags"], document["statistics"], document["minimum"]) == (["Gain"], 50.0, 20.0)


@pytest.mark.parametrize(
    ("accumulator", "verdict", "reason", "gain"),
    [
        (sums(130, 100, 19), "carry", "too little statistics: 19 of 20", 1.2),
        (sums(900, 100, 50), "reject", "the gain jumps by 7.80", 9.0),
    ],
)
def test_what_is_carried_is_the_previous_payload_and_a_rejected_one_is_kept_for_a_person(
    accumulator: dict[str, Any], verdict: str, reason: str, gain: float
) -> None:
    found = fitted(accumulator)
    assert (found.decision.verdict, found.decision.reason) == (verdict, reason)
    assert found.payloads["Gain"].data == toy.gain_payload(gain).data


class Diverging(toy.GainFit):
    def fit(self, accumulator: Any, previous: Any) -> Fit:
        raise np.linalg.LinAlgError("singular matrix")


class Forgetful(toy.GainFit):
    def fit(self, accumulator: Any, previous: Any) -> Fit:
        return Fit({"Gian": toy.gain_payload(1.0)})


def test_a_fit_that_diverges_is_rejected_and_one_of_other_tags_is_an_error() -> None:
    found = fitted(sums(130, 100, 50), Diverging)
    assert found.decision.verdict == "reject"
    assert "singular matrix" in found.decision.reason
    with pytest.raises(SchemaMismatchError, match="Gian"):
        fitted(sums(130, 100, 50), Forgetful)


def test_previous_constants_are_those_at_the_start_of_the_interval() -> None:
    old, new = toy.gain_payload(1.0), toy.gain_payload(2.0)
    pieces = [
        ("Gain", Interval.sections("A", 7, 0, 4), old.id),
        ("Gain", Interval.sections("A", 7, 5), new.id),
    ]
    snapshot = Snapshot("g", pieces, {p.id: p for p in (old, new)})
    found = calibrating.previous_constants(snapshot, ["Gain", "Clock"], Interval.sections("A", 7, 5))
    assert (list(found), found["Gain"]["gain"].tolist(), found["Gain"].payload_id) == (
        ["Gain"],
        [2.0],
        new.id,
    )
    assert calibrating.previous_constants(None, ["Gain"], RUN) == {}


def test_figures_become_plain_json() -> None:
    figures = {
        "a": np.float32(0.5),
        "b": [np.int64(3), float("nan")],
        "c": np.array([1.0, np.inf]),
        "d": (True, None),
    }
    assert calibrating.plain(figures) == {"a": 0.5, "b": [3, None], "c": [1.0, None], "d": [True, None]}


# --- channels of a fit


def _bad(new: dict[str, list[float]], old: dict[str, list[float]] | None = None) -> list[str]:
    previous = None if old is None else Constants({name: np.array(v) for name, v in old.items()})
    return calibrating.bad_channels(Payload.arrays({name: np.array(v) for name, v in new.items()}), previous)


def test_channels_without_a_finite_value_are_named() -> None:
    found = _bad({"channel": [4, 5, 6], "gain": [1.0, float("nan"), float("inf")]})
    assert found == ["gain of channel 5 is not finite", "gain of channel 6 is not finite"]
    assert _bad({"gain": [float("nan")]}) == ["gain of channel 0 is not finite"]
    assert _bad({"channel": [4, 5], "gain": [1.0, 2.0]}) == []


def test_channels_that_were_there_before_are_missed() -> None:
    old = {"channel": [4, 5, 6], "gain": [1.0, 1.0, 1.0]}
    assert _bad({"channel": [4, 6, 9], "gain": [1.0, 1.0, 1.0]}, old) == ["channel 5 is missing"]
    assert _bad({"gain": [1.0]}, {"gain": [1.0, 1.0]}) == ["gain has 1 entries, there were 2"]
    assert _bad({"other": [1.0]}, old) == []
