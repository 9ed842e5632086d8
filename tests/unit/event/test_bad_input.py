"""Bad input is told by name, with the next step: by validation and on reading."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from beamwright.cli.main import run
from beamwright.core.errors import ChecksumError, FormatError, SchemaMismatchError
from beamwright.event.banks import BankSet
from beamwright.event.rntuple import FileWriter, NTupleFile, seal_cluster
from beamwright.event.store import CollectionReader
from beamwright.event.validate import validate_file
from support.streams import BANKS, LINEAGE, batch, write_stream


@pytest.fixture
def path(tmp_path):
    write_stream(tmp_path / "dst.root", batch(3, 0, 200), target=4_000)
    return tmp_path / "dst.root"


def read(path, banks=None):
    """Read everything, and follow every link, as a module does."""
    with CollectionReader([path], banks=banks) as reader:
        for part in reader.batches():
            for name, table in part.tables.items():
                for column in reader.declarations[name].links:
                    table.follow(column.name, part[column.link])


def told(path, banks=None):
    """Return what validation says of a file, and what reading it raises."""
    with pytest.raises(FormatError) as raised:
        read(path, banks)
    (problem, *_) = validate_file(path, {"banks": banks} if banks else None)["problems"]
    return problem, raised.value


def forged(path, change):
    """Write a file with correct checksums whose columns or metadata were changed."""
    target = path.with_name("forged.root")
    with NTupleFile(path) as file, target.open("wb") as out:
        columns, document = file.read(), dict(file.metadata)
        columns, document = change(columns, document) or (columns, document)
        writer = FileWriter(out, file.schema)
        writer.append(seal_cluster(file.schema, columns))
        writer.close(document, lineage=dataclasses.replace(LINEAGE, stream="dst").hash)
    return target


def test_a_good_file_has_no_problem(path):
    read(path, BANKS)
    assert validate_file(path, {"banks": BANKS})["problems"] == []
    assert validate_file(forged(path, lambda columns, document: None))["problems"] == []


def test_a_file_that_was_cut(path):
    path.write_bytes(path.read_bytes()[:-500])
    problem, error = told(path)
    for text in (problem, str(error)):
        assert "dst.root: the file has" in text and "damaged or truncated; copy it again" in text


def test_a_damaged_page(path):
    with NTupleFile(path) as file:
        place = int(file.clusters[1].columns[file.schema.index["Hit.t"]].pages["offset"][0])
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    problem, error = told(path)
    assert isinstance(error, ChecksumError)
    for text in (problem, str(error)):
        assert f"page 0 of column Hit.t in cluster 1 (byte {place}) does not match" in text
        assert "copy it again" in text


def test_metadata_of_a_version_to_come(path):
    problem, error = told(forged(path, lambda columns, document: (columns, document | {"format": 99})))
    for text in (problem, str(error)):
        assert "metadata of format 99" in text and "use a newer version" in text


def test_an_event_that_comes_twice(path):
    def change(columns, document):
        columns["event"][5] = columns["event"][4]

    problem, error = told(forged(path, change))
    assert "the record 3:0:4 at entry 5 comes twice" in problem
    assert "the record 3:0:4 more than once" in str(error) and "keys are unique" in error.hint


@pytest.mark.parametrize("value", [-2, 6, 2**31 - 1])
def test_a_link_out_of_range(path, value):
    def change(columns, document):
        columns["Track.hits"][0] = value

    problem, error = told(forged(path, change))
    assert "link Track.hits of entry" in problem and "leads out of bank Hit" in problem
    assert f"link Track.hits of record 0 of the batch leads to row {value} of Hit" in str(error)
    assert "beamwright validate" in error.hint


def declared(change):
    document = BANKS.document()
    change(document)
    return BankSet.from_document(document)


def test_a_column_whose_type_changed(path):
    now = declared(lambda banks: banks["Hit"]["columns"]["dom"].update(type="i8"))
    problem, error = told(path, now)
    assert isinstance(error, SchemaMismatchError)
    for text in (problem, str(error)):
        assert "column Hit.dom (version 2) is i8, and i4 in the file (version 2)" in text
        assert "another name where the type changes" in text


def test_another_version_of_a_bank_without_a_default(path):
    def change(banks):
        banks["Hit"]["version"] = 3
        banks["Hit"]["columns"]["quality"] = {"type": "f4"}

    problem, error = told(path, declared(change))
    for text in (problem, str(error)):
        assert "column Hit.quality (version 3) is not in the file (version 2)" in text
        assert "declare default" in text


def test_files_that_are_no_files_of_events(tmp_path, path):
    (tmp_path / "text.root").write_text("no file of events " * 20)
    problem, error = told(tmp_path / "text.root")
    for text in (problem, str(error)):
        assert "this is not a ROOT file" in text and "begins with" in text
    with pytest.raises(FileNotFoundError):
        validate_file(tmp_path / "missing.root")


def test_the_command_names_the_file_the_cause_and_the_next_step(path, capsys):
    path.write_bytes(path.read_bytes()[:-500])
    assert run(["validate", str(path)]) == 4
    shown = capsys.readouterr().out
    assert "not valid" in shown and "dst.root: the file has" in shown and "copy it again" in shown


def test_numbers_of_links_may_be_none(path):
    with CollectionReader([path]) as reader:
        hits = reader.read("event", np.arange(10))["Hit"]
    assert (hits.follow("mother", hits) == -1).sum() == (hits.mother == -1).sum()
