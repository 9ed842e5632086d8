"""Flipped bits and cut files: a column that is read is right or refused, and validation finds every fault."""

from __future__ import annotations

import random

import numpy as np
import pytest

from beamwright.core.errors import BeamwrightError
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.pointer import PointerWriter
from beamwright.event.rntuple import NTupleFile
from beamwright.event.rntuple.file import page_extents
from beamwright.event.rntuple.tfile import directory_key
from beamwright.event.sources import SourceFiles
from beamwright.event.store import CollectionReader, StreamWriter
from beamwright.event.table import Table
from beamwright.event.validate import validate_file
from support import wide
from support.streams import BANKS, LINEAGE, batch, same_batches

ALL = BankSet([*BANKS.values(), wide.BANKS["Row"]])
"""Links of both kinds, also to banks with one row, text, booleans, lists of lists."""
MANY = pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def events(run, first, last, *, is_empty=False):
    """Return events with every kind of column; or with rows in none but the bank that has one of them."""
    found = batch(run, first, last)
    tables = dict(found.tables) | {"Row": wide.sample(last - first)["Row"]}
    if is_empty:
        tables |= {name: Table.empty(ALL[name], found.n) for name in ("Hit", "Track", "Row")}
    return Batch("event", "44", run, found.section, found.event, tables, banks=ALL)


@pytest.fixture(scope="module")
def data(folder):
    """A file of several clusters, one of them without a row in most columns, one half empty."""
    with StreamWriter(folder / "good.root", "dst", ALL, LINEAGE, target=4_000) as writer:
        for part in (events(3, 0, 20), events(3, 20, 360, is_empty=True), events(4, 0, 8)):
            writer.write(part)
        writer.close()
    with NTupleFile(folder / "good.root") as file:
        rows = [file.read(["Hit"], c.first_entry, c.first_entry + c.n_entries) for c in file.clusters]
        assert 0 in (len(columns["Hit.t"]) for columns in rows) and len(rows) > 4
    return (folder / "good.root").read_bytes()


def banks_read(path):
    """Return what each bank, read by itself, gives: batches, or nothing where it is refused."""
    found = {}
    for bank in ALL:
        try:
            with CollectionReader([path]) as reader:
                found[bank] = list(reader.batches([bank]))
        except BeamwrightError:
            continue
    return found


def flipped(data, chooser):
    bit = chooser.randrange(len(data) * 8)
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bit, bytes(damaged)


@MANY
def test_a_flip_is_found_and_each_bank_is_right_or_refused(folder, data, count):
    expected = banks_read(folder / "good.root")
    assert len(expected) == 4
    chooser, target = random.Random(count), folder / f"flipped{count}.root"
    refused = 0
    for _ in range(count):
        bit, damaged = flipped(data, chooser)
        target.write_bytes(damaged)
        assert not validate_file(target)["valid"], f"bit {bit}"
        for bank, batches in banks_read(target).items():
            pairs = zip(batches, expected[bank], strict=True)
            assert all(same_batches(one, other) for one, other in pairs), f"bit {bit}, bank {bank}"
            refused -= 1
        refused += 4
    assert refused > count // 4


def regions(path):
    """Return the byte ranges of each part of a file; together they are all of it."""
    with NTupleFile(path) as file:
        at = file.anchor
        keys = {key.name: (key.data, key.end) for key in file.keys}
        extents = [page_extents(c.pages) for cluster in file.clusters for c in cluster.columns]
        found = {
            "head": [(0, 100)],
            "directory": [(100, directory_key().end)],
            "header": [(at.header_offset, at.header_offset + at.header_size)],
            "footer": [(at.footer_offset, at.footer_offset + at.footer_size)],
            "page list": [(group.offset, group.offset + group.size) for group in file.groups],
            "pages": [(start, start + size) for column in extents for start, size, _ in column],
            "checksums of pages": [(start + size, end) for column in extents for start, size, end in column],
            "anchor": [keys[file.name]],
            "metadata": [keys["metadata"]],
        }
        known = np.zeros(file.size, np.bool_)
    for start, stop in [part for parts in found.values() for part in parts]:
        assert start < stop and not known[start:stop].any()
        known[start:stop] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[1], known, [1]])))
    found["records around them"] = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    return found


@MANY
@pytest.mark.parametrize("kind", ["banks", "wide"])
def test_a_flip_in_any_part_of_a_file_is_found(folder, data, kind, count):
    good = folder / ("good.root" if kind == "banks" else f"wide{count}.root")
    if kind == "wide":
        wide.write(good, wide.sample(60), target=4_000)
    assert validate_file(good)["valid"]
    whole, parts, chooser = good.read_bytes(), regions(good), random.Random(count)
    assert len(parts) == 10 and sum(b - a for part in parts.values() for a, b in part) == len(whole)
    target, flips = folder / f"part{count}.root", 0
    for name, part in parts.items():
        places = np.concatenate([np.arange(start, stop) for start, stop in part])
        for place in chooser.choices(places.tolist(), k=count // len(parts)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << chooser.randrange(8)
            target.write_bytes(damaged)
            assert not validate_file(target)["valid"], f"{name}, byte {place}"
            flips += 1
    assert flips == count


@MANY
def test_a_flip_in_a_pointer_skim_is_found(folder, data, count):
    with CollectionReader([folder / "good.root"]) as reader:
        skim = folder / f"skim{count}.root"
        with PointerWriter(
            skim, "p", ALL, LINEAGE, parents=reader, borrow=("Hit", "Head", "Track", "Row")
        ) as writer:
            writer.write(reader.read("event", np.arange(0, 26, 3)))
            writer.close()
    sources, chooser = SourceFiles.of([folder / "good.root"]), random.Random(count)
    good, target = skim.read_bytes(), folder / f"flipped{count}.root"
    assert validate_file(skim, sources=sources)["valid"]
    for _ in range(count):
        bit, damaged = flipped(good, chooser)
        target.write_bytes(damaged)
        assert not validate_file(target, sources=sources)["valid"], f"bit {bit}"


def test_a_file_that_was_cut_anywhere_is_not_valid(folder, data):
    chooser, target = random.Random(1), folder / "cut.root"
    ends = {end for part in regions(folder / "good.root").values() for piece in part for end in piece}
    edges = sorted({end + more for end in ends for more in (-1, 0, 1)} & set(range(len(data))))
    inside = [chooser.randrange(len(data)) for _ in range(40)]
    for size in (0, 1, *edges, *inside):
        target.write_bytes(data[:size])
        assert not validate_file(target)["valid"], f"{size} bytes"
        assert banks_read(target) == {}, f"{size} bytes"
