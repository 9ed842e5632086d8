"""Flipped bits and cut files: a column that is read is right or refused, and validation finds every fault."""

from __future__ import annotations

import random

import numpy as np
import pytest

from beamwright.core.errors import BeamwrightError
from beamwright.event.pointer import PointerWriter
from beamwright.event.sources import SourceFiles
from beamwright.event.store import CollectionReader
from beamwright.event.validate import validate_file
from support.streams import BANKS, LINEAGE, batch, same_batches, write_stream

MANY = pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def data(folder):
    write_stream(folder / "good.root", batch(3, 0, 60), batch(4, 0, 20), target=4_000)
    return (folder / "good.root").read_bytes()


def banks_read(path):
    """Return what each bank, read by itself, gives: batches, or nothing where it is refused."""
    found = {}
    for bank in BANKS:
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
    assert len(expected) == 3
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
        refused += 3
    assert refused > count // 4


@MANY
def test_a_flip_in_a_pointer_skim_is_found(folder, data, count):
    with CollectionReader([folder / "good.root"]) as reader:
        skim = folder / f"skim{count}.root"
        with PointerWriter(
            skim, "p", BANKS, LINEAGE, parents=reader, borrow=("Hit", "Head", "Track")
        ) as writer:
            writer.write(reader.read("event", np.arange(0, 60, 7)))
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
    for size in (0, 1, 99, len(data) - 1, *(chooser.randrange(len(data)) for _ in range(40))):
        target.write_bytes(data[:size])
        assert not validate_file(target)["valid"], f"{size} bytes"
        assert banks_read(target) == {}, f"{size} bytes"
