"""Verification finds every flipped bit and every wrong count."""

from __future__ import annotations

import os
import random
import tracemalloc

import numpy as np
import pytest

from beamwright.core.errors import FormatError
from beamwright.event.rntuple import FileWriter, NTupleFile, Schema, collection, leaf, seal_cluster, verify
from beamwright.event.rntuple.tfile import directory_key
from support.tuples import SAMPLE, same_columns, sample_arrays, write_file

FLIPS = int(os.environ.get("BEAMWRIGHT_FUZZ", "250"))


@pytest.fixture
def path(tmp_path):
    return write_file(tmp_path / "sample.root", [sample_arrays(40, 1), sample_arrays(30, 2)], page_bytes=256)


def flipped(path, data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)


def regions(path):
    """Return the byte ranges of the parts of a file by name."""
    with NTupleFile(path) as file:
        at, group = file.anchor, file.groups[0]
        pages = file.clusters[0].columns
        metadata = file.keys[1]
        return {
            "file header": (0, 100),
            "directory": (100, directory_key().end),
            "header": (at.header_offset, at.header_offset + at.header_size),
            "page": (int(pages[0].pages["offset"][0]), int(pages[-1].pages["offset"][-1])),
            "page list": (group.offset, group.offset + group.size),
            "footer": (at.footer_offset, at.footer_offset + at.footer_size),
            "anchor": (file.anchor_key.position, file.anchor_key.end),
            "metadata": (metadata.position, metadata.end),
            "closing records": (metadata.end, file.size),
        }


PARTS = [
    "file header",
    "directory",
    "header",
    "page",
    "page list",
    "footer",
    "anchor",
    "metadata",
    "closing records",
]


@pytest.mark.parametrize("part", PARTS)
def test_a_flip_in_any_part_is_found(path, part):
    data = path.read_bytes()
    start, stop = regions(path)[part]
    bits = list(range(start * 8, stop * 8))
    chosen = bits if len(bits) <= 160 else random.Random(part).sample(bits, 160)
    missed = []
    for bit in chosen:
        flipped(path, data, bit)
        if verify(path).ok:
            missed.append(bit)
    assert missed == []


def test_a_flip_anywhere_is_found_and_never_changes_a_value_that_is_read(path):
    data = path.read_bytes()
    with NTupleFile(path) as file:
        expected = file.read()
    chooser = random.Random(7)
    for _ in range(FLIPS):
        bit = chooser.randrange(len(data) * 8)
        flipped(path, data, bit)
        assert not verify(path).ok, f"bit {bit}"
        try:
            with NTupleFile(path) as file:
                found = file.read()
        except FormatError:
            continue
        assert same_columns(found, expected), f"bit {bit}"


def test_a_whole_file_has_no_problem_and_is_counted(path):
    found = verify(path)
    assert found.ok
    assert (found.n_entries, found.n_clusters, found.own, found.unchecked_pages) == (70, 2, True, 0)
    assert len(found.checksums) == 8 * found.n_pages


def test_bytes_behind_the_end_are_found(path):
    with path.open("ab") as file:
        file.write(b"more")
    assert "4 bytes follow the end" in verify(path).problems[0]


def test_metadata_of_another_file_is_found(tmp_path):
    paths = [write_file(tmp_path / f"{n}.root", [sample_arrays(20, n)]) for n in range(2)]
    records = []
    for path in paths:
        with NTupleFile(path) as file:
            records.append((file.keys[1].position, file.keys[1].end))
    (start, stop), (other_start, other_stop) = records
    assert stop - start == other_stop - other_start
    data = bytearray(paths[0].read_bytes())
    payload = slice(start + 70, stop)
    data[payload] = paths[1].read_bytes()[other_start + 70 : other_stop]
    paths[0].write_bytes(data)
    assert "seal" in verify(paths[0]).problems[0]


def forged(path, schema, arrays, change):
    """Write a file whose checksums hold and whose counts do not."""
    sealed = seal_cluster(schema, arrays)
    with path.open("wb") as out:
        writer = FileWriter(out, schema)
        change(sealed, writer)
        writer.close({})
    return path


HITS = Schema([leaf("x", "i4"), collection("Hit", [leaf("t", "f4"), leaf("q", "f4")])])


def hits(counts, rows=None):
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = np.arange(offsets[-1] if rows is None else rows).astype("f4")
    return {"x": np.arange(len(counts), dtype="i4"), "Hit@0": offsets, "Hit.t": values, "Hit.q": values}


def test_columns_of_unequal_length_are_found(tmp_path):
    def change(sealed, writer):
        at = int(sealed.counts[:2].sum())
        sealed.pages["elements"][at] += 1
        sealed.elements[2] -= 1
        writer.append(sealed)

    found = verify(forged(tmp_path / "x.root", HITS, hits([2, 3]), change))
    assert "Hit.t has 4 elements in cluster 0, 5 are counted" in found.problems[0]


def test_a_wrong_number_of_events_is_found(tmp_path):
    def change(sealed, writer):
        writer.append(sealed)
        writer.clusters[0].n_entries = 3

    found = verify(forged(tmp_path / "x.root", HITS, hits([2, 3]), change))
    assert "x has 2 elements in cluster 0, 3 are counted" in found.problems[0]


def test_a_wrong_first_element_is_found(tmp_path):
    def change(sealed, writer):
        writer.append(sealed)
        writer.append(sealed)
        writer.clusters[1].columns[2].first = 4

    found = verify(forged(tmp_path / "x.root", HITS, hits([2, 3]), change))
    assert "Hit.t begins wrongly in cluster 1" in found.problems[0]


@pytest.mark.parametrize("column", range(len(HITS.columns)))
@pytest.mark.parametrize("elements", [2**31 - 1, 2**24])
def test_pages_that_claim_more_than_they_can_hold_are_found_for_little_memory(tmp_path, column, elements):
    def change(sealed, writer):
        sealed.pages["elements"][int(sealed.counts[:column].sum())] = -elements
        sealed.elements[column] = elements
        writer.append(sealed)
        if HITS.columns[column].parent < 0:
            writer.clusters[0].n_entries = elements

    name = forged(tmp_path / "x.root", HITS, hits([2, 3]), change)
    tracemalloc.start()
    try:
        assert verify(name).problems
        with NTupleFile(name) as file, pytest.raises(FormatError):
            file.read([HITS.columns[column].key])
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("last", [2**28, 2**40, 2**62])
def test_offsets_that_count_what_is_not_there_are_found_for_little_memory(tmp_path, monkeypatch, last):
    arrays = hits([2, 3])
    arrays["Hit@0"][-1] = last
    monkeypatch.setattr(
        "beamwright.event.rntuple.cluster.check_columns",
        lambda schema, given: [given[column.key] for column in schema.columns],
    )
    name = forged(tmp_path / "x.root", HITS, arrays, lambda sealed, writer: writer.append(sealed))
    tracemalloc.start()
    try:
        assert f"Hit.t has 5 elements in cluster 0, {last} are counted" in verify(name).problems[0]
        with NTupleFile(name) as file, pytest.raises(FormatError, match="Hit.t has too few elements"):
            file.read(["Hit.t"])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_problems_name_column_cluster_page_and_place(path):
    with NTupleFile(path) as file:
        _, column = file.stored(SAMPLE.index["Hit.t"], 1)
        offset = int(column.pages["offset"][0])
    flipped(path, path.read_bytes(), offset * 8 + 5)
    problem = verify(path).problems[0]
    assert f"page 0 of column Hit.t in cluster 1 (byte {offset})" in problem
