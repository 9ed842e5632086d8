"""Experiments: how they are found and asked, and the form of deliveries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beamwright.core.errors import ConfigError, FormatError, UnknownNameError
from beamwright.core.runs import Interval
from beamwright.event.reader import JoinedReader
from beamwright.production import experiment as experiments
from beamwright.production.experiment import DeliveredFile, Delivery
from support import toy


def test_an_experiment_that_is_not_installed_is_found_by_module_and_attribute() -> None:
    assert experiments.load("support.toy:experiment") is toy.experiment


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("support.toys:experiment", ConfigError, "cannot be imported"),
        ("support.toy:experimnt", ConfigError, "cannot be imported"),
        ("support.toy:BANKS", ConfigError, "is a BankSet, no Experiment"),
        ("no-such-experiment", UnknownNameError, "no-such-experiment"),
    ],
)
def test_what_is_no_experiment_is_refused(name: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        experiments.load(name)


def test_the_nearest_installed_experiment_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"atlas": None, "belle": None}
    monkeypatch.setattr(experiments, "installed", lambda: entries)
    with pytest.raises(UnknownNameError) as caught:
        experiments.load("bele")
    assert caught.value.hint == "did you mean belle?"


def test_paths_and_calibrations_are_new_each_time_and_take_parameters() -> None:
    path = toy.experiment.make_path("plain", {"Sum": {"threshold": 7.0}})
    assert path.configuration()["Sum"] == {"threshold": 7.0}
    assert toy.experiment.make_path("plain").configuration()["Sum"] == {"threshold": 5.0}
    made = toy.experiment.make_calibration("GainFit", {"GainFit": {"tolerance": 0.1}, "MonitorCount": {}})
    assert made.configuration() == {"tolerance": 0.1}


@pytest.mark.parametrize(
    ("ask", "hint"),
    [
        (lambda: toy.experiment.make_path("plane"), "plain"),
        (lambda: toy.experiment.make_path("plain", {"Summ": {}}), "Sum"),
        (lambda: toy.experiment.make_calibration("Gainfit"), "GainFit"),
        (lambda: toy.experiment.make_calibration("GainFit", {"GainFt": {}}), "GainFit"),
        (lambda: toy.experiment.make_calibration("GainFit", {"GainFit": {"tolerence": 1.0}}), "tolerance"),
        (lambda: toy.experiment.open_reader("toi", [], "A", 1), "toy"),
        (lambda: toy.experiment.open_reader("toy", [("row", Path("x"))], "A", 1), "raw"),
        (lambda: toy.experiment.load_constants("initial"), "there are none"),
        (lambda: toy.experiment.deliveries("demo"), "there are none"),
    ],
)
def test_unknown_names_suggest_the_nearest(ask: Any, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        ask()
    assert hint in caught.value.hint


def test_files_of_several_deliveries_are_opened_as_one_reader(tmp_path: Path) -> None:
    files = [
        ("raw", toy.write_raw(tmp_path / f"{part}.json", "A", 7, {"event": toy.grid([part], 4)}))
        for part in (2, 1)
    ]
    joined = toy.experiment.open_reader("toy", files, "A", 7)
    assert isinstance(joined, JoinedReader)
    index = joined.index("event")
    assert index.section.tolist() == [1] * 4 + [2] * 4
    batch = joined.read("event", index.entry.argsort()[:0])
    assert batch.n == 0
    alone = toy.experiment.open_reader("toy", [files[0], files[0]], "A", 7)
    assert isinstance(alone, toy.ToyReader)
    with pytest.raises(FormatError, match="no file"):
        toy.experiment.open_reader("toy", [], "A", 7)


def delivery() -> Delivery:
    file = DeliveredFile("raw", "/data/x.root", 12, "ab" * 32)
    return Delivery("A", 7, "raw", 1, "toy", (file,), 0, 99, {"event": 3}, end_marker=True)


def test_a_delivery_survives_its_document() -> None:
    assert Delivery.from_document(delivery().document()) == delivery()
    worth = replace(delivery(), luminosity=2.5, livetime=60.0)
    assert Delivery.from_document(worth.document()) == worth
    assert delivery().interval == Interval.sections("A", 7, 0, 99)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "7"}, "'7' is no count"),
        ({"run": -1}, "-1 is no count"),
        ({"series": ""}, "is no text"),
        ({"files": []}, "has no file"),
        ({"files": [{"role": "raw"}]}, "lacks 'path'"),
        ({"files": 3}, "malformed"),
        ({"records": [1]}, "malformed"),
        ({"luminosity": -1.0}, "-1.0 is no amount"),
        ({"livetime": float("nan")}, "nan is no amount"),
        ({"first_section": 100}, "run backwards"),
    ],
)
def test_a_malformed_delivery_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Delivery.from_document(delivery().document() | change)
    with pytest.raises(FormatError):
        Delivery.from_document([])
