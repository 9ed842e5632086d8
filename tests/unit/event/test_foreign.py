"""Files of others, TTree and RNTuple: banks, keys and links of the event framework over them."""

from __future__ import annotations

import numpy as np
import pytest

from beamwright.cli.main import run
from beamwright.core.errors import FormatError, UnknownNameError
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.foreign import ForeignReader
from beamwright.event.loop import run_path
from beamwright.event.module import Module
from beamwright.event.path import Output, Path
from beamwright.event.store import CollectionReader
from beamwright.event.table import Table
from support.streams import LINEAGE

ak = pytest.importorskip("awkward")
uproot = pytest.importorskip("uproot")

PT = ak.values_astype(ak.Array([[30.0, 20.0], [], [12.5], [7.0, 6.0, 5.0]]), np.float32)
CHARGE = ak.values_astype(ak.Array([[1, -1], [], [1], [-1, 1, 1]]), np.int32)
KEYS = {
    "run": np.array([2, 1, 2, 1], np.uint32),
    "luminosityBlock": np.array([1, 5, 1, 4], np.uint32),
    "event": np.array([10, 11, 9, 12], np.int64),
}
MET = np.array([1.0, 2.0, 3.0, 4.0], np.float32)


@pytest.fixture(params=["tree", "ntuple"])
def path(request, tmp_path):
    target = tmp_path / f"{request.param}.root"
    with uproot.recreate(target) as file:
        if request.param == "tree":
            columns = KEYS | {"MET": MET, "Muon_pt": PT, "Muon_charge": CHARGE, "weights": PT}
            types = {"Muon_pt": "var * float32", "Muon_charge": "var * int32", "weights": "var * float32"}
            file.mktree("Events", {name: types.get(name) or columns[name].dtype for name in columns})
            file["Events"].extend(columns)
        else:
            muons = ak.zip({"pt": PT, "charge": CHARGE})
            columns = KEYS | {
                "MET": MET,
                "Muon": muons,
                "weights": PT,
                "name": ak.Array(["a", "μ", "", "end"]),
                "words": ak.Array([["x", "yy"], [], [""], ["z"]]),
                "grid": ak.values_astype(ak.Array([[[1, 2], []], [], [[3]], [[4], [5]]]), np.int32),
                "cube": ak.Array([[[[[1.0]]]], [], [[]], [[[[2.0], []]]]]),
            }
            file.mkrntuple("Events", columns)
    return target


class Leading(Module):
    """Takes the largest momentum of an event."""

    reads = ("Muon", "Event")
    writes = ("Best",)

    def process(self, batch):
        muons = batch["Muon"]
        best = np.zeros(batch.n)
        np.maximum.at(best, muons.record_index, muons.pt)
        batch["Best"] = Table.one("Best", {"pt": best, "met": batch["Event"].MET})
        batch.select(best > 0, "any")


BEST = {"Best": {"rows": "one", "columns": {"pt": {"type": "f4"}, "met": {"type": "f4"}}}}


def test_branches_become_banks_and_records_come_in_key_order(path):
    with ForeignReader.open({"": path}, series="X", run=0) as reader:
        assert {"Muon", "Event", "weights"} <= set(reader.banks("event"))
        index = reader.index("event")
        assert list(zip(index.run.tolist(), index.section.tolist(), index.event.tolist(), strict=True)) == [
            (1, 4, 12), (1, 5, 11), (2, 1, 9), (2, 1, 10),
        ]  # fmt: skip
        first, second = reader.read("event", np.array([0, 1])), reader.read("event", np.array([2, 3]))
        assert (first.run, second.run) == (1, 2)
        assert first["Muon"].pt.tolist() == [7.0, 6.0, 5.0] and first["Muon"].counts.tolist() == [3, 0]
        assert second["Muon"].charge.tolist() == [1, 1, -1] and second["Event"].MET.tolist() == [3.0, 1.0]
        assert second["weights"].value.tolist() == [12.5, 30.0, 20.0]
        assert list(reader.read("event", np.array([3]), ["Event"]).tables) == ["Event"]
        assert reader.read("event", np.zeros(0, np.int64)).n == 0


def test_what_no_bank_holds_is_named(path):
    with ForeignReader.open({"": path}, series="X", run=0) as reader:
        expected = {"cube": "neither numbers nor text, nor lists of them"}
        assert reader.skipped == (expected if path.name == "ntuple.root" else {})


@pytest.mark.parametrize("path", ["ntuple"], indirect=True)
def test_the_command_tells_what_it_does_not_read(path, tmp_path, capsys):
    steering = tmp_path / "steering.py"
    lines = (
        "from beamwright.event.foreign import ForeignReader as reader",
        "from beamwright.event.path import Output, Path",
        'path = Path("copy", "event", [], [Output("all", ("Event",))])',
    )
    steering.write_text("\n".join(lines))
    given = ["-i", str(path), "--series", "X", "-o", f"all={tmp_path / 'all.root'}", "--in-process"]
    assert run(["process", str(steering), *given]) == 0
    assert "not read: cube, neither numbers nor text, nor lists of them" in capsys.readouterr().err
    steering.write_text("\n".join(lines[1:]).replace("Event", "Muon"))
    assert run(["process", str(steering), *given]) != 0
    assert "ForeignReader" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["ntuple"], indirect=True)  # uproot writes neither into a TTree
def test_text_and_lists_of_lists_are_read_and_written_as_ours(tmp_path, path):
    work = Path("copy", "event", [], [Output("all", ("Event", "words", "grid"))])
    with ForeignReader.open({"": path}, series="X", run=0) as reader:
        kinds = {
            (b.name, c.name): c.document()["type"] for b in reader.declarations.values() for c in b.columns
        }
        assert (kinds["Event", "name"], kinds["words", "value"], kinds["grid", "value"]) == (
            "str",
            "str",
            "i4[]",
        )
        run_path(
            work, reader, Interval.runs("X", 0, 9), banks=reader.declarations,
            outputs={"all": tmp_path / "all.root"}, lineage=lambda _: LINEAGE,
        )  # fmt: skip
    with CollectionReader([tmp_path / "all.root"]) as reader:
        assert [part["Event"]["name"].text() for part in reader.batches()] == [["end", "μ"], ["", "a"]]
        assert [part["words"].value.text() for part in reader.batches()] == [["z"], ["", "x", "yy"]]
        assert reader["grid.value"].tolist() == [[[4], [5]], [], [[3]], [[1, 2], []]]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.forks)])
def test_a_path_works_on_files_of_others_and_writes_ours(path, tmp_path, workers):
    work = Path("best", "event", [Leading()], [Output("best", ("Best", "Muon"), "any")])
    with ForeignReader.open({"": path}, series="X", run=0) as reader:
        banks = BankSet([*reader.declarations.values(), *BankSet.from_document(BEST).values()])
        result = run_path(
            work, reader, Interval.runs("X", 0, 9), banks=banks, outputs={"best": tmp_path / "best.root"},
            lineage=lambda _: LINEAGE, workers=workers,
        )  # fmt: skip
    assert result.ledger[0]["written"] == 3
    with CollectionReader([tmp_path / "best.root"]) as reader:
        assert [part["Best"].pt.tolist() for part in reader.batches()] == [[7.0], [12.5, 30.0]]


def test_keys_may_be_given_or_be_missing(tmp_path):
    target = tmp_path / "plain.root"
    with uproot.recreate(target) as file:
        file.mktree("a", {"x": "float64", "number": "int32"})
        file["a"].extend({"x": np.arange(3.0), "number": np.array([5, 3, 4], np.int32)})
    with ForeignReader.open({"": target}, series="X", run=7) as reader:
        assert reader.index("event").event.tolist() == [0, 1, 2]
        assert set(reader.index("event").run.tolist()) == {7}

    class Numbered(ForeignReader):
        keys = {"event": "number"}

    with Numbered.open({"": target}, series="X", run=7) as reader:
        assert reader.index("event").entry.tolist() == [1, 2, 0]
        assert reader.read("event", np.arange(3))["Event"].x.tolist() == [1.0, 2.0, 0.0]

    class Misnamed(ForeignReader):
        keys = {"event": "numbr"}

    with pytest.raises(UnknownNameError, match="did you mean number"):
        Misnamed.open({"": target}, series="X", run=7)


def test_trees_are_chosen_by_name_and_other_files_are_refused(tmp_path):
    target = tmp_path / "two.root"
    with uproot.recreate(target) as file:
        for name in ("first", "second"):
            file.mktree(name, {"x": "float64"})
            file[name].extend({"x": np.arange(2.0)})
    with pytest.raises(FormatError, match="holds 2 trees: first, second"):
        ForeignReader.open({"": target}, series="X", run=0)

    class Second(ForeignReader):
        tree = "secnd"

    with pytest.raises(UnknownNameError, match="did you mean second"):
        Second.open({"": target}, series="X", run=0)
    (tmp_path / "text.root").write_text("nothing of the kind")
    with pytest.raises(FormatError, match="is no ROOT file"):
        ForeignReader.open({"": tmp_path / "text.root"}, series="X", run=0)


def test_branches_that_do_not_count_alike_are_refused(tmp_path):
    target = tmp_path / "odd.root"
    with uproot.recreate(target) as file:
        file.mktree("t", {"Muon_pt": "var * float32", "Muon_eta": "var * float32"})
        file["t"].extend({"Muon_pt": PT, "Muon_eta": PT[::-1]})
    with ForeignReader.open({"": target}, series="X", run=0) as reader:
        with pytest.raises(FormatError, match="Muon_eta counts other rows of Muon"):
            reader.read("event", np.arange(4))
