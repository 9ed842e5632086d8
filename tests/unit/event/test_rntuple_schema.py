"""Schemas: names, columns, identity."""

from __future__ import annotations

import numpy as np
import pytest

from beamwright.core.errors import FormatError, UnknownNameError
from beamwright.event.rntuple import (
    Schema,
    collection,
    leaf,
    offsets_key,
    record,
    seal_cluster,
    string,
    vector,
)
from beamwright.event.rntuple.layout import build_layout
from beamwright.event.rntuple.wire import describe
from support.tuples import SAMPLE, sample_arrays


def test_columns_have_the_documented_keys():
    schema = Schema(
        [
            leaf("run", "u4"),
            record("Header", [leaf("time", "f8")]),
            collection("Hit", [leaf("t", "f4"), vector("samples", "u2")]),
            string("tag"),
            vector("words", string("_0")),
        ]
    )
    keys = [column.key for column in schema.columns]
    assert keys == [
        "run", "Header.time", "Hit@0", "Hit.t", "Hit.samples@0", "Hit.samples", "tag@0", "tag", "words@0",
        "words@1", "words",
    ]  # fmt: skip
    parents = {c.key: schema.columns[c.parent].key if c.parent >= 0 else None for c in schema.columns}
    assert parents["Hit.t"] == "Hit@0"
    assert parents["Hit.samples"] == "Hit.samples@0"
    assert parents["words"] == "words@1"
    assert parents["run"] is None
    assert offsets_key("Hit") == "Hit@0"


def test_equal_content_gives_an_equal_hash_and_any_change_another():
    def schema(doc: str = "d", type: str = "f4", name: str = "t") -> Schema:
        return Schema([leaf("run", "u4"), collection("Hit", [leaf(name, type, doc)])])

    assert schema().hash == schema().hash
    assert schema() == schema()
    assert len({schema().hash, schema(doc="e").hash, schema(type="f8").hash, schema(name="u").hash}) == 4


def test_a_described_schema_is_read_back_equal():
    layout = build_layout(describe(SAMPLE))
    assert layout.schema == SAMPLE
    assert layout.unsupported == {}
    assert layout.physical == [[number] for number in range(len(SAMPLE.columns))]


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a/b", "a\\b", "a\n", "a@0"])
def test_names_that_the_format_forbids_are_refused(name):
    with pytest.raises(FormatError, match="name of field"):
        Schema([leaf(name, "f4")])


def test_a_name_given_twice_and_an_empty_record_are_refused():
    with pytest.raises(FormatError, match=r"Hit\._0\.t is declared twice"):
        Schema([collection("Hit", [leaf("t", "f4"), leaf("t", "f8")])])
    with pytest.raises(FormatError, match="has no field"):
        Schema([record("Empty", [])])


def test_unknown_type_and_column_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="f4"):
        leaf("t", "f5")
    with pytest.raises(UnknownNameError, match=r"Hit\.dom"):
        SAMPLE.column("Hit.dum")


def test_arrays_that_do_not_fit_are_refused_by_name():
    good = sample_arrays(5)
    without = {key: value for key, value in good.items() if key != "Hit.t"}
    cases = {
        "Hit.t is missing": without,
        "no column is called 'Hit.tt'": good | {"Hit.tt": good["Hit.t"]},
        "Hit.t is 1-dimensional float64": good | {"Hit.t": good["Hit.t"].astype("f8")},
        "offsets Hit@0 do not rise": good | {"Hit@0": good["Hit@0"][::-1]},
        "Hit.t has 1 elements": good | {"Hit.t": good["Hit.t"][:1]},
        "run has 4 elements|has 5 elements": good | {"run": good["run"][:4]},
    }
    for message, arrays in cases.items():
        with pytest.raises((FormatError, UnknownNameError), match=message):
            seal_cluster(SAMPLE, arrays)


def test_a_cluster_without_events_cannot_be_sealed():
    empty = {column.key: np.zeros(int(column.is_index), column.dtype) for column in SAMPLE.columns}
    with pytest.raises(FormatError, match="without events"):
        seal_cluster(SAMPLE, empty)
