"""Line fit, track fit and software trigger: right on made-up tracks, as measured on real ones."""

from __future__ import annotations

import numpy as np
import pytest

from orca import linefit, swtrigger, trackfit
from orca.jagged import Table, concatenate, offsets_of
from orca.match import Spans, matches, spans
from orca.offline import OfflineFile
from orca.raw import EVENT, OnlineFile
from support.orca_samples import sample


def calibrated(hits: Table, detector, t0=None) -> Table:
    """Give hits positions and times: columns x, y, z, t, dom, channel."""
    row, channel = detector.rows(hits["dom_id"]), hits["channel"]
    t0 = detector.t0 if t0 is None else t0
    x, y, z = detector.position[row, channel].T
    columns = {"x": x, "y": y, "z": z, "t": hits["tdc"] + t0[row, channel], "dom": row, "channel": channel}
    return Table(columns, hits.offsets)


def firsts(hits: Table) -> Table:
    keep = np.zeros(hits.offsets[-1], bool)
    keep[trackfit.first_hits(hits)] = True
    return hits.where(keep)


def reconstruct(hits: Table):
    lines = linefit.fit_lines(hits)
    first = firsts(hits)
    return lines, trackfit.fit_tracks(first, lines.direction), first.counts


def angles(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(axis=1), -1.0, 1.0)))


def made_up(n_events: int, hits: int = 25, noise: int = 0, seed: int = 5):
    """Make events of muons with exact Cherenkov light, 1 ns jitter and noise hits: (hits, directions)."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n_events, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    parts = []
    for direction in directions:
        points = rng.uniform(-60.0, 60.0, size=(hits, 3))
        point, start = rng.uniform(-15.0, 15.0, 3), rng.uniform(0, 9e7)
        away = points - point
        along = away @ direction
        distance = np.linalg.norm(away - along[:, None] * direction, axis=1)
        times = start + along / trackfit.LIGHT + trackfit.DELAY * distance + rng.normal(0.0, 1.0, hits)
        times[:noise] = start + rng.uniform(-400.0, 400.0, noise)
        columns = dict(zip("xyz", points.T, strict=True)) | {"t": times, "dom": np.arange(hits)}
        parts.append(Table(columns, np.array([0, hits])))
    return concatenate(parts), directions


@pytest.fixture(scope="module")
def simulated(detector133):
    with OnlineFile(sample("online/muon_cc_daqevents.root")) as file:
        counter = file.events().header["trigger_counter"].astype(np.int64)
        with_truth = np.flatnonzero(counter < 1000)
        events = file.events(with_truth)
    with OfflineFile(sample("offline/muon_cc_events.root")) as file:
        truth = file.truth(counter[with_truth])
    return events, np.stack([truth[f"dir_{axis}"] for axis in "xyz"], axis=1)


def test_exact_tracks_are_found_whatever_the_first_guess():
    hits, directions = made_up(30)
    wrong = np.tile([0.0, 0.0, -1.0], (30, 1))
    start = np.where(np.abs(angles(wrong, directions))[:, None] < 60, wrong, directions + [0.3, -0.2, 0.1])
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    assert np.percentile(angles(trackfit.fit_tracks(hits, start).direction, directions), 90) < 2.0


def test_noise_hits_pull_little():
    hits, directions = made_up(30, noise=5)
    _, tracks, _ = reconstruct(hits)
    assert np.median(angles(tracks.direction, directions)) < 2.0


def test_residuals_of_an_exact_track_are_its_jitter():
    hits, directions = made_up(10)
    tracks = trackfit.fit_tracks(hits, directions)
    assert np.std(tracks.residual) == pytest.approx(1.0, abs=0.25)
    assert (tracks.n_doms == 25).all()


def test_line_fit_finds_a_moving_point_among_outliers():
    times = np.arange(20) * 10.0 + 5e7
    columns = {axis: 0.25 * v * (times - 5e7) for axis, v in zip("xyz", (0.6, 0.0, -0.8), strict=True)}
    columns["x"][7] += 90.0
    line = linefit.fit_lines(Table({**columns, "t": times}, np.array([0, 20])))
    assert line.direction[0] == pytest.approx([0.6, 0.0, -0.8], abs=1e-6)
    assert line.speed[0] == pytest.approx(0.25)
    assert line.n_hits[0] == 19


def test_events_with_too_few_hits_are_not_fitted():
    hits, _ = made_up(3, hits=4)
    lines = linefit.fit_lines(hits)
    tracks = trackfit.fit_tracks(hits, lines.direction)
    assert (lines.n_hits == 0).all() and np.isnan(lines.direction).all()
    assert (tracks.n_doms == 0).all() and (tracks.start == -1).all() and np.isnan(tracks.residual).all()


def test_no_events_give_no_tracks():
    none = Table({name: np.zeros(0) for name in ("x", "y", "z", "t", "dom")}, np.array([0]))
    lines = linefit.fit_lines(none)
    assert len(lines) == len(trackfit.fit_tracks(none, lines.direction)) == 0


def test_fits_have_the_same_bits_in_any_company(simulated, detector133):
    hits = calibrated(simulated[0].triggered, detector133).take(np.arange(60))
    lines, tracks, _ = reconstruct(hits)
    rng = np.random.default_rng(11)
    for events in (rng.permutation(60)[:23], np.array([17]), np.arange(59, -1, -1)):
        other_lines, other, _ = reconstruct(hits.take(events))
        assert np.array_equal(other_lines.direction, lines.direction[events], equal_nan=True)
        for name in ("direction", "position", "time", "loss", "rms", "start"):
            assert np.array_equal(getattr(other, name), getattr(tracks, name)[events], equal_nan=True)


def test_fits_have_the_same_bits_in_any_chunk(monkeypatch, simulated, detector133):
    hits = calibrated(simulated[0].triggered, detector133).take(np.arange(40))
    _, tracks, _ = reconstruct(hits)
    monkeypatch.setattr(trackfit, "CHUNK_ROWS", 500)
    _, other, _ = reconstruct(hits)
    assert np.array_equal(other.direction, tracks.direction, equal_nan=True)
    assert np.array_equal(other.residual, tracks.residual, equal_nan=True)


def test_run_5971_agrees_with_its_stored_tracks(detector44):
    with OfflineFile(sample("offline/km3net_offline.root")) as file:
        events, stored = file.events(), file.best_tracks()
    wanted = np.stack([stored[f"dir_{axis}"] for axis in "xyz"], axis=1)
    lines, tracks, doms = reconstruct(calibrated(events.triggered, detector44))
    enough = doms >= 10
    assert enough.sum() == 7
    assert np.median(angles(lines.direction, wanted)[enough]) == pytest.approx(13.9, abs=0.3)
    assert np.median(angles(tracks.direction, wanted)[enough]) == pytest.approx(1.7, abs=0.3)
    assert np.median(angles(tracks.direction, wanted)) == pytest.approx(5.1, abs=0.6)


def test_simulated_tracks_agree_with_the_truth_only_when_t0_is_applied(simulated, detector133):
    events, truth = simulated
    _, tracks, doms = reconstruct(calibrated(events.triggered, detector133))
    assert np.nanmedian(angles(tracks.direction, truth)) == pytest.approx(5.2, abs=0.5)
    assert np.median(angles(tracks.direction, truth)[doms >= 10]) == pytest.approx(2.6, abs=0.3)
    _, wrong, _ = reconstruct(calibrated(events.triggered, detector133, np.zeros_like(detector133.t0)))
    assert np.nanmedian(angles(wrong.direction, truth)) > 45.0


def test_software_trigger_finds_triggered_events_again(slices6884, detector44):
    hits = calibrated(slices6884.rows, detector44)
    found = swtrigger.find_events(hits)
    frames = slices6884.header["frame"][found.slice]
    assert sorted(frames.tolist()) == [366, 367, 370, 373]
    with OnlineFile(sample("online/events_sample.root")) as file:
        keys, events = file.keys(EVENT), file.events()
    assert np.isin(keys.section, slices6884.header["frame"]).sum() == 4
    times = Table({"t": hits["t"][found.triggered["row"]]}, found.triggered.offsets)
    daq = calibrated(events.triggered, detector44)
    run = np.full(len(found), 6884)
    i, j = matches(spans(run, frames, times), spans(events.header["run"], events.header["frame"], daq))
    assert sorted(frames[i].tolist()) == [366, 370]
    assert np.array_equal(events.header["frame"][j], frames[i])


def test_software_trigger_does_not_depend_on_other_slices(slices6884, detector44):
    hits = calibrated(slices6884.rows, detector44)
    every = swtrigger.find_events(hits)
    rows = [every.triggered.event(i)["row"] - hits.offsets[s] for i, s in enumerate(every.slice)]
    alone = [swtrigger.find_events(hits.take(np.array([s]))) for s in range(10)]
    single = [part.triggered.event(i)["row"] for part in alone for i in range(len(part))]
    assert len(rows) == len(single)
    assert all(np.array_equal(a, b) for a, b in zip(rows, single, strict=True))
    assert (every.snapshot.counts >= every.triggered.counts).all()


def coincidence_hits(doms, times, places):
    """Two PMTs hit on each DOM, 2 ns apart."""
    n = len(doms)
    columns = {
        "dom": np.repeat(doms, 2), "channel": np.tile([0, 1], n),
        "t": (np.array(times)[:, None] + [0.0, 2.0]).ravel(),
        **{axis: np.repeat(np.array(places, float)[:, i], 2) for i, axis in enumerate("xyz")},
    }  # fmt: skip
    return Table(columns, np.array([0, 2 * n]))


def test_five_causally_connected_doms_make_an_event():
    places = [(0, 0, 10.0 * i) for i in range(5)]
    good = coincidence_hits(range(5), [100 + 33 * i for i in range(5)], places)
    assert len(swtrigger.find_events(good)) == 1
    too_late = coincidence_hits(range(5), [100, 133, 166, 199, 700], places)
    assert len(swtrigger.find_events(too_late)) == 0
    four = coincidence_hits([0, 1, 2, 3, 3], [100, 133, 166, 199, 230], places)
    assert len(swtrigger.find_events(four)) == 0


def test_one_pmt_hit_twice_is_no_coincidence():
    places = [(0, 0, 10.0 * i) for i in range(5)]
    hits = coincidence_hits(range(5), [100 + 33 * i for i in range(5)], places)
    same = Table({**hits.columns, "channel": np.zeros(10, np.int64)}, hits.offsets)
    assert len(swtrigger.find_events(same)) == 0


def test_an_empty_slice_has_no_events():
    names = ("dom", "channel", "x", "y", "z", "t")
    assert len(swtrigger.find_events(Table({n: np.zeros(0) for n in names}, np.array([0, 0])))) == 0


def test_matches_need_the_same_run_and_frame():
    def span(run, frame, first):
        return Spans(np.array([run]), np.array([frame]), np.array([first]), np.array([first + 100.0]))

    daq = span(1, 5, 1000.0)
    assert len(matches(span(1, 5, 1550.0), daq)[0]) == 1
    for other in (span(1, 5, 1650.0), span(1, 6, 1000.0), span(2, 5, 1000.0)):
        assert len(matches(other, daq)[0]) == 0


def test_first_hits_are_the_earliest_of_each_dom():
    columns = {"dom": np.array([3, 1, 3, 1, 3]), "t": np.array([5.0, 2.0, 4.0, 9.0, 1.0])}
    assert trackfit.first_hits(Table(columns, offsets_of(np.array([3, 2])))).tolist() == [1, 2, 3, 4]
