"""One record by its key, in files of any size."""

from __future__ import annotations

import numpy as np
import pytest

from beamwright.core.errors import UnknownNameError
from beamwright.core.runs import EventKey
from beamwright.event import lookup
from beamwright.event.lookup import find, locate, read_record
from beamwright.event.rntuple import NTupleFile
from beamwright.event.store import CollectionReader
from support.streams import batch, same_batches, write_stream


@pytest.fixture
def path(tmp_path):
    sparse = np.zeros(3000, np.bool_)
    sparse[::3] = True
    parts = [batch(3, 0, 3000).take(sparse), batch(4, 5, 6), batch(9, 50, 4000)]
    write_stream(tmp_path / "a.root", *parts, target=60_000)
    return tmp_path / "a.root"


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_every_key_is_found_at_its_entry_and_no_other(path, monkeypatch, block):
    monkeypatch.setattr(lookup, "BLOCK", block)
    with NTupleFile(path) as file:
        columns = file.read(["run", "section", "event"])
        keys = list(zip(*(columns[name].tolist() for name in ("run", "section", "event")), strict=True))
        assert len(file.clusters) == 10
        for entry in (*range(0, len(keys), 97), 999, 1000, 1001, len(keys) - 1):
            assert locate(file, keys[entry]) == entry
        for absent in ((0, 0, 0), (3, 0, 1), (3, 1, 0), (4, 0, 6), (5, 0, 0), (9, 39, 4000), (99, 0, 0)):
            assert locate(file, absent) is None


def test_only_a_few_pages_are_read(path, monkeypatch):
    with NTupleFile(path) as file:
        fetched = []
        monkeypatch.setattr(
            file, "fetch", lambda *a, **k: fetched.append(a) or NTupleFile.fetch(file, *a, **k)
        )
        assert locate(file, (9, 20, 2003)) is not None
        assert len(fetched) < 3 * 2 * np.log2(4950)


def test_a_record_is_read_with_its_banks(path, tmp_path):
    write_stream(tmp_path / "b.root", batch(10, 0, 50))
    with CollectionReader([tmp_path / "b.root", path]) as reader:
        key = EventKey("44", 9, 20, 2003)
        assert same_batches(read_record(reader, key), batch(9, 2003, 2004))
        assert list(read_record(reader, key, ["Track"]).tables) == ["Track"]
        assert find(reader, EventKey("44", 10, 0, 49)) == (0, 49)
        assert find(reader, EventKey("45", 10, 0, 49)) is None
        with pytest.raises(UnknownNameError, match=r"no event of b.root is called '44:9:20:1'"):
            read_record(reader, EventKey("44", 9, 20, 1))


def test_an_empty_file_holds_no_record(tmp_path):
    write_stream(tmp_path / "empty.root")
    with NTupleFile(tmp_path / "empty.root") as file:
        assert locate(file, (3, 0, 0)) is None
