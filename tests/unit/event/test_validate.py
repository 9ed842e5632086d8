"""Validation: a verdict on a file of an event stream."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib

import numpy as np
import pytest

from beamwright.event.metadata import FileMetadata
from beamwright.event.rntuple import FileWriter, seal_cluster
from beamwright.event.tuples import columns_of, schema_of
from beamwright.event.validate import validate_file
from support.streams import BANKS, LINEAGE, batch, write_stream


@pytest.fixture
def path(tmp_path):
    write_stream(tmp_path / "good.root", batch(3, 0, 500), batch(4, 0, 20), target=20_000)
    return tmp_path / "good.root"


def forge(path, *, change_columns=None, change_metadata=None, lineage=LINEAGE, events=40):
    """Write a file with correct checksums whose content is changed after the checks of the writer."""
    part = batch(3, 0, events)
    columns = columns_of(part, BANKS)
    columns = {key: np.array(value) for key, value in columns.items()}
    if change_columns:
        change_columns(columns)
    keys = [tuple(int(columns[name][i]) for name in ("run", "section", "event")) for i in (0, -1)]
    metadata = FileMetadata(lineage, "event", False, BANKS, (3,), keys[0], keys[1], events)
    if change_metadata:
        metadata = change_metadata(metadata)
    schema = schema_of(BANKS)
    with path.open("wb") as out:
        writer = FileWriter(out, schema)
        writer.append(seal_cluster(schema, columns))
        writer.close(metadata.document(), lineage=lineage.hash)
    return path


def test_the_verdict_carries_counts_and_hashes(path):
    data = path.read_bytes()
    verdict = validate_file(path)
    assert verdict["problems"] == []
    assert verdict == {
        "file": "good.root",
        "valid": True,
        "problems": [],
        "events": 520,
        "sha256": hashlib.sha256(data).hexdigest(),
        "adler32": f"{zlib.adler32(data):08x}",
        "size": len(data),
        "uuid": verdict["uuid"],
    }
    assert len(verdict["uuid"]) == 36


def test_expectations_are_compared(path):
    good = {"events": 520, "stream": "dst", "series": "44", "release": "dev+0", "is_mc": False}
    interval = ["44", [3, 0, 0], [4, 0, 99]]
    assert validate_file(path, good | {"interval": interval})["valid"]
    for name, value in (
        ("events", 519),
        ("stream", "skim"),
        ("release", "dev+1"),
        ("is_mc", True),
        ("uuid", "x"),
    ):
        problems = validate_file(path, good | {name: value})["problems"]
        assert [f"{name} is " in problem for problem in problems] == [True]
    for interval in (
        ["44", [3, 0, 1], [4, 0, 99]],
        ["44", [3, 0, 0], [4, 0, 18]],
        ["45", [3, 0, 0], [4, 0, 99]],
    ):
        assert "outside the interval" in validate_file(path, {"interval": interval})["problems"][0]


def test_a_damaged_file_is_invalid_and_still_hashed(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    verdict = validate_file(path)
    assert not verdict["valid"]
    assert verdict["sha256"] == hashlib.sha256(data).hexdigest()
    path.write_bytes(data[:-100])
    assert not validate_file(path)["valid"]
    with pytest.raises(FileNotFoundError):
        validate_file(path.with_name("missing.root"))


def test_a_forged_file_without_change_is_valid(tmp_path):
    assert validate_file(forge(tmp_path / "x.root"))["problems"] == []


def order(columns):
    columns["event"][[4, 5]] = columns["event"][[5, 4]]


def double(columns):
    columns["event"][5] = columns["event"][4]


def mother(columns):
    columns["Hit.mother"][7] = 6


def tracked(columns):
    columns["Track.hits"][-1] = -2


def head(columns):
    columns["Hit.head"][3] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (order, "record 3:0:4 at entry 5 is out of order"),
        (double, "record 3:0:4 at entry 5 comes twice"),
        (mother, r"link Hit.mother of entry 2 leads out of bank Hit"),
        (tracked, r"link Track.hits of entry 38 leads out of bank Hit"),
        (head, r"link Hit.head of entry 1 leads out of bank Head"),
    ],
)
def test_wrong_content_is_found(tmp_path, change, message):
    problems = validate_file(forge(tmp_path / "x.root", change_columns=change))["problems"]
    assert message in problems[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": 41}, "the metadata counts 41 events, the file has 40"),
        ({"runs": (3, 4)}, "runs or key range"),
        ({"last": (3, 0, 40)}, "runs or key range"),
        ({"built": True}, "columns are not those of the banks"),
        ({"lineage": dataclasses.replace(LINEAGE, release="dev+9")}, "UUID is not that of its lineage"),
    ],
)
def test_wrong_metadata_are_found(tmp_path, changes, message):
    changed = forge(tmp_path / "x.root", change_metadata=lambda m: dataclasses.replace(m, **changes))
    assert message in validate_file(changed)["problems"][0]


def test_a_plain_tuple_is_no_event_stream(tmp_path):
    from support.tuples import sample_arrays, write_file

    verdict = validate_file(write_file(tmp_path / "plain.root", [sample_arrays(5)]))
    assert "no metadata of an event stream" in verdict["problems"][0]
