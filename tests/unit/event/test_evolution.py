"""Files of other bank versions: columns added, removed and renamed; what cannot be read is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beamwright.core.errors import ConfigError, SchemaMismatchError
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.evolution import Evolution, differences
from beamwright.event.loop import run_path
from beamwright.event.path import Output, Path
from beamwright.event.pointer import PointerWriter
from beamwright.event.store import CollectionReader, StreamWriter, merge_collections
from beamwright.event.table import Jagged, Table
from beamwright.event.validate import validate_file
from support.streams import BANKS, LINEAGE, batch, same_batches, write_stream

NEW = {
    "Top": {
        "rows": "one",
        "version": 2,
        "renamed": ["Head"],
        "columns": {"time": {"type": "f8", "unit": "s"}},
    },
    "Hit": {
        "version": 3,
        "columns": {
            "tot": {"type": "u1", "default": 7},
            "time": {"type": "f4", "unit": "ns", "renamed": ["t0", "t"]},
            "mother": {"type": "link", "to": "Hit"},
            "head": {"type": "link", "to": "Top"},
            "track": {"type": "link", "to": "Track", "default": -1},
            "peaks": {"type": "f4[]", "default": []},
        },
    },
    "Track": {"columns": {"good": {"type": "bool"}, "sure": {"type": "bool", "default": False}}},
    "Fresh": {"columns": {"x": {"type": "f4"}}},
}
WANTED = BankSet.from_document(NEW)


@pytest.fixture
def path(tmp_path):
    write_stream(tmp_path / "old.root", batch(3, 0, 300), target=20_000)
    return tmp_path / "old.root"


def changed(bank, column=None, **keys):
    """Return the new declarations with one more change."""
    document = copy.deepcopy(NEW)
    place = document[bank] if column is None else document[bank]["columns"].setdefault(column, {})
    place.update(keys)
    return BankSet.from_document(document)


def test_an_old_file_is_read_as_its_banks_are_declared_now(path):
    old = batch(3, 0, 300)
    with CollectionReader([path], banks=WANTED) as reader:
        assert reader.banks("event") == ("Top", "Hit", "Track")
        new = reader.read("event", np.arange(300))
    hits = new["Hit"]
    assert np.array_equal(new["Top"].time, old["Head"].time) and np.array_equal(hits.time, old["Hit"].t)
    assert np.array_equal(hits.mother, old["Hit"].mother) and list(hits.columns) == list(
        NEW["Hit"]["columns"]
    )
    assert (hits.tot == 7).all() and (hits.track == -1).all() and hits.tot.dtype == np.uint8
    assert (hits.peaks.counts == 0).all() and len(hits.peaks) == hits.rows
    assert not new["Track"].sure.any() and np.array_equal(new["Track"].good, old["Track"].good)
    for name in new.tables:
        Table(WANTED[name], new[name].offsets, new[name].columns)


def test_removed_columns_are_not_read(path, monkeypatch):
    with CollectionReader([path], banks=WANTED) as reader:
        names = []
        read = reader.files[0].read
        monkeypatch.setattr(
            reader.files[0], "read", lambda wanted, *span: names.extend(wanted) or read(wanted, *span)
        )
        reader.read("event", np.arange(5), ["Hit", "Top"])
    assert names == ["section", "event", "Hit.t", "Hit.mother", "Hit.head", "Head"]


def test_a_bank_of_defaults_alone_keeps_its_rows(path):
    wanted = BankSet.from_document({"Hit": {"columns": {"new": {"type": "i2", "default": -3}}}})
    with CollectionReader([path], banks=wanted) as reader:
        found = reader.read("event", np.arange(300))["Hit"]
    assert np.array_equal(found.counts, batch(3, 0, 300)["Hit"].counts) and (found.new == -3).all()


def test_files_of_two_versions_are_one_collection(path, tmp_path):
    with CollectionReader([path], banks=WANTED) as reader:
        later = tmp_path / "new.root"
        with StreamWriter(later, "dst", reader.declarations, LINEAGE) as writer:
            part = reader.read("event", np.arange(200, 300))
            part["Hit"].columns["tot"] = np.full(part["Hit"].rows, 9, np.uint8)
            writer.write(part)
            writer.close()
        first = tmp_path / "first.root"
        write_stream(first, batch(3, 0, 200))
        with pytest.raises(SchemaMismatchError, match="give the reader the banks"):
            CollectionReader([first, later])
        with CollectionReader([later, first], banks=WANTED) as both:
            found = both.read("event", np.arange(300))
            assert sorted(set(found["Hit"].tot.tolist())) == [7, 9]
            assert np.array_equal(found["Hit"].time, reader.read("event", np.arange(300))["Hit"].time)


def test_files_of_two_versions_are_merged_by_a_path_that_writes_them_anew(path, tmp_path):
    first, later = tmp_path / "first.root", tmp_path / "later.root"
    write_stream(first, batch(3, 0, 200))
    with CollectionReader([path], banks=WANTED) as reader:
        with StreamWriter(later, "dst", reader.declarations, LINEAGE) as writer:
            writer.write(reader.read("event", np.arange(200, 300)))
            writer.close()
        whole = reader.read("event", np.arange(300))
    with pytest.raises(SchemaMismatchError, match="differ: it lacks Head.time.*`beamwright process`"):
        merge_collections([first, later], tmp_path / "no.root", LINEAGE)
    with CollectionReader([later, first], banks=WANTED) as both:
        work = Path("anew", "event", [], [Output("dst", tuple(both.declarations))])
        run_path(
            work, both, Interval.runs("44", 0, 99), banks=both.declarations,
            outputs={"dst": tmp_path / "all.root"}, lineage=lambda _: LINEAGE,
        )  # fmt: skip
    assert validate_file(tmp_path / "all.root", {"banks": WANTED})["problems"] == []
    with CollectionReader([tmp_path / "all.root"]) as reader:
        assert same_batches(reader.read("event", np.arange(300)), whole)


def test_pointers_lead_into_files_of_older_versions(path, tmp_path):
    with CollectionReader([path], banks=WANTED) as reader:
        whole = reader.read("event", np.arange(0, 300, 3))
        skim = tmp_path / "skim.root"
        banks = reader.declarations
        with PointerWriter(skim, "p", banks, LINEAGE, parents=reader, borrow=banks) as writer:
            writer.write(whole)
            writer.close()
    with CollectionReader([skim]) as pointers:
        assert same_batches(pointers.read("event", np.arange(100)), whole)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            changed("Hit", "time", type="f8"),
            r"Hit.time \(version 3\) is f8, and f4 in the file \(version 2\)",
        ),
        (changed("Hit", "time", unit="us"), "is in us, and in ns"),
        (changed("Hit", "more", type="f4"), r"Hit.more \(version 3\) is not in the file.*default = "),
        (changed("Hit", "mother", to="Track"), "Hit.mother"),
        (changed("Top", rows="many"), "bank Head has rows 'one', declared is 'many'"),
    ],
)
def test_a_change_that_has_no_meaning_for_old_values_is_refused(path, wanted, message):
    with pytest.raises(SchemaMismatchError, match=message):
        CollectionReader([path], banks=wanted)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("u1", 256),
        ("u1", -1),
        ("f4", "x"),
        ("i4", 1.5),
        ("bool", 1),
        ("u2", True),
        ("f4[]", 0.0),
        ("f4[]", [1.0]),
    ],
)
def test_a_default_has_the_type_of_its_column(kind, value):
    with pytest.raises(ConfigError, match=r"default .* is no"):
        BankSet.from_document({"A": {"columns": {"a": {"type": kind, "default": value}}}})


def test_old_names_are_a_list_of_names():
    for wrong in ("old", ["no name"], [3]):
        with pytest.raises(ConfigError, match='renamed = \\["old"\\]'):
            BankSet.from_document({"A": {"renamed": wrong, "columns": {"a": {"type": "f4"}}}})


@pytest.mark.parametrize("renamed", [{"a": ["b"]}, {"a": ["a"]}, {"a": ["x"], "b": ["x"]}])
def test_an_old_name_means_one_column(renamed):
    columns = {name: {"type": "f4", "renamed": renamed.get(name, [])} for name in ("a", "b")}
    with pytest.raises(ConfigError, match="claims too"):
        BankSet.from_document({"A": {"columns": columns}})


def test_declarations_with_defaults_and_old_names_survive_their_text():
    assert BankSet.from_document(WANTED.document()).document() == WANTED.document()
    assert WANTED["Hit"]["peaks"].default == () and WANTED["Hit"]["time"].renamed == ("t0", "t")


def test_differences_name_every_change():
    found = [(d.bank, d.column, d.change, d.is_readable) for d in differences(BANKS, WANTED)]
    assert found == [
        ("Top", "", "bank renamed", True),
        ("Top", "", "version", True),
        ("Hit", "tot", "column added, default 7", True),
        ("Hit", "time", "column renamed", True),
        ("Hit", "time", "description changed", True),
        ("Hit", "track", "column added, default -1", True),
        ("Hit", "peaks", "column added, default ()", True),
        ("Hit", "dom", "column removed", True),
        ("Hit", "samples", "column removed", True),
        ("Hit", "", "version", True),
        ("Track", "sure", "column added, default False", True),
        ("Track", "hits", "column removed", True),
        ("Track", "", "version did not rise", True),
        ("Fresh", "", "bank added", True),
    ]
    worse = changed("Hit", "time", type="f8", unit="s")
    broken = [(d.column, d.change) for d in differences(BANKS, worse) if not d.is_readable]
    assert broken == [("time", "type changed"), ("time", "unit changed")]
    assert differences(BANKS, BANKS) == []


KINDS = ("u1", "i4", "f4", "f8", "bool", "i2[]", "f4[]")


@st.composite
def banks(draw, names):
    columns = {}
    for name in draw(st.lists(st.sampled_from(names), min_size=1, unique=True)):
        kind = draw(st.sampled_from(KINDS))
        columns[name] = {"type": kind}
        if draw(st.booleans()):
            columns[name]["default"] = [] if kind.endswith("[]") else True if kind == "bool" else 1
        if draw(st.integers(0, 3)) == 0:
            columns[name]["renamed"] = [draw(st.sampled_from(names))]
    assume(all(name not in columns for made in columns.values() for name in made.get("renamed", ())))
    old_names = [name for made in columns.values() for name in made.get("renamed", ())]
    assume(len(old_names) == len(set(old_names)))
    return BankSet.from_document({"B": {"columns": columns}})


@settings(max_examples=150)
@given(old=banks("abcd"), new=banks("abcdef"), counts=st.lists(st.integers(0, 3), max_size=5))
def test_either_a_version_is_read_as_declared_or_the_difference_says_why_not(old, new, counts):
    readable = all(difference.is_readable for difference in differences(old, new))
    try:
        evolution = Evolution(old, new, "file")
    except SchemaMismatchError:
        assert not readable
        return
    assert readable
    rows = sum(counts)
    columns = {
        c.name: Jagged(np.arange(rows + 1), np.arange(rows).astype(c.dtype)) if c.jagged
        else np.arange(rows).astype(c.dtype)
        for c in old["B"].columns
    }  # fmt: skip
    made = evolution.tables({"B": Table.from_counts(old["B"], counts, columns)}, ["B"])["B"]
    checked = Table(new["B"], made.offsets, made.columns)
    assert checked.rows == rows and list(checked.columns) == [c.name for c in new["B"].columns]
    for column in new["B"].columns:
        if column.name in old["B"].by_name:
            found, stored = made.columns[column.name], columns[column.name]
            values = (found.values, stored.values) if column.jagged else (found, stored)
            assert np.array_equal(*values)
