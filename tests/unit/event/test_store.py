"""Streams into files, collections back into batches, merging of collections."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from beamwright.core.canonical import merkle_root
from beamwright.core.errors import (
    ConflictError,
    FormatError,
    SchemaMismatchError,
    StorageError,
    UnknownNameError,
)
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.rntuple import NTupleFile
from beamwright.event.store import CollectionReader, StreamWriter, merge_collections, read_metadata
from beamwright.event.validate import validate_file
from support.streams import BANKS, LINEAGE, batch, same_batches, write_stream


@pytest.fixture
def whole():
    return batch(3, 0, 2000)


@pytest.fixture
def path(tmp_path, whole):
    write_stream(tmp_path / "whole.root", whole, target=30_000)
    return tmp_path / "whole.root"


@pytest.mark.parametrize("cuts", [[0, 2000], [0, 1, 2, 777, 778, 1999, 2000], [*range(0, 2001, 40)]])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_bytes_do_not_depend_on_batches_or_threads(tmp_path, path, whole, cuts, threads):
    other = tmp_path / "other.root"
    written = write_stream(
        other, *(whole.cut(a, b) for a, b in pairwise(cuts)), target=30_000, threads=threads
    )
    assert other.read_bytes() == path.read_bytes()
    assert (written.events, written.size) == (2000, path.stat().st_size)
    with NTupleFile(other) as file:
        assert len(file.clusters) > 5
        assert str(file.uuid) == written.uuid


def test_batches_come_back_as_they_were_written(path, whole):
    with CollectionReader([path]) as reader:
        assert (reader.series, reader.records(), reader.banks("event")) == (
            "44",
            ("event",),
            ("Head", "Hit", "Track"),
        )
        assert reader.declarations.document() == BANKS.document()
        assert same_batches(reader.read("event", np.arange(2000)), whole)
        for start, stop in ((0, 1), (333, 900), (1999, 2000)):
            assert same_batches(reader.read("event", np.arange(start, stop)), whole.cut(start, stop))


def test_records_with_gaps_between_are_read(path, whole):
    wanted = np.zeros(2000, np.bool_)
    wanted[[0, 5, 6, 700, 1999]] = True
    with CollectionReader([path]) as reader:
        assert same_batches(reader.read("event", np.flatnonzero(wanted)), whole.take(wanted))
        assert reader.read("event", np.zeros(0, np.int64)).n == 0


def test_only_the_banks_asked_for_are_read(path):
    with CollectionReader([path]) as reader:
        found = reader.read("event", np.arange(10), ["Head"])
        assert list(found.tables) == ["Head"]
        with pytest.raises(UnknownNameError, match="Track"):
            reader.read("event", np.arange(10), ["Trak"])
        with pytest.raises(UnknownNameError, match="event"):
            reader.index("slice")


def test_several_files_in_any_order_are_one_collection(tmp_path):
    parts = [batch(4, 0, 300), batch(3, 500, 900), batch(3, 0, 500)]
    paths = [tmp_path / f"{number}.root" for number in range(3)]
    for name, part in zip(paths, parts, strict=True):
        write_stream(name, part)
    with CollectionReader(paths) as reader:
        index = reader.index("event")
        assert index.run.tolist() == [3] * 900 + [4] * 300
        assert same_batches(reader.read("event", np.arange(400, 600)), batch(3, 400, 600))
        assert same_batches(reader.read("event", np.arange(900, 1200)), parts[0])
        assert index.size is not None
        assert int(index.size.min()) > 20


def test_built_records_keep_their_parents(tmp_path):
    part = batch(3, 0, 50, built=True)
    write_stream(tmp_path / "built.root", part, record="swevent", built=True)
    with CollectionReader([tmp_path / "built.root"]) as reader:
        found = reader.read("swevent", np.arange(50))
        assert found.parent_event.tolist() == part.parent_event.tolist()
        assert found.parent_section.tolist() == part.parent_section.tolist()
        assert found.record == "swevent"


def test_the_metadata_say_what_is_in_the_file(tmp_path):
    path = tmp_path / "meta.root"
    with StreamWriter(path, "skim", BANKS, LINEAGE) as writer:
        for part in (batch(3, 10, 20), batch(3, 20, 30), batch(5, 1, 2)):
            writer.write(part)
        writer.close(["44:3:0:11", "44:3:0:12"])
    found = read_metadata(path)
    assert (found.stream, found.series, found.record, found.events, found.runs) == (
        "skim",
        "44",
        "event",
        21,
        (3, 5),
    )
    assert (found.first, found.last) == ((3, 0, 10), (5, 0, 1))
    assert found.lineage == dataclasses.replace(
        LINEAGE, stream="skim", quarantined=("44:3:0:11", "44:3:0:12")
    )
    assert found.banks.document() == BANKS.document()
    assert list(found.banks["Hit"].by_name) == ["t", "dom", "samples", "mother", "head"]


def test_quarantined_keys_change_the_uuid_and_nothing_in_the_pages(tmp_path):
    uuids = set()
    for number, keys in enumerate(([], ["44:3:0:7"])):
        with StreamWriter(tmp_path / f"{number}.root", "dst", BANKS, LINEAGE) as writer:
            writer.write(batch(3, 0, 9))
            uuids.add(writer.close(keys).uuid)
    assert len(uuids) == 2
    assert [validate_file(tmp_path / f"{n}.root")["valid"] for n in (0, 1)] == [True, True]


def test_keys_must_rise(tmp_path):
    with StreamWriter(tmp_path / "x.root", "dst", BANKS, LINEAGE) as writer:
        writer.write(batch(3, 0, 10))
        with pytest.raises(FormatError, match="comes after"):
            writer.write(batch(3, 9, 12))


def test_an_aborted_file_is_gone_and_a_name_is_used_once(tmp_path):
    with StreamWriter(tmp_path / "x.root", "dst", BANKS, LINEAGE) as writer:
        writer.write(batch(3, 0, 10))
    assert not (tmp_path / "x.root").exists()
    write_stream(tmp_path / "x.root", batch(3, 0, 10))
    with pytest.raises(ConflictError, match="x.root exists already"):
        write_stream(tmp_path / "x.root", batch(3, 0, 10))
    with pytest.raises(StorageError, match="No such file") as refused:
        write_stream(tmp_path / "nowhere" / "x.root", batch(3, 0, 10))
    assert refused.value.hint == "make its folder, or write elsewhere"
    assert validate_file(tmp_path / "x.root")["valid"]


def test_a_full_disk_is_named(tmp_path):
    path = tmp_path / "full.root"
    # a limit on the file's size stands for the end of the disk
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(StorageError, match=r"full\.root cannot be written") as caught:
            write_stream(path, batch(3, 0, 5000), target=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.errno == 27
    assert not path.exists()


def test_files_that_do_not_agree_are_no_collection(tmp_path):
    write_stream(tmp_path / "a.root", batch(3, 0, 10))
    other = dataclasses.replace(LINEAGE, series="45")
    write_stream(tmp_path / "b.root", batch(3, 0, 10), lineage=other)
    with pytest.raises(SchemaMismatchError, match="one series and one record kind"):
        CollectionReader([tmp_path / "a.root", tmp_path / "b.root"])
    write_subset(tmp_path / "c.root")
    with pytest.raises(SchemaMismatchError, match="different banks"):
        CollectionReader([tmp_path / "a.root", tmp_path / "c.root"])
    with pytest.raises(FormatError, match="without files"):
        CollectionReader([])


def write_subset(path: Path) -> None:
    with StreamWriter(path, "dst", BANKS.subset(["Head"]), LINEAGE) as writer:
        writer.write(batch(3, 20, 30))
        writer.close()


def test_a_file_without_metadata_is_refused(tmp_path):
    from support.tuples import sample_arrays, write_file

    path = write_file(tmp_path / "plain.root", [sample_arrays(5)])
    with pytest.raises(FormatError, match="no metadata of an event stream"):
        read_metadata(path)


@pytest.mark.forks
def test_a_forked_child_reads_on(path, whole):
    with CollectionReader([path]) as reader:
        reader.index("event")
        child = os.fork()
        if child == 0:
            reader.reopen()
            os._exit(0 if same_batches(reader.read("event", np.arange(500, 700)), whole.cut(500, 700)) else 1)
        assert same_batches(reader.read("event", np.arange(100, 300)), whole.cut(100, 300))
        assert os.waitpid(child, 0)[1] == 0


# --- merging


@pytest.fixture
def parts(tmp_path):
    paths = []
    for number, (run, first, last) in enumerate([(4, 0, 10), (3, 400, 700), (3, 0, 400)]):
        paths.append(tmp_path / f"part{number}.root")
        lineage = dataclasses.replace(LINEAGE, parents=(f"p{number}",), resolved_hash=f"r{number}")
        with StreamWriter(paths[-1], "dst", BANKS, lineage, target=30_000) as writer:
            writer.write(batch(run, first, last))
            writer.close([f"44:{run}:9:{number}"])
    return paths


def test_a_merge_is_in_key_order_whatever_the_order_of_its_inputs(tmp_path, parts):
    one = merge_collections(parts, tmp_path / "one.root", LINEAGE)
    two = merge_collections(parts[::-1], tmp_path / "two.root", LINEAGE)
    assert (one.uuid, one.events, one.size) == (two.uuid, 710, (tmp_path / "two.root").stat().st_size)
    assert (tmp_path / "one.root").read_bytes() == (tmp_path / "two.root").read_bytes()
    assert validate_file(tmp_path / "one.root")["problems"] == []
    found = read_metadata(tmp_path / "one.root")
    assert (found.runs, found.first, found.last, found.events) == ((3, 4), (3, 0, 0), (4, 0, 9), 710)
    assert found.lineage.quarantined == ("44:3:9:1", "44:3:9:2", "44:4:9:0")
    with CollectionReader([tmp_path / "one.root"]) as reader:
        assert same_batches(reader.read("event", np.arange(700)), batch(3, 0, 700))


def test_overlapping_keys_are_not_merged(tmp_path, parts):
    write_stream(tmp_path / "again.root", batch(3, 399, 401))
    with pytest.raises(FormatError, match="overlap"):
        merge_collections([*parts, tmp_path / "again.root"], tmp_path / "merged.root", LINEAGE)


@pytest.mark.parametrize(
    ("field", "value"), [("release", "dev+1"), ("is_mc", True), ("config_hash", "c1"), ("global_tag", "x")]
)
def test_what_does_not_belong_together_is_not_merged(tmp_path, parts, field, value):
    write_stream(
        tmp_path / "other.root", batch(3, 900, 950), lineage=dataclasses.replace(LINEAGE, **{field: value})
    )
    with pytest.raises(SchemaMismatchError, match=f"{field} is"):
        merge_collections([*parts, tmp_path / "other.root"], tmp_path / "merged.root", LINEAGE)


def processed(path, first, last, resolved, interval):
    lineage = dataclasses.replace(LINEAGE, global_tag="g", resolved_hash=resolved, interval=interval)
    write_stream(path, batch(3, first, last), lineage=lineage)
    return path


def test_constants_that_no_version_explains_are_not_merged(tmp_path):
    run, later = ("44", (3, 0, 0), (3, 9, 0)), ("44", (3, 9, 1), (3, 20, 0))
    one = processed(tmp_path / "one.root", 0, 50, "aa", run)
    other = processed(tmp_path / "other.root", 50, 90, "bb", run)
    with pytest.raises(SchemaMismatchError, match=r"different constants: no version of g explains both"):
        merge_collections([one, other], tmp_path / "merged.root", LINEAGE)
    next_one = processed(tmp_path / "next.root", 950, 990, "bb", later)
    last = processed(tmp_path / "last.root", 1990, 1995, "aa", ("44", (3, 19, 0), (3, 30, 0)))
    with pytest.raises(SchemaMismatchError, match=r"last\.root and .*next\.root cover 44:3:19"):
        merge_collections([one, next_one, last], tmp_path / "merged.root", LINEAGE)
    done = merge_collections([next_one, one], tmp_path / "merged.root", LINEAGE)
    found = read_metadata(done.file).lineage
    assert (found.global_tag, found.resolved_hash) == ("g", merkle_root({"aa", "bb"}))
    alone = merge_collections([one], tmp_path / "alone.root", LINEAGE)
    assert read_metadata(alone.file).lineage.resolved_hash == "aa"


def test_other_banks_are_not_merged(tmp_path, parts):
    write_subset(tmp_path / "subset.root")
    with pytest.raises(SchemaMismatchError, match=r"it (lacks|adds) Hit"):
        merge_collections([parts[0], tmp_path / "subset.root"], tmp_path / "merged.root", LINEAGE)


def test_inputs_without_events_are_merged(tmp_path):
    for name in ("a", "b"):
        write_stream(tmp_path / f"{name}.root")
    done = merge_collections([tmp_path / "a.root", tmp_path / "b.root"], tmp_path / "merged.root", LINEAGE)
    assert done.events == 0
    assert validate_file(tmp_path / "merged.root")["valid"]
    assert isinstance(read_metadata(tmp_path / "merged.root").banks, BankSet)
    with CollectionReader([tmp_path / "merged.root"]) as reader:
        assert isinstance(reader.read("event", np.zeros(0, np.int64)), Batch)
        assert len(reader.index("event")) == 0


@pytest.mark.parametrize("count", [30, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_collection_has_more_files_than_a_process_may_open(tmp_path, monkeypatch, count):
    monkeypatch.setattr("beamwright.event.collection.MAX_OPEN", count // 10)
    names = [tmp_path / f"{n}.root" for n in range(count)]
    for n, name in enumerate(names):
        write_stream(name, batch(3, 10 * n, 10 * n + 10))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + count // 10 + 5, limit[1]))
    try:
        with CollectionReader(names[::-1]) as reader:
            found = list(reader.batches(size=1000))
            assert reader["Head.time"].tolist() == [e * 1.5 + 3 for e in range(10 * count)]
            assert reader.read("event", np.array([0, 10 * count - 1])).event.tolist() == [0, 10 * count - 1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert len(os.listdir("/proc/self/fd")) == used
    assert same_batches(Batch.concatenate(found), batch(3, 0, 10 * count))


def test_a_file_that_was_replaced_while_it_rested_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("beamwright.event.collection.MAX_OPEN", 1)
    for n in range(2):
        write_stream(tmp_path / f"{n}.root", batch(3, 10 * n, 10 * n + 10))
    with CollectionReader([tmp_path / "0.root", tmp_path / "1.root"]) as reader:
        (tmp_path / "0.root").unlink()
        write_stream(tmp_path / "0.root", batch(3, 0, 9))
        with pytest.raises(FormatError, match=r"0\.root was replaced while it was read"):
            list(reader.batches())
