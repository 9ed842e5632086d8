"""Columns of every type: all numbers, text, lists, lists of lists, and text in lists."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamwright.core.errors import ConfigError, ModuleError, SchemaMismatchError
from beamwright.event.banks import Bank, BankSet
from beamwright.event.batch import Batch
from beamwright.event.columnar import export, to_awkward
from beamwright.event.evolution import differences
from beamwright.event.kernel import KernelModule
from beamwright.event.perevent import EventModule
from beamwright.event.rntuple import FileWriter, NTupleFile, seal_cluster
from beamwright.event.store import CollectionReader
from beamwright.event.table import Jagged
from beamwright.event.transport import Packer, _pack_batch, _unpack_batch
from beamwright.event.validate import validate_file
from support.streams import LINEAGE
from support.wide import BANKS, KINDS, batches, plain, sample, write


@settings(max_examples=30)
@given(data=st.data())
def test_every_type_comes_back_from_a_file(tmp_path_factory, data):
    whole = data.draw(batches())
    path = tmp_path_factory.mktemp("wide") / "x.root"
    write(path, whole)
    assert validate_file(path)["problems"] == []
    with CollectionReader([path]) as reader:
        found = reader.read("event", np.arange(whole.n))
    assert plain(found) == plain(whole)


@settings(max_examples=25)
@given(data=st.data())
def test_cutting_taking_joining_and_sending_are_list_operations(data):
    whole = data.draw(batches(6))
    at = data.draw(st.integers(0, whole.n))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=whole.n, max_size=whole.n)), bool)
    first, second = whole.cut(0, at), whole.cut(at, whole.n)
    expected, joined = plain(whole), plain(Batch.concatenate([first, second]))
    assert joined == expected
    assert plain(first)["Head"]["label"] == expected["Head"]["label"][:at]
    taken = plain(whole.take(mask))
    kept = [row for row, keep in zip(expected["Head"]["grid"], mask, strict=True) if keep]
    assert taken["Head"]["grid"] == kept
    rows = mask[whole["Row"].record_index] if whole["Row"].rows else np.zeros(0, bool)
    for name, values in expected["Row"].items():
        assert taken["Row"][name] == [value for value, keep in zip(values, rows, strict=True) if keep]
    pack = Packer()
    document = _pack_batch(whole, pack)
    assert plain(_unpack_batch(document, pack.arrays, BANKS)) == expected
    assert whole.nbytes >= sum(array.nbytes for array in pack.arrays) - 8


def test_the_bytes_of_a_file_do_not_depend_on_batches(tmp_path):
    whole = sample(200)
    one = write(tmp_path / "one.root", whole, target=4000).file
    parts = [whole.cut(a, min(a + 7, 200)) for a in range(0, 200, 7)]
    assert write(tmp_path / "other.root", *parts, target=4000).file.read_bytes() == one.read_bytes()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"label": ["a", 3, "b"]}, "is no text"),
        ({"label": [1, 2, 3]}, "it is text per row as declared"),
        ({"label": ["a", "\ud800", "b"]}, "is no text"),
        ({"label": ["a", "b"]}, "for 2 rows"),
        ({"label": Jagged.from_counts([1, 1, 0], np.array([0xCE, 0xBC], "u1"))}, "no UTF-8"),
        ({"label": Jagged.from_counts([1, 0, 0], np.array([0xFF], "u1"))}, "no UTF-8"),
        ({"grid": Jagged.from_counts([1, 0, 0], [5])}, "it is a list per row"),
        ({"grid": Jagged.from_counts([1, 0, 0], Jagged.from_counts([2], [1, 70_000]))}, "do not fit int16"),
        ({"grid": Jagged.from_counts([1, 0, 1], Jagged.from_counts([2], [1, 1]))}, "for 3 rows"),
    ],
)
def test_values_that_are_not_as_declared_are_refused(values, words):
    made = Batch("event", "44", 3, [0] * 3, range(3), banks=BANKS)
    grid = Jagged.from_counts([0, 0, 0], Jagged.from_counts([], np.zeros(0, "i2")))
    with pytest.raises(ModuleError, match=words):
        made["Head"] = {"label": ["x", "y", "z"], "grid": grid} | values


def test_text_may_be_given_as_it_is(tmp_path):
    made = Batch("event", "44", 3, [0] * 3, range(3), banks=BANKS)
    grid = Jagged.of([[[1, 2], []], [], [[3]]], BANKS["Head"]["grid"])
    made["Head"] = {"label": ["μ", "", "end\0"], "grid": grid}
    table = made["Head"]
    assert (table.label.text(), table.grid.tolist()) == (["μ", "", "end\0"], [[[1, 2], []], [], [[3]]])
    assert (
        [part.tolist() for part in table.grid]
        == table.grid.tolist()
        == [table.grid[n].tolist() for n in range(3)]
    )


class Turn(EventModule):
    """Copies a bank event by event, its labels reversed."""

    reads = ("Head",)
    writes = ("Copy",)

    def event(self, event):
        row = event["Head"]
        event.add(
            "Copy", label=row.label[::-1], grid=[list(part) for part in row.grid], words=[row.label, "x"]
        )


def test_events_in_plain_python_see_text_and_lists():
    kinds = {"label": "str", "grid": "i2[][]", "words": "str[]"}
    copy = Bank.from_document("Copy", {"rows": "one", "columns": {n: {"type": k} for n, k in kinds.items()}})
    whole = sample(10)
    made = Batch(
        "event", "44", 3, [0] * 10, range(10), {"Head": whole["Head"]}, banks=BANKS.union(BankSet([copy]))
    )
    Turn().process(made)
    found, label = made["Copy"], whole["Head"].label.text()
    assert found.label.text() == [text[::-1] for text in label]
    assert found.grid.tolist() == whole["Head"].grid.tolist()
    assert found.words.text() == [[text, "x"] for text in label]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_every_type_is_exported(tmp_path, suffix):
    import pyarrow.feather as feather
    import pyarrow.parquet as parquet

    whole, path = sample(), tmp_path / f"x{suffix}"
    write(tmp_path / "x.root", whole)
    with CollectionReader([tmp_path / "x.root"]) as reader:
        assert export(reader, path) == whole.n
        assert reader["Head.label"].tolist() == whole["Head"].label.text()
        assert reader["Row"].str_list_list.tolist() == to_awkward(whole)["Row", "str_list_list"].tolist()
    table = parquet.read_table(path) if suffix == ".parquet" else feather.read_table(path)
    found, expected = table.to_pylist(), plain(whole)
    assert [row["Head"] for row in found] == [
        {"label": label, "grid": grid}
        for label, grid in zip(expected["Head"]["label"], expected["Head"]["grid"], strict=True)
    ]
    for name, values in expected["Row"].items():
        assert [item[name] for row in found for item in row["Row"]] == values


def test_uproot_reads_every_type(tmp_path):
    import uproot

    whole = sample()
    write(tmp_path / "x.root", whole)
    with uproot.open(tmp_path / "x.root") as file:
        found = file["events"].arrays()
    expected = plain(whole)
    assert found["Head", "label"].tolist() == expected["Head"]["label"]
    assert found["Head", "grid"].tolist() == expected["Head"]["grid"]
    for name, values in expected["Row"].items():
        assert [item for row in found["Row", name].tolist() for item in row] == values


def changed(**columns) -> BankSet:
    document = BANKS.document()
    document["Head"]["columns"] = columns
    document["Head"]["version"] = 2
    return BankSet.from_document(document)


def test_text_and_lists_evolve(tmp_path):
    whole = sample(8)
    write(tmp_path / "x.root", whole)
    now = changed(
        name={"type": "str", "renamed": ["label"]},
        grid={"type": "i2[][]"},
        origin={"type": "str", "default": "μ"},
        words={"type": "str[]", "default": []},
        cube={"type": "f4[][]", "default": []},
    )
    with CollectionReader([tmp_path / "x.root"], banks=now) as reader:
        head = reader.read("event", np.arange(8))["Head"]
    assert head["name"].text() == whole["Head"].label.text()
    assert head.grid.tolist() == whole["Head"].grid.tolist()
    assert head.origin.text() == ["μ"] * 8
    assert head.words.text() == head.cube.tolist() == [[]] * 8
    for kind in ("str[]", "u1[]", "f4"):
        with pytest.raises(SchemaMismatchError, match=r"label .*and str in the file"):
            CollectionReader(
                [tmp_path / "x.root"], banks=changed(label={"type": kind}, grid={"type": "i2[][]"})
            )
    assert {d.change for d in differences(BANKS, now)} >= {"column renamed", "column added, default μ"}


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"type": "f4[][][]"}, "3 levels of lists"),
        ({"type": "link[][]", "to": "Head"}, "2 levels of lists"),
        ({"type": "f4[[]]"}, "is no column type"),
        ({"type": "f4]["}, "is no column type"),
        ({"type": "text"}, "is no column type"),
        ({"type": "str", "default": 3}, "is no str"),
        ({"type": "str[]", "default": "a"}, r"is no str\[\]"),
        ({"type": "f4[]", "default": 1.0}, r"is no f4\[\]"),
        ({"type": "f4", "default": "a"}, "is no f4"),
    ],
)
def test_declarations_that_make_no_sense_are_refused(column, words):
    with pytest.raises(ConfigError, match=words):
        Bank.from_document("B", {"columns": {"c": column}})


def test_declarations_come_back_from_their_document():
    assert BankSet.from_document(BANKS.document()).document() == BANKS.document()
    assert [c.document()["type"] for c in BANKS["Row"].columns] == list(KINDS)


def test_text_that_is_none_is_found_in_a_file(tmp_path):
    path, target = tmp_path / "x.root", tmp_path / "forged.root"
    write(path, sample())
    with NTupleFile(path) as file, target.open("wb") as out:
        columns = file.read()
        columns["Head.label"][:1] = 0xFF
        writer = FileWriter(out, file.schema)
        writer.append(seal_cluster(file.schema, columns))
        lineage = dataclasses.replace(LINEAGE, stream="dst")
        writer.close(file.metadata, lineage=lineage.hash)
    (problem,) = validate_file(target)["problems"]
    assert "column Head.label of entries 0 to 39 holds text that is no UTF-8" in problem


class Deep(KernelModule):
    """Asks for lists of lists, which no kernel takes."""

    reads = ("Head",)
    selects = ("any",)

    @staticmethod
    def kernel(n, Head_grid, any):
        any[:n] = True


def test_kernels_take_no_lists_of_lists():
    pytest.importorskip("numba")
    with pytest.raises(ConfigError, match=r"argument Head_grid .* holds lists of lists"):
        Deep().prepare(BANKS)
