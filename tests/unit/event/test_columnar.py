"""Collections as awkward arrays, read column by column, and as Parquet and Arrow files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from beamwright.core.errors import UnknownNameError, UsageError
from beamwright.event.banks import BankSet
from beamwright.event.columnar import export, to_awkward
from beamwright.event.pointer import PointerWriter
from beamwright.event.store import CollectionReader
from support.streams import BANKS, LINEAGE, batch, write_stream

awkward = pytest.importorskip("awkward")


@pytest.fixture
def paths(tmp_path):
    write_stream(tmp_path / "b.root", batch(3, 200, 300), batch(4, 0, 50))
    write_stream(tmp_path / "a.root", batch(3, 0, 200), target=20_000)
    return [tmp_path / "b.root", tmp_path / "a.root"]


@pytest.fixture
def whole():
    return [batch(3, 0, 300), batch(4, 0, 50)]


def test_a_column_is_a_list_per_record_in_key_order(paths, whole):
    with CollectionReader(paths) as events:
        assert events.keys() == ["run", "section", "event", "Head", "Hit", "Track"] and len(events) == 350
        expected = awkward.concatenate([to_awkward(part) for part in whole])
        for bank in ("Head", "Hit", "Track"):
            for column in events[bank]:
                assert events[bank][column].to_list() == expected[bank][column].to_list()
        assert events["event"].tolist() == expected["event"].to_list()
        assert awkward.all(events["Hit.t"] == events["Hit"].t)


def test_only_the_column_asked_for_is_read_and_only_once(paths, monkeypatch):
    with CollectionReader(paths) as events:
        events.index("event")
        names = []
        for file in events.files:
            read = file.read
            monkeypatch.setattr(file, "read", lambda wanted, read=read: names.append(wanted) or read(wanted))
        hits = events["Hit"]
        assert names == [] and "samples" in dir(hits)
        assert hits.t is hits["t"]
        assert names == [["Hit.t"], ["Hit.t"]]


def test_columns_of_older_versions_and_of_pointers_are_those_declared(paths, whole, tmp_path):
    wanted = BankSet.from_document(
        {
            "Hit": {
                "columns": {
                    "time": {"type": "f4", "unit": "ns", "renamed": ["t"]},
                    "q": {"type": "u1", "default": 5},
                }
            }
        }
    )
    with CollectionReader(paths, banks=wanted) as events:
        assert awkward.flatten(events["Hit.time"]).to_list() == [*whole[0]["Hit"].t, *whole[1]["Hit"].t]
        assert set(awkward.flatten(events["Hit.q"]).to_list()) == {5}
        assert awkward.num(events["Hit.q"]).to_list() == awkward.num(events["Hit.time"]).to_list()
    with CollectionReader(paths) as reader:
        made = PointerWriter(tmp_path / "p.root", "p", BANKS, LINEAGE, parents=reader, borrow=BANKS)
        with made as writer:
            writer.write(reader.read("event", np.arange(0, 300, 9)))
            writer.close()
        with CollectionReader([tmp_path / "p.root"]) as points:
            assert points["Hit.samples"].to_list() == reader["Hit.samples"][:300:9].to_list()


def test_a_name_that_is_wrong_is_told_the_nearest(paths):
    with CollectionReader(paths) as events:
        with pytest.raises(UnknownNameError, match="did you mean Hit"):
            events["Hits"]
        with pytest.raises(UnknownNameError, match="did you mean samples"):
            events["Hit.sample"]
        with pytest.raises(AttributeError, match="no column 'tt'"):
            _ = events["Hit"].tt


def test_an_empty_collection_has_empty_columns(tmp_path):
    write_stream(tmp_path / "empty.root")
    with CollectionReader([tmp_path / "empty.root"]) as events:
        assert len(events["Hit.t"]) == len(events["Track.hits"]) == len(events) == 0


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_exported_files_hold_the_same_records(paths, whole, tmp_path, suffix):
    pytest.importorskip("pyarrow")
    target = tmp_path / f"out{suffix}"
    with CollectionReader(paths) as reader:
        assert export(reader, target) == 350
        with pytest.raises(FileExistsError):
            export(reader, target)
        metadata = reader.metadata[0].document()
    found, stored = read_arrow(target)
    assert found.to_list() == awkward.concatenate([to_awkward(part) for part in whole]).to_list()
    assert json.loads(stored) == json.loads(json.dumps(metadata))
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def read_arrow(path):
    import pyarrow.feather
    import pyarrow.parquet

    read = pyarrow.parquet.read_table if path.suffix == ".parquet" else pyarrow.feather.read_table
    table = read(path)
    return awkward.from_arrow(table), table.schema.metadata[b"beamwright"]


def test_exports_of_one_bank_of_nothing_and_of_other_kinds(paths, tmp_path):
    pytest.importorskip("pyarrow")
    with CollectionReader(paths) as reader:
        export(reader, tmp_path / "hits.parquet", ["Hit"])
        with pytest.raises(UsageError, match=r"write .parquet or .arrow"):
            export(reader, tmp_path / "out.csv")
    assert read_arrow(tmp_path / "hits.parquet")[0].fields == ["run", "section", "event", "Hit"]
    write_stream(tmp_path / "empty.root")
    with CollectionReader([tmp_path / "empty.root"]) as reader:
        assert export(reader, tmp_path / "empty.parquet") == 0
    assert len(read_arrow(tmp_path / "empty.parquet")[0]) == 0
