"""Resampled events: drawn by seed and key alone, true to their parents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orca.errors import RawDataError
from orca.readers import DstReader, OnlineReader
from orca.resample import BootstrapReader, MixedReader
from support.orca_samples import sample

RAW, DST = "online/events_sample.root", "dst/orca4_sample.root"


def recipe(folder: Path, **content: int) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps({"events": 1200, "source_run": 6884, "seed": 1} | content))
    return path


def mixed(folder: Path, **content: int) -> MixedReader:
    paths = {"daq": sample(RAW), "recipe": recipe(folder, **content)}
    return MixedReader.open(paths, series="44", run=9_006_884)


def columns(batch, bank):
    return {name: getattr(values, "values", values) for name, values in batch[bank].columns.items()}


def test_keys_are_new_and_rise(tmp_path):
    index = mixed(tmp_path).index("event")
    assert len(index) == 1200 and set(index.run.tolist()) == {9_006_884}
    assert index.event.tolist() == list(range(1200)) and index.section[-1] == 2


def test_any_part_read_by_itself_is_the_same(tmp_path):
    reader = mixed(tmp_path)
    whole, part = (
        reader.read("event", np.arange(1200)).cut(700, 709),
        reader.read("event", np.arange(700, 709)),
    )
    for bank in ("EventHeader", "TrigHit", "SnapHit", "Origin"):
        for name, values in columns(whole, bank).items():
            assert np.array_equal(values, columns(part, bank)[name]), (bank, name)


def test_mixed_events_have_the_triggered_hits_of_one_parent_and_noise_of_another(tmp_path):
    batch = mixed(tmp_path, events=50).read("event", np.arange(50))
    source = OnlineReader.open({"daq": sample(RAW)}, series="44", run=6884)
    index = source.index("event")
    parents = source.read("event", np.arange(len(index)))
    row = {
        (s, e): i for i, (s, e) in enumerate(zip(index.section.tolist(), index.event.tolist(), strict=True))
    }
    origin, hits, snap = batch["Origin"], batch["TrigHit"], batch["SnapHit"]
    for i in range(50):
        first = row[int(origin["section"][i]), int(origin["event"][i])]
        second = row[int(origin["noise_section"][i]), int(origin["noise_event"][i])]
        mine = hits["tdc"][hits.offsets[i] : hits.offsets[i + 1]]
        theirs = parents["TrigHit"]
        assert np.array_equal(mine, theirs["tdc"][theirs.offsets[first] : theirs.offsets[first + 1]])
        noise = parents["SnapHit"].counts[second] - theirs.counts[second]
        assert snap.counts[i] == len(mine) + noise
    assert np.array_equal(snap["tdc"][hits.follow("snap", snap)], hits["tdc"])


def test_another_seed_draws_others(tmp_path):
    first = mixed(tmp_path).read("event", np.arange(100))["Origin"]["event"]
    assert not np.array_equal(first, mixed(tmp_path, seed=2).read("event", np.arange(100))["Origin"]["event"])


def test_bootstrapped_dst_events_are_rows_of_their_parents(tmp_path):
    paths = {"dst": sample(DST), "recipe": recipe(tmp_path, events=300, source_run=6370)}
    batch = BootstrapReader.open(paths, series="44", run=9_006_370).read("event", np.arange(300))
    source = DstReader.open({"dst": sample(DST)}, series="44", run=6370)
    index = source.index("event")
    parents = source.read("event", np.arange(len(index)))
    key = index.section.astype(np.int64) * 10_000 + index.event.astype(np.int64)
    rows = np.searchsorted(
        key, batch["Origin"]["section"].astype(np.int64) * 10_000 + batch["Origin"]["event"].astype(np.int64)
    )
    assert np.array_equal(batch["HitCounts"]["hits"], parents["HitCounts"]["hits"][rows])
    assert len(np.unique(rows)) > 250
    assert set(batch["RunHeader"]["run"].tolist()) == {9_006_370}


def test_a_broken_recipe_is_a_clear_error(tmp_path):
    (tmp_path / "recipe.json").write_text('{"events": 3}')
    paths = {"daq": sample(RAW), "recipe": tmp_path / "recipe.json"}
    with pytest.raises(RawDataError, match="no recipe for resampling"):
        MixedReader.open(paths, series="44", run=9_006_884)
