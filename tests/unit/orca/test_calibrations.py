"""The three calibrations reproduce what the real runs contain, and merge exactly."""

from __future__ import annotations

import numpy as np
import pytest

from orca import channelmap, toffsets, tot
from orca.jagged import Table, offsets_of
from orca.raw import OnlineFile
from orca.tally import merge, tally
from support.orca_samples import sample

SECOND_HALF = np.arange(5, 10)
"""Entries of run 6884 that no fit here has seen."""


def collect_pairs(hits, detector):
    return toffsets.collect(hits, detector.rows(hits["dom_id"]), detector.direction, detector.dom_id)


def collect_tot(hits):
    return tot.collect(hits["dom_id"], hits["tot"])


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def first(slices6884, detector44):
    return collect_pairs(slices6884.rows.take(np.arange(5)), detector44)


@pytest.fixture(scope="module")
def second(slices6884, detector44):
    return collect_pairs(slices6884.rows.take(SECOND_HALF), detector44)


@pytest.fixture(scope="module")
def from_6633(slices6633, detector44):
    pairs = collect_pairs(slices6633.rows, detector44)
    return toffsets.fit(pairs, toffsets.TimeOffsets.zero(detector44.dom_id))


@pytest.fixture(scope="module")
def answer_key(detector44):
    offset = detector44.t0 - detector44.mean_t0()
    return toffsets.TimeOffsets(detector44.dom_id, offset, np.zeros(len(detector44), np.int64))


def test_tallies_add_up_whatever_the_split():
    rng = np.random.default_rng(7)
    key, value = rng.integers(0, 50, 1000), rng.integers(0, 9, 1000)
    whole = tally(key, n=value)
    parts = [tally(key[i::3], n=value[i::3]) for i in range(3)]
    assert_equal(merge(merge(parts[0], parts[1]), parts[2]), whole)
    assert_equal(merge(parts[2], merge(parts[1], parts[0])), whole)
    assert_equal(merge(whole, tally(key[:0], n=value[:0])), whole)


def test_accumulators_of_any_split_have_equal_bits(slices6884, detector44, first, second):
    assert_equal(merge(second, first), collect_pairs(slices6884.rows, detector44))
    whole = collect_tot(slices6884.rows)
    parts = [collect_tot(slices6884.rows.take(np.array([i]))) for i in range(10)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)
    assert_equal(merged, whole)


def test_tot_has_its_mode_at_27_ns_and_its_mean_at_25(slices6633, slices6884):
    for slices in (slices6633, slices6884):
        assert np.bincount(slices.rows["tot"])[15:40].argmax() + 15 == 27
        mean, _ = tot.spread(collect_tot(slices.rows))
        assert mean == pytest.approx(25.145, abs=0.02)


def test_scales_of_run_6633_narrow_the_spread_in_run_6884(slices6633, slices6884, detector44):
    scales = tot.fit(collect_tot(slices6633.rows), tot.TotScales.unity(detector44.dom_id))
    counts = collect_tot(slices6884.rows)
    assert tot.spread(counts)[1] == pytest.approx(0.350, abs=0.005)
    assert tot.spread(counts, scales)[1] == pytest.approx(0.196, abs=0.005)
    assert tot.problems(scales) == []


def test_a_dom_with_few_hits_keeps_its_scale():
    previous = tot.TotScales(np.array([5, 9]), np.array([1.1, 0.9]), np.zeros(2, np.int64))
    counts = tot.collect(np.full(100, 5), np.full(100, 27, np.uint8))
    assert tot.fit(counts, previous).scale.tolist() == [1.1, 0.9]


def test_a_wild_scale_is_a_problem():
    wild = tot.TotScales(np.array([5]), np.array([1.4]), np.array([1000]))
    assert tot.problems(wild) == ["the scale of DOM 5 is 1.400"]


def test_width_improves_from_run_to_run_towards_the_answer_key(
    first, second, from_6633, answer_key, detector44
):
    rolled = toffsets.fit(first, from_6633)
    none = toffsets.TimeOffsets.zero(detector44.dom_id)
    widths = [toffsets.width(second, c).sigma for c in (none, from_6633, rolled, answer_key)]
    assert widths == pytest.approx([3.54, 3.33, 3.10, 2.80], abs=0.02)


def test_fitted_offsets_come_nearer_to_the_answer_key(first, from_6633, answer_key, detector44):
    rolled = toffsets.fit(first, from_6633)
    none = toffsets.TimeOffsets.zero(detector44.dom_id)
    distances = [toffsets.rms_difference(c, answer_key) for c in (none, from_6633, rolled)]
    assert distances == pytest.approx([1.587, 1.417, 1.260], abs=0.01)
    assert toffsets.problems(rolled, from_6633) == []


def test_offsets_have_zero_mean_on_every_dom(from_6633):
    assert np.abs(from_6633.offset.mean(axis=1)).max() < 1e-12


def test_a_weak_prior_makes_it_worse(monkeypatch, slices6633, second, from_6633, detector44):
    monkeypatch.setattr(toffsets, "PRIOR_FIRST_NS", 50.0)
    zero = toffsets.TimeOffsets.zero(detector44.dom_id)
    free = toffsets.fit(collect_pairs(slices6633.rows, detector44), zero)
    assert toffsets.width(second, free).sigma > toffsets.width(second, from_6633).sigma


def test_doms_without_pairs_keep_their_offsets(first, from_6633, detector44):
    grown = from_6633.extended(np.array([1]))
    grown.offset[0] = 0.25
    assert toffsets.fit(first, grown).offset[0].tolist() == [0.25] * 31


def test_wild_offsets_are_problems(answer_key):
    wild = toffsets.TimeOffsets(answer_key.dom_id, answer_key.offset * 20, answer_key.pairs)
    texts = toffsets.problems(wild, answer_key)
    assert len(texts) == 2 and "larger than 12.0 ns" in texts[0] and "moved by" in texts[1]


def test_known_offsets_are_found_again_in_made_up_pairs():
    rng = np.random.default_rng(3)
    direction = rng.normal(size=(1, 31, 3))
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    true = rng.normal(0.0, 1.5, 31)
    true -= true.mean()
    n = 60_000
    a = rng.integers(0, 31, n)
    b = (a + rng.integers(1, 31, n)) % 31
    start = np.arange(n) * 1000.0 + 500.0
    jitter = rng.normal(0.0, 3.0 / 2**0.5, (n, 2))
    times = start[:, None] + jitter - np.stack([true[a], true[b]], axis=1)
    columns = {
        "dom_id": np.full(2 * n, 77), "channel": np.stack([a, b], axis=1).ravel(),
        "tdc": np.round(times).astype(np.uint32).ravel(), "tot": np.full(2 * n, 27),
    }  # fmt: skip
    hits = Table(columns, np.array([0, 2 * n]))
    pairs = toffsets.collect(hits, np.zeros(2 * n, np.int64), direction, np.array([77]))
    fitted = toffsets.fit(pairs, toffsets.TimeOffsets.zero(np.array([77])))
    assert fitted.offset[0] == pytest.approx(true, abs=0.25)


def test_a_pair_with_a_third_hit_near_is_left_out():
    def pairs(tdc, channel, tot_ns):
        n = len(tdc)
        columns = {
            "dom_id": np.full(n, 7),
            "channel": channel,
            "tdc": np.array(tdc, np.uint32),
            "tot": np.array(tot_ns),
        }
        hits = Table({k: np.asarray(v) for k, v in columns.items()}, np.array([0, n]))
        direction = np.tile([0.0, 0.0, 1.0], (1, 31, 1))
        return toffsets.decode(toffsets.collect(hits, np.zeros(n, np.int64), direction, np.array([7])))

    assert pairs([100, 110], [4, 2], [20, 20]).dt.tolist() == [10]  # channel 2 is later: +10
    assert len(pairs([100, 110, 130], [4, 2, 3], [20, 20, 20]).dt) == 0
    assert len(pairs([100, 110, 130], [4, 2, 3], [20, 20, 9]).dt) == 1  # the small third pulse does not count
    assert len(pairs([100, 110], [4, 4], [20, 20]).dt) == 0
    assert len(pairs([100, 126], [4, 2], [20, 20]).dt) == 0


def test_no_pairs_have_no_width(from_6633):
    empty = tally(np.zeros(0, np.int64), pairs=np.zeros(0, np.int64))
    assert np.isnan(toffsets.width(empty, from_6633).sigma)
    assert np.array_equal(toffsets.fit(empty, from_6633).offset, from_6633.offset)


CHANNEL_FILES = {
    "online/km3net_online.root": (9374, 16, 3, 262, 2108),
    "online/KM3NeT_00000267_00025291_JDAQEvent_JDAQSummaryslice.root": (5495, 3, 140, 4, 14_074),
}


def channel_sums(name, keep_vetoed=False):
    with OnlineFile(sample(name)) as file:
        rows = file.summaries().rows
    veto = np.zeros_like(rows["hrv"]) if keep_vetoed else rows["hrv"]
    return channelmap.collect(rows["dom_id"], rows["rate"], veto)


def no_map():
    return channelmap.ChannelMap.all_good(np.zeros(0, np.int64))


@pytest.mark.parametrize("name", CHANNEL_FILES)
def test_channel_map_finds_hot_and_dead_channels(name):
    median, hot, dead, vetoed, size = CHANNEL_FILES[name]
    found = channelmap.fit(channel_sums(name), no_map())
    counts = [found.count(s) for s in (channelmap.HOT, channelmap.DEAD, channelmap.NO_DATA)]
    assert (counts, found.status.size) == ([hot, dead, vetoed], size)
    assert found.median == pytest.approx(median, abs=1)
    assert channelmap.problems(found) == []


def test_vetoed_entries_would_look_hot():
    for name, hot, dead in zip(CHANNEL_FILES, (240, 14), (3, 140), strict=True):
        found = channelmap.fit(channel_sums(name, keep_vetoed=True), no_map())
        assert (found.count(channelmap.HOT), found.count(channelmap.DEAD)) == (hot, dead)


def test_run_6884_has_too_few_doms_for_a_map():
    assert channelmap.doms_with_data(channel_sums("online/events_sample.root")) == 2 < channelmap.MIN_DOMS


def test_masked_hits_are_those_of_hot_and_dead_channels():
    found = channelmap.fit(channel_sums("online/km3net_online.root"), no_map())
    row, channel = np.nonzero(found.status == channelmap.HOT)
    assert found.masked(found.dom_id[row], channel).all()
    row, channel = np.nonzero(found.status == channelmap.NO_DATA)
    assert not found.masked(found.dom_id[row], channel).any()
    assert not found.masked(np.array([1]), np.array([0])).any()
    assert not no_map().masked(np.array([1]), np.array([0])).any()


def test_a_dom_that_sent_nothing_keeps_its_status():
    previous = channelmap.ChannelMap.all_good(np.array([1]))
    previous.status[0, 3] = channelmap.HOT
    found = channelmap.fit(channel_sums("online/km3net_online.root"), previous)
    assert found.masked(np.array([1]), np.array([3])).all()


def test_offsets_of_counts_and_empty_tables():
    assert offsets_of(np.array([2, 0, 1])).tolist() == [0, 2, 2, 3]
    assert len(tot.dom_means(tot.collect(np.zeros(0, np.int64), np.zeros(0, np.uint8)))[0]) == 0
