"""The raw reader of muon pairs: one record per event, whatever the order and the alternatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import uproot

from beamwright.core.errors import FormatError
from dimuon.experiment import RUNS, SERIES, SHA256, SIZE, deliveries, sample
from dimuon.reader import NtupleReader, read_rows

pytestmark = pytest.mark.demo


def open_run(run: int) -> NtupleReader:
    return NtupleReader.open({"ntuple": sample()}, series=SERIES, run=run)


@pytest.mark.parametrize(("run", "events"), RUNS.items())
def test_the_rows_of_an_event_are_alternatives_and_become_one_record(run: int, events: int) -> None:
    reader = open_run(run)
    index = reader.index("event")
    assert len(index) == events
    batch = reader.read("event", np.arange(events))
    rows = read_rows(sample())
    assert batch["Event"].alternatives.sum() == (rows["Run"] == run).sum()
    for i in (0, events // 2, events - 1):
        mine = np.flatnonzero((rows["Run"] == run) & (rows["Event"] == batch.event[i]))
        assert len(mine) == batch["Event"].alternatives[i]
        first, muons = mine[0], batch["Muon"]
        at = muons.offsets[i]
        assert (muons.px[at], muons.px[at + 1]) == (rows["px1"][first], rows["px2"][first])
        kinds = "".join("G" if g else "T" for g in muons.is_global[at : at + 2])
        assert kinds == rows["Type"][first]


def test_chosen_records_are_those_of_the_whole() -> None:
    reader = open_run(148031)
    whole, some = reader.read("event", np.arange(344)), reader.read("event", np.array([3, 7, 300]), ["Muon"])
    assert list(some.tables) == ["Muon"]
    assert np.array_equal(some.event, whole.event[[3, 7, 300]])
    assert np.array_equal(some["Muon"].energy[:2], whole["Muon"].energy[6:8])


def test_a_run_that_is_not_in_the_file_has_no_records() -> None:
    assert len(open_run(1).index("event")) == 0


def test_truncated_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut.root"
    cut.write_bytes(sample().read_bytes()[:90_000])
    other = tmp_path / "other.root"
    with uproot.recreate(other) as file:
        file["events"] = {"Run": np.arange(3)}
    for path in (cut, other, tmp_path / "none.root"):
        with pytest.raises(FormatError, match=path.name):
            NtupleReader(path, SERIES, 148029)


def test_the_deliveries_tell_the_truth_of_the_sample() -> None:
    import hashlib

    data = sample().read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (SIZE, SHA256)
    found = deliveries("zmass")
    assert [(d.run, d.records, d.end_marker) for d in found] == [
        (r, {"event": n}, True) for r, n in RUNS.items()
    ]
