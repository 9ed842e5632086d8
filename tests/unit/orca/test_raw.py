"""Online files decode to the hits that are in them, and damaged ones say what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orca.errors import RawDataError
from orca.raw import EVENT, L1, SN, SUMMARY, OnlineFile, packets, rate_hz
from support.orca_samples import sample

RUN_25291 = "online/KM3NeT_00000267_00025291_JDAQEvent_JDAQSummaryslice.root"
EVENT_FILES = {
    "online/km3net_online.root": (6633, 3, 80, 298),
    "online/events_sample.root": (6884, 10, 352, 1078),
    RUN_25291: (25291, 13, 322, 9678),
    "online/muon_cc_daqevents.root": (13339, 250, 141_244, 319_713),
    "online/KM3NeT_00000133_JDAQEvent.root": (13340, 10, 1769, 9144),
}
SLICE_FILES = {
    ("online/km3net_online.root", L1): (3, 147_463),
    ("online/events_sample.root", L1): (10, 456_453),
    ("online/KM3NeT_00000267_00025291_L1.root", L1): (3, 503_333),
    ("online/KM3NeT_00000267_00025291_SN.root", SN): (100, 94_341),
}


@pytest.mark.parametrize("name", EVENT_FILES)
def test_events_have_their_hits(name):
    run, n, triggered, snapshot = EVENT_FILES[name]
    with OnlineFile(sample(name)) as file:
        events = file.events()
    assert set(events.header["run"]) == {run}
    assert (len(events.triggered), len(events.snapshot)) == (n, n)
    assert (events.triggered.offsets[-1], events.snapshot.offsets[-1]) == (triggered, snapshot)
    assert events.snapshot["channel"].max() <= 30


@pytest.mark.parametrize("name", EVENT_FILES)
def test_every_triggered_hit_is_in_its_snapshot(name):
    with OnlineFile(sample(name)) as file:
        events = file.events()
    names = ("dom_id", "channel", "tdc", "tot")
    for i in range(len(events.triggered)):
        triggered, snapshot = events.triggered.event(i), events.snapshot.event(i)
        there = set(zip(*(snapshot[n].tolist() for n in names), strict=True))
        assert there.issuperset(zip(*(triggered[n].tolist() for n in names), strict=True))


@pytest.mark.parametrize(("name", "kind"), SLICE_FILES)
def test_slices_have_their_hits_in_both_forms(name, kind):
    with OnlineFile(sample(name)) as file:
        slices = file.slices(kind)
    n, hits = SLICE_FILES[name, kind]
    assert (len(slices.rows), slices.rows.offsets[-1]) == (n, hits)
    assert slices.rows["channel"].max() <= 30
    assert slices.rows["tdc"].max() < 100_000_000
    assert (slices.rows["dom_id"] > 800_000_000).all()


def test_a_chosen_slice_equals_its_part_of_all():
    for name in ("online/events_sample.root", "online/KM3NeT_00000267_00025291_L1.root"):
        with OnlineFile(sample(name)) as file:
            every, chosen = file.slices(L1), file.slices(L1, np.array([2, 0]))
        for i, entry in enumerate((2, 0)):
            assert chosen.header["frame"][i] == every.header["frame"][entry]
            for column, values in every.rows.event(entry).items():
                assert np.array_equal(chosen.rows.event(i)[column], values)


def test_an_empty_slice_has_no_hits():
    with OnlineFile(sample("online/KM3NeT_00000267_00025291_SN.root")) as file:
        assert file.slices(SN, np.array([0])).rows.offsets.tolist() == [0, 0]


def test_keys_come_in_order_whatever_the_order_in_the_file():
    with OnlineFile(sample("online/events_sample.root")) as file:
        keys, header = file.keys(EVENT), file.events().header
    assert header["frame"][:6].tolist() == [366, 366, 376, 359, 386, 360]
    assert keys.section.tolist() == sorted(header["frame"].tolist())
    assert header["frame"][keys.entry].tolist() == keys.section.tolist()
    pairs = list(zip(keys.section.tolist(), keys.event.tolist(), strict=True))
    assert pairs == sorted(set(pairs))


def test_l1_frames_of_run_6884_overlap_four_of_its_events():
    with OnlineFile(sample("online/events_sample.root")) as file:
        slices, events = file.keys(L1), file.keys(EVENT)
    assert slices.section.tolist() == list(range(364, 374))
    assert np.isin(events.section, slices.section).sum() == 4


def test_a_file_tells_its_kinds():
    with OnlineFile(sample(RUN_25291)) as file:
        assert file.kinds() == (EVENT, SUMMARY)
        assert file.count(L1) == 0


def test_summary_slices_carry_rates_and_packets():
    with OnlineFile(sample(RUN_25291)) as file:
        slices = file.summaries()
    assert len(slices.rows) == 13
    _, complete = packets(slices.rows["dq"])
    assert complete.mean() == pytest.approx(0.983, abs=0.001)
    assert slices.rows["rate"].shape == (5536, 31)


def test_rate_bytes_span_2_khz_to_2_mhz():
    assert rate_hz(np.array([0, 255], np.uint8)).tolist() == [0.0, pytest.approx(2e6)]
    assert rate_hz(np.array([1], np.uint8))[0] == pytest.approx(2000 * 1000 ** (1 / 255))


def test_simulation_bit_of_the_trigger_mask_is_cleared():
    with OnlineFile(sample("online/muon_cc_daqevents.root")) as file:
        assert file.events().header["trigger_mask"].max() < 1 << 31


def test_a_missing_tree_is_named_with_what_there_is():
    with (
        OnlineFile(sample(RUN_25291)) as file,
        pytest.raises(RawDataError, match=r"no KM3NET_TIMESLICE_L1.*KM3NET_EVENT"),
    ):
        file.slices(L1)


def test_an_entry_that_is_not_there_is_refused():
    with (
        OnlineFile(sample(RUN_25291)) as file,
        pytest.raises(RawDataError, match="entry 99 asked for, 13 there"),
    ):
        file.events(np.array([99]))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.98])
def test_a_truncated_file_is_a_clear_error(tmp_path: Path, share: float):
    whole = sample("online/km3net_online.root").read_bytes()
    cut = tmp_path / "cut.root"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RawDataError, match=r"cut\.root.*(not a readable ROOT file|truncated)"):
        with OnlineFile(cut) as file:
            file.events()
            file.slices(L1)


def test_a_missing_file_is_a_clear_error(tmp_path: Path):
    with pytest.raises(RawDataError, match="no such file"):
        OnlineFile(tmp_path / "none.root")
