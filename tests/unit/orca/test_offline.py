"""Offline files: stored tracks, truth and DST events."""

from __future__ import annotations

import numpy as np
import pytest

from orca import selections
from orca.errors import RawDataError
from orca.offline import OfflineFile
from support.orca_samples import sample

DST = {
    "dst/orca4_sample.root": (6370, 2500, 2498, 1547, 23, 540),
    "dst/orca6_sample.root": (9505, 2499, 2488, 1477, 29, 530),
}


def test_events_of_run_5971_have_raw_times_and_triggered_hits():
    with OfflineFile(sample("offline/km3net_offline.root")) as file:
        events = file.events()
    assert events.triggered.counts.tolist() == [112, 55, 231, 89, 36, 14, 12, 21, 168, 53]
    assert events.snapshot.counts.tolist() == [176, 125, 318, 157, 83, 60, 71, 84, 255, 105]
    assert events.snapshot["tdc"][0] == 70_104_010


def test_keys_of_run_5971_are_in_order():
    with OfflineFile(sample("offline/km3net_offline.root")) as file:
        keys = file.keys()
    assert keys.section.tolist() == [165, 165, 165, 182, 183, 185, 185, 202, 204, 222]
    assert keys.event[:3].tolist() == [0, 1, 2]


def test_stored_tracks_of_run_5971_all_go_down():
    with OfflineFile(sample("offline/km3net_offline.root")) as file:
        tracks = file.best_tracks()
    norm = np.sqrt(sum(tracks[f"dir_{axis}"] ** 2 for axis in "xyz"))
    assert norm == pytest.approx(np.ones(10))
    assert (tracks["dir_z"] < 0).all()


def test_truth_has_a_muon_for_every_simulated_event():
    with OfflineFile(sample("offline/muon_cc_events.root")) as file:
        truth = file.truth(np.arange(0, 1000, 50))
    assert len(truth["E"]) == 20
    assert np.isfinite(truth["dir_z"]).all() and (truth["E"] > 0).all()


@pytest.mark.parametrize("name", DST)
def test_skims_of_dst_runs_select_as_many_as_measured(name):
    run, n, reconstructed, muons, upgoing, bright = DST[name]
    with OfflineFile(sample(name)) as file:
        header, track, info, summary = file.headers(), file.best_tracks(), file.fit_info(), file.summary()
    assert (set(header["run"]), len(file)) == ({run}, n)
    assert np.isfinite(info["beta0"]).sum() == reconstructed
    words = track["lik"], info["beta0"], track["dir_z"]
    assert selections.muon(*words).sum() == muons
    assert selections.upgoing(*words).sum() == upgoing
    assert selections.bright(summary["trig_hits"]).sum() == bright
    assert np.median(summary["trig_hits"]) == 30
    share = (selections.cos_zenith(track["dir_z"]) > 0)[np.isfinite(info["beta0"])].mean()
    assert 0.88 < share < 0.96


def test_an_online_file_is_no_offline_file():
    with pytest.raises(RawDataError, match="no events in a tree E"):
        OfflineFile(sample("online/km3net_online.root"))


def test_an_entry_beyond_the_end_is_refused():
    with (
        OfflineFile(sample("offline/km3net_offline.root")) as file,
        pytest.raises(RawDataError, match="entry 10 asked"),
    ):
        file.headers(np.array([10]))
