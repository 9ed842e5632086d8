"""The telescope's paths on real data: from raw files to skims, the same for any number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import FormatError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.batch import Batch
from beamwright.event.loop import LoopResult, run_path
from beamwright.event.reader import Reader
from beamwright.event.store import CollectionReader
from beamwright.event.validate import validate_file
from orca.constants import GEOMETRY
from orca.errors import RawDataError
from orca.paths import PATHS
from orca.readers import BANKS, DstReader, OfflineReader, OnlineReader
from orca.samples import complete, geometry, initial
from support.orca_samples import sample

pytestmark = pytest.mark.forks

RUN_25291 = {
    "daq": "online/KM3NeT_00000267_00025291_JDAQEvent_JDAQSummaryslice.root",
    "l1": "online/KM3NeT_00000267_00025291_L1.root",
    "sn": "online/KM3NeT_00000267_00025291_SN.root",
}
RUN_13339 = {"daq": "online/muon_cc_daqevents.root", "truth": "offline/muon_cc_events.root"}


class Done(NamedTuple):
    """A path that ran: its files by stream, its result."""

    files: dict[str, Path]
    result: LoopResult


def conditions(series: str) -> Snapshot:
    payloads = complete(series) if series == "133" else {**initial(series), GEOMETRY: geometry(series)}
    whole = Interval.runs(series, 0, 99_999)
    pieces = [(role, whole, payload.id) for role, payload in payloads.items()]
    return Snapshot("test", pieces, {payload.id: payload for payload in payloads.values()})


def online(series: str, run: int, **files: str) -> OnlineReader:
    return OnlineReader.open({r: sample(f) for r, f in files.items()}, series=series, run=run)


def run(folder: Path, name: str, reader: Reader, number: int, snapshot: Snapshot | None, **options) -> Done:
    path = PATHS[name]()
    files = {output.stream: folder / f"{name}.{output.stream}.root" for output in path.outputs}

    def lineage(stream: str) -> Lineage:
        return Lineage("orca", "test", name, name, stream, "dst", reader.series, "release", "config")

    interval = Interval.sections(reader.series, number)
    result = run_path(
        path, reader, interval, banks=BANKS, snapshot=snapshot, outputs=files, lineage=lineage, **options
    )
    return Done(files, result)


def read(file: Path, record: str = "event") -> Batch:
    reader = CollectionReader([file])
    return reader.read(record, np.arange(len(reader.index(record))))


def directions(batch: Batch, bank: str):
    return np.stack([batch[bank][axis] for axis in ("dir_x", "dir_y", "dir_z")], axis=1)


def angles(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(axis=1), -1.0, 1.0)))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("13339")
    return run(folder, "reco", online("133", 13339, **RUN_13339), 13339, conditions("133"))


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Done:
    reader = DstReader.open({"dst": sample("dst/orca4_sample.root")}, series="44", run=6370)
    return run(tmp_path_factory.mktemp("6370"), "dst-import", reader, 6370, None)


def test_simulation_is_reconstructed_within_a_few_degrees_of_the_truth(simulated):
    batch = read(simulated.files["dst"])
    assert (batch.n, batch["McTruth"].rows) == (250, 248)
    both = (batch["Track"].counts > 0) & (batch["McTruth"].counts > 0)
    found = directions(batch, "Track")[both[batch["Track"].record_index]]
    true = directions(batch, "McTruth")[both[batch["McTruth"].record_index]]
    assert np.median(angles(found, true)) == pytest.approx(5.2, abs=0.5)


def test_outputs_are_valid_and_their_links_lead_to_the_right_hits(simulated):
    verdict = validate_file(simulated.files["dst"])
    assert (verdict["valid"], verdict["problems"], verdict["events"]) == (True, [], 250)
    batch = read(simulated.files["dst"])
    hit, snap, cal, on_track = (batch[b] for b in ("TrigHit", "SnapHit", "CalHit", "TrackHit"))
    assert np.array_equal(hit["tdc"], snap["tdc"][hit.follow("snap", snap)])
    assert np.array_equal(cal["dom_id"], hit["dom_id"][cal.follow("hit", hit)])
    assert (on_track.follow("hit", cal) >= 0).all() and (on_track.follow("track", batch["Track"]) >= 0).all()
    assert np.array_equal(on_track.counts[on_track.counts > 0], batch["Track"]["n_doms"])


def test_run_5971_keeps_the_stored_tracks_beside_ours(tmp_path):
    reader = OfflineReader.open({"daq": sample("offline/km3net_offline.root")}, series="44", run=5971)
    batch = read(run(tmp_path, "reco", reader, 5971, conditions("44")).files["dst"])
    assert batch["StoredTrack"].counts.tolist() == batch["Track"].counts.tolist() == [1] * 10
    apart = angles(directions(batch, "Track"), directions(batch, "StoredTrack"))
    assert np.median(apart) == pytest.approx(4.1, abs=0.6)
    lines = angles(directions(batch, "LineFit"), directions(batch, "StoredTrack"))
    assert np.median(lines) == pytest.approx(14.3, abs=0.5)


def test_atmospheric_muons_come_down(tmp_path):
    down = []
    readers = {
        5971: OfflineReader.open({"daq": sample("offline/km3net_offline.root")}, series="44", run=5971),
        6633: online("44", 6633, daq="online/km3net_online.root"),
        6884: online("44", 6884, daq="online/events_sample.root"),
        25291: online("267", 25291, **RUN_25291),
    }
    for number, reader in readers.items():
        folder = tmp_path / str(number)
        folder.mkdir()
        done = run(folder, "reco", reader, number, conditions(reader.series))
        down += (read(done.files["dst"])["LineFit"]["dir_z"] < 0).tolist()
    assert (sum(down), len(down)) == (33, 36)


def test_events_come_in_key_order_though_the_file_has_another(tmp_path):
    reader = online("44", 6884, daq="online/events_sample.root")
    batch = read(run(tmp_path, "reco", reader, 6884, conditions("44")).files["dst"])
    assert batch.section.tolist() == sorted(batch.section.tolist())
    assert batch.section[0] == 359 and batch.section[-1] == 396


def test_software_trigger_makes_events_with_parents_and_a_balanced_ledger(tmp_path):
    reader = online("44", 6884, daq="online/events_sample.root")
    done = run(tmp_path, "swtrigger", reader, 6884, conditions("44"))
    slices, created = done.result.ledger
    assert (slices["record"], slices["read"], slices["written"] + slices["filtered"]) == ("slice", 10, 10)
    assert (created["record"], created["created"], created["written"]) == ("swevent", 5, 5)
    batch = read(done.files["swdst"], "swevent")
    assert batch.parent_section.tolist() == batch.section.tolist()
    assert {366, 370} <= set(batch.section.tolist())
    assert validate_file(done.files["swdst"])["valid"]
    hit, snap = batch["TrigHit"], batch["SnapHit"]
    assert np.array_equal(hit["tdc"], snap["tdc"][hit.follow("snap", snap)])
    histograms = done.result.histograms
    assert histograms["l1_tot"].entries == 456_453
    assert histograms["k40_dt"].values[20:30].sum() > 0.5 * histograms["k40_dt"].values[10:40].sum()


def test_slices_in_files_of_their_own_are_found_by_role(tmp_path):
    reader = online("267", 25291, **RUN_25291)
    assert reader.records() == ("event", "slice", "summary", "sn")
    assert reader.index("slice").section.tolist() == [5057, 5058, 5059]
    assert len(reader.index("sn")) == 100
    done = run(tmp_path, "monitor", reader, 25291, conditions("267"))
    rows = read(done.files["rates"], "summary")["SliceQuality"]
    assert (rows["doms"] > 400)[1:].all() and np.median(rows["rate"]) == pytest.approx(5700, rel=0.1)


@pytest.mark.parametrize("options", [{"workers": 3, "batch_events": 11}, {"batch_events": 40}])
def test_files_are_the_same_for_any_number_of_workers_and_batch_size(tmp_path, simulated, options):
    reader = online("133", 13339, **RUN_13339)
    other = run(tmp_path, "reco", reader, 13339, conditions("133"), **options)
    assert other.files["dst"].read_bytes() == simulated.files["dst"].read_bytes()
    assert other.result.histograms.to_bytes() == simulated.result.histograms.to_bytes()


@pytest.mark.parametrize("options", [{"workers": 2, "batch_events": 1}])
def test_software_trigger_is_the_same_for_any_number_of_workers(tmp_path, options):
    files = []
    for number, chosen in enumerate(({}, options)):
        folder = tmp_path / str(number)
        folder.mkdir()
        reader = online("267", 25291, **RUN_25291)
        done = run(folder, "swtrigger", reader, 25291, conditions("267"), **chosen)
        files.append((done.files["swdst"].read_bytes(), done.result.histograms.to_bytes()))
    assert files[0] == files[1]


def test_skims_of_the_mini_dst_have_the_measured_counts(tmp_path, imported):
    done = run(tmp_path, "skim", CollectionReader([imported.files["mdst"]]), 6370, None)
    written = {line["stream"]: line["written"] for line in done.result.ledger}
    assert written == {"muon": 1547, "upgoing": 23, "bright": 540}


def test_our_own_events_go_through_the_same_mini_dst_and_skims(tmp_path, simulated):
    reader = CollectionReader([simulated.files["dst"]])
    mdst = run(tmp_path, "mdst", reader, 13339, None)
    row = read(mdst.files["mdst"])["Summary"]
    assert set(row["source"].tolist()) == {0, 1}
    assert np.isnan(row["likelihood"]).all() and np.isnan(row["cos_zenith"][row["source"] == 0]).all()
    done = run(tmp_path, "skim", CollectionReader([mdst.files["mdst"]]), 13339, None)
    kept = read(done.files["upgoing"])["Summary"]
    assert (kept["cos_zenith"] < 0).all() and (kept["doms"] >= 10).all()
    assert (read(done.files["bright"])["Summary"]["trig_hits"] >= 60).all()


def test_a_file_of_another_detector_is_refused(tmp_path):
    reader = online("267", 6884, daq="online/events_sample.root")
    with pytest.raises(FormatError, match="it is of detector 44, not 267"):
        reader.read("event", np.arange(2))
    with pytest.raises(RawDataError, match="it is of detector 44, not 49"):
        DstReader.open({"dst": sample("dst/orca4_sample.root")}, series="49", run=6370)


def test_a_reader_without_records_of_a_kind_reads_nothing():
    reader = online("133", 13339, **RUN_13339)
    assert reader.records() == ("event",)
    assert len(reader.index("slice")) == 0
    assert reader.read("slice", np.zeros(0, np.int64)).n == 0
