"""A stream that goes on in another file after so many events or bytes."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from beamwright.core.errors import ConflictError, FormatError, UsageError
from beamwright.core.runs import Interval
from beamwright.event.loop import run_path
from beamwright.event.path import Output, Path
from beamwright.event.pointer import PointerWriter
from beamwright.event.sources import SourceFiles
from beamwright.event.splitting import parts_of, split_file
from beamwright.event.store import CollectionReader, Split, StreamWriter, merge_collections, read_metadata
from beamwright.event.validate import validate_file
from support.streams import BANKS, LINEAGE, batch, same_batches, write_stream


def write(folder, split, batches, quarantined=(), **options):
    folder.mkdir(exist_ok=True)
    with StreamWriter(folder / "dst.root", "dst", BANKS, LINEAGE, split=split, **options) as writer:
        for part in batches:
            writer.write(part)
        return writer.close(quarantined)


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_files_end_after_so_many_events_whatever_the_batches(tmp_path, size):
    whole = batch(3, 0, 250)
    cuts = [*range(0, 250, size), 250]
    written = write(tmp_path / str(size), Split(events=100), [whole.cut(a, b) for a, b in pairwise(cuts)])
    assert [part.events for part in written.parts] == [100, 100, 50]
    assert (written.events, written.file) == (250, written.parts[0].file)
    once = write(tmp_path / "once", Split(events=100), [whole], threads=3)
    for part, other in zip(written.parts, once.parts, strict=True):
        assert part.file.read_bytes() == other.file.read_bytes()
        assert validate_file(part.file)["problems"] == []
    with CollectionReader([part.file for part in written.parts]) as reader:
        assert same_batches(reader.read("event", np.arange(250)), whole)


def test_a_full_last_file_is_followed_by_no_empty_one(tmp_path):
    assert [p.events for p in write(tmp_path / "a", Split(events=50), [batch(3, 0, 100)]).parts] == [50, 50]
    (only,) = write(tmp_path / "b", Split(events=50), []).parts
    assert (only.events, validate_file(only.file)["problems"]) == (0, [])


def test_files_stay_below_so_many_bytes_and_merge_to_what_was_not_split(tmp_path):
    parts = [batch(3, 0, 2000), batch(4, 0, 1000)]
    written = write(tmp_path / "split", Split(bytes=7_000), parts, target=30_000)
    assert len(written.parts) > 2 and sum(part.events for part in written.parts) == 3000
    assert all(part.size < 7_000 + 6_000 for part in written.parts)
    whole = write(tmp_path / "whole", Split(), parts, target=30_000)
    assert whole.parts == ()
    names = [part.file for part in written.parts]
    lineage = dataclasses.replace(LINEAGE, stream="dst")
    merged = merge_collections(names, tmp_path / "merged.root", lineage, target=30_000)
    assert merged.file.read_bytes() == whole.file.read_bytes()


def test_each_quarantined_key_is_told_by_one_file(tmp_path):
    keys = ("44:3:0:5", "44:3:0:99", "44:3:1:100", "44:9:0:0")
    batches = [batch(3, 0, 250).take(~np.isin(np.arange(250), [5, 99, 100]))]
    written = write(tmp_path / "q", Split(events=100), batches, keys)
    shares = [read_metadata(part.file).lineage.quarantined for part in written.parts]
    assert shares == [keys[:3], (), keys[3:]]
    merged = merge_collections([part.file for part in written.parts], tmp_path / "m.root", LINEAGE)
    assert read_metadata(merged.file).lineage.quarantined == keys


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(FormatError, match="comes after"):
        write(tmp_path / "x", Split(events=10), [batch(3, 0, 35), batch(3, 20, 30)])
    assert list((tmp_path / "x").iterdir()) == []


def test_each_file_of_a_split_pointer_skim_names_its_own_sources(tmp_path):
    names = [tmp_path / "a.root", tmp_path / "b.root"]
    write_stream(names[0], batch(3, 0, 60))
    write_stream(names[1], batch(3, 60, 100))
    with CollectionReader(names) as reader:
        made = PointerWriter(
            tmp_path / "p.root", "dst", BANKS, LINEAGE, parents=reader, borrow=BANKS, split=Split(events=40)
        )
        with made as writer:
            for part in reader.batches():
                writer.write(part)
            written = writer.close()
    found = [validate_file(part.file, sources=SourceFiles.of(names))["problems"] for part in written.parts]
    assert found == [[], [], []]
    assert [len(read_metadata(part.file).sources) for part in written.parts] == [1, 2, 1]
    again = split_file(written.parts[1].file, tmp_path / "again.root", Split(events=20))
    assert [len(read_metadata(part.file).sources) for part in again] == [1, 1]
    assert all(validate_file(p.file, sources=SourceFiles.of(names))["valid"] for p in again)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path, Split(), [batch(3, 0, 2000), batch(4, 0, 1000)], ("44:3:1:500", "44:4:0:7"),
                 target=30_000).file  # fmt: skip


def test_a_file_that_is_there_splits_as_if_it_had_been_written_so(tmp_path, source):
    for split in (Split(bytes=7_000), Split(events=1000), Split(events=700, bytes=9000)):
        found = split_file(source, tmp_path / f"{split.events}-{split.bytes}.root", split)
        assert sum(part.events for part in found) == 3000 and len(found) > 2
        if split.events:
            assert max(part.events for part in found) <= split.events
        assert [validate_file(part.file)["problems"] for part in found] == [[]] * len(found)
        assert parts_of(source, split) == [part.events for part in found]
        with CollectionReader([part.file for part in found]) as parts, CollectionReader([source]) as whole:
            for one, other in zip(parts.batches(), whole.batches(), strict=True):
                assert same_batches(one, other)
    written = write(tmp_path / "split", Split(bytes=7_000), [batch(3, 0, 2000), batch(4, 0, 1000)],
                    ("44:3:1:500", "44:4:0:7"), target=30_000)  # fmt: skip
    sized = sorted(tmp_path.glob("0-7000.*"))
    assert [part.file.read_bytes() for part in written.parts] == [path.read_bytes() for path in sized]


def test_what_was_split_by_size_merges_to_the_file_that_it_was(tmp_path, source):
    parts = split_file(source, tmp_path / "part.root", Split(bytes=7_000))
    lineage = dataclasses.replace(LINEAGE, stream="dst")
    merged = merge_collections([p.file for p in parts], tmp_path / "m.root", lineage, target=30_000)
    assert merged.file.read_bytes() == source.read_bytes()


def test_splitting_shares_out_runs_keys_and_quarantine(tmp_path, source):
    found = [read_metadata(part.file) for part in split_file(source, tmp_path / "p.root", Split(events=2000))]
    assert [(m.first, m.last, m.runs) for m in found] == [
        ((3, 0, 0), (3, 19, 1999), (3,)),
        ((4, 0, 0), (4, 9, 999), (4,)),
    ]
    assert [m.lineage.quarantined for m in found] == [("44:3:1:500",), ("44:4:0:7",)]


def test_a_part_that_is_there_is_kept_and_no_other_is_left(tmp_path, source):
    (tmp_path / "p.0002.root").write_text("kept")
    with pytest.raises(ConflictError, match="p.0002.root exists already"):
        split_file(source, tmp_path / "p.root", Split(events=1000))
    assert [path.name for path in tmp_path.glob("p.*")] == ["p.0002.root"]
    with pytest.raises(UsageError, match="neither events nor bytes"):
        split_file(source, tmp_path / "p.root", Split())


def test_an_empty_file_is_one_part(tmp_path):
    empty = write(tmp_path, Split(), []).file
    (part,) = split_file(empty, tmp_path / "e.root", Split(events=5))
    assert (part.events, validate_file(part.file)["problems"]) == (0, [])


def test_a_path_splits_its_outputs(tmp_path):
    write_stream(tmp_path / "in.root", batch(3, 0, 90))
    path = Path("copy", "event", [], [Output("dst", ("Head",), split=Split(events=40))])
    with CollectionReader([tmp_path / "in.root"]) as reader:
        result = run_path(
            path, reader, Interval.runs("44", 0, 9), banks=BANKS, outputs={"dst": tmp_path / "out.root"},
            lineage=lambda _: LINEAGE,
        )  # fmt: skip
    assert [part.file.name for part in result.written["dst"].parts] == [f"out.000{n}.root" for n in (1, 2, 3)]
    assert result.ledger[0]["written"] == 90
