"""TTrees and RNTuples that ROOT wrote, read as records with banks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.foreign import ForeignReader
from beamwright.event.rntuple import NTupleFile, Schema, collection, leaf, merge_files
from beamwright.event.store import StreamWriter
from beamwright.event.table import Jagged, Table
from support.streams import LINEAGE
from support.tuples import write_file

pytest.importorskip("uproot")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        importlib.util.find_spec("ROOT") is None, reason="the ROOT wheel (extra root) is not installed"
    ),
]

WRITE = """
import sys
import ROOT
frame = ROOT.RDataFrame(50).Define("run", "1u").Define("event", "(ULong64_t)(100 - rdfentry_)")
frame = frame.Define("Muon_pt", "ROOT::RVecF(rdfentry_ % 3, 0.5f * rdfentry_)")
frame = frame.Define("MET", "2.0 * rdfentry_").Define("label", "std::to_string(rdfentry_)")
frame = frame.Define("words", "std::vector<std::string>(rdfentry_ % 3, std::string(rdfentry_ % 4, 'x'))")
inner = "std::vector<int>(rdfentry_ % 4, rdfentry_)"
frame = frame.Define("grid", f"std::vector<std::vector<int>>(rdfentry_ % 3, {inner})")
options = ROOT.RDF.RSnapshotOptions()
COLUMNS = ["run", "event", "Muon_pt", "MET", "label"]
for name, form in (("tree", "kTTree"), ("ntuple", "kRNTuple")):
    options.fOutputFormat = getattr(ROOT.RDF.ESnapshotOutputFormat, form)
    columns = COLUMNS + (["words", "grid"] if name == "ntuple" else [])
    frame.Snapshot("Events", f"{sys.argv[1]}/{name}.root", columns, options)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("root")
    command = [sys.executable, "-c", WRITE, str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize("name", ["tree", "ntuple"])
def test_files_of_root_are_read_as_records(folder, name):
    with ForeignReader.open({"": folder / f"{name}.root"}, series="X", run=0) as reader:
        index = reader.index("event")
        assert index.event.tolist() == list(range(51, 101)) and index.entry.tolist() == list(
            range(49, -1, -1)
        )
        batch = reader.read("event", np.arange(50))
    entries = np.arange(49, -1, -1)
    assert batch["Event"].MET.tolist() == (2.0 * entries).tolist()
    assert batch["Muon"].counts.tolist() == (entries % 3).tolist()
    assert batch["Muon"].pt.tolist() == np.repeat(0.5 * entries, entries % 3).tolist()
    assert batch["Event"].label.text() == [str(n) for n in entries]
    if name == "tree":
        return
    assert batch["words"].value.text() == [text for n in entries for text in ["x" * (n % 4)] * (n % 3)]
    assert batch["grid"].value.tolist() == [row for n in entries for row in [[n] * (n % 4)] * (n % 3)]


ODD = r"""
import sys
import ROOT
ROOT.gInterpreter.Declare('''
#include <TTree.h>
#include <TFile.h>
#include <TH1F.h>
#include <TLorentzVector.h>
#include <TClonesArray.h>
#include <map>
#include <string>
#include <vector>
void write_odd(const char *name) {
  TFile file(name, "RECREATE");
  TTree tree("T", "T");
  unsigned run = 1;
  ULong64_t event = 0;
  int n = 0;
  float fixed[3], most[4], grid[2][3];
  struct { int a; float b; } leaves;
  std::string text;
  std::vector<bool> bits;
  std::map<std::string, int> counts;
  TLorentzVector vector;
  TClonesArray split("TLorentzVector"), whole("TLorentzVector");
  TH1F histogram("h", "h", 3, 0, 1);
  tree.Branch("run", &run);
  tree.Branch("event", &event);
  tree.Branch("n", &n, "n/I");
  tree.Branch("fixed", fixed, "fixed[3]/F");
  tree.Branch("most", most, "most[n]/F");
  tree.Branch("grid", grid, "grid[2][3]/F");
  tree.Branch("leaves", &leaves, "a/I:b/F");
  tree.Branch("text", &text);
  tree.Branch("bits", &bits);
  tree.Branch("counts", &counts);
  tree.Branch("unsplit", &vector, 32000, 0);
  tree.Branch("split", &split);
  tree.Branch("whole", &whole, 32000, 0);
  tree.Branch("histogram", &histogram);
  for (int i = 0; i < 10; ++i) {
    event = i;
    n = i % 4;
    for (int k = 0; k < 3; ++k) fixed[k] = i + k;
    for (int k = 0; k < n; ++k) most[k] = 10 * i + k;
    for (int k = 0; k < 6; ++k) grid[k / 3][k % 3] = i + k;
    leaves.a = i;
    leaves.b = 0.5 * i;
    text = std::string(i % 3, 'q');
    bits.assign(i % 3, i % 2);
    counts = {{"k", i}};
    vector.SetPxPyPzE(i, 2, 3, 4 * i);
    split.Clear();
    for (int k = 0; k < i % 3; ++k) new (split[k]) TLorentzVector(k, 1, 2, i);
    tree.Fill();
  }
  tree.Write();
}
''')
ROOT.write_odd(sys.argv[1])
"""


def test_branches_of_any_kind_are_read_or_named(tmp_path):
    """Arrays of fixed size, lists of leaves, maps, objects split and not: ten entries of each."""
    command = [sys.executable, "-c", ODD, str(tmp_path / "odd.root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    with ForeignReader.open({"": tmp_path / "odd.root"}, series="X", run=0) as reader:
        assert reader.skipped == dict.fromkeys(
            ("whole", "histogram"), "it does not become arrays (ValueError)"
        )
        batch = reader.read("event", np.arange(10))
        assert set(reader.banks("event")) == set(batch.tables) and batch.n == 10
    entries = np.arange(10)
    assert batch["fixed"].value.tolist() == [n + k for n in entries for k in range(3)]
    assert batch["most"].value.tolist() == [10 * n + k for n in entries for k in range(n % 4)]
    assert batch["grid"].value.tolist() == [
        [n + k, n + k + 1, n + k + 2] for n in entries.tolist() for k in (0, 3)
    ]
    assert batch["leaves"].a.tolist() == entries.tolist() and batch["leaves"].b[9] == 4.5
    assert batch["Event"]["text"].text() == ["q" * (n % 3) for n in entries]
    assert batch["bits"].value.tolist() == [n % 2 == 1 for n in entries for _ in range(n % 3)]
    assert batch["counts"].first.text() == ["k"] * 10
    assert batch["counts"].second.tolist() == entries.tolist()
    unsplit, split = batch["unsplit"], batch["split"]
    assert unsplit.fP_fX.tolist() == entries.tolist() and unsplit.fE.tolist() == (4 * entries).tolist()
    assert split.counts.tolist() == (entries % 3).tolist()
    assert split.fP_fX.tolist() == [k for n in entries for k in range(n % 3)]
    assert split.fE.tolist() == [n for n in entries for _ in range(n % 3)]


READ = """
import json, sys
import ROOT
reader = ROOT.RNTupleReader.Open("events", sys.argv[1])
found = []
for n in range(reader.GetNEntries()):
    out = ROOT.std.ostringstream()
    reader.Show(n, out)
    found.append(json.loads(str(out.str())))
del reader
print(json.dumps(found))
"""


def test_root_reads_text_and_lists_in_banks(tmp_path):
    kinds = {
        "label": "str",
        "words": "str[]",
        "grid": "i2[][]",
        "deep": "str[][]",
        "good": "bool",
        "small": "i1",
    }
    columns = {name: {"type": kind} for name, kind in kinds.items()}
    banks = BankSet.from_document({"Head": {"rows": "one", "columns": columns}, "Row": {"columns": columns}})
    rows = [
        {"label": f"μ{n}", "words": ["a" * k for k in range(n % 3)], "grid": [[n] * k for k in range(n % 3)],
         "deep": [[str(n), ""], []][: n % 3], "good": n % 2 == 0, "small": -n}
        for n in range(10)
    ]  # fmt: skip
    made = {}
    for bank, counts in (("Head", [1] * 10), ("Row", [n % 3 for n in range(10)])):
        chosen = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
        values = {
            c.name: Jagged.of([row[c.name] for row in chosen], c)
            if c.levels
            else np.array([row[c.name] for row in chosen], c.dtype)
            for c in banks[bank].columns
        }
        made[bank] = Table.from_counts(banks[bank], counts, values)
    with StreamWriter(tmp_path / "x.root", "dst", banks, LINEAGE) as writer:
        writer.write(Batch("event", "X", 1, [0] * 10, range(10), made, banks=banks))
        writer.close()
    command = [sys.executable, "-c", READ, str(tmp_path / "x.root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [item["Head"] for item in found] == rows
    assert [item["Row"] for item in found] == [[row] * (n % 3) for n, row in enumerate(rows)]


SUMS = """
import json, sys
import ROOT
reader = ROOT.RNTupleReader.Open("events", sys.argv[1])
numbers, weights = reader.GetView["std::uint32_t"]("run"), reader.GetView["double"]("weight")
hits, times = reader.GetCollectionView("Hit"), reader.GetView["float"]("Hit._0.t")
found = []
for n in range(0, reader.GetNEntries(), 61):
    inner = hits.GetCollectionRange(n)
    found.append([numbers(n), weights(n), [times(i) for i in inner]])
del numbers, weights, hits, times, reader
print(json.dumps(found))
"""


def test_root_reads_clusters_that_were_joined_with_their_pages(tmp_path):
    schema = Schema([leaf("run", "u4"), leaf("weight", "f8"), collection("Hit", [leaf("t", "f4")])])
    expected, names = [], []
    for number, n in enumerate((9000, 300, 200, 8800)):
        counts = np.arange(n) % 4
        arrays = {"run": np.arange(n, dtype="u4"), "weight": np.arange(n) * 0.5 + number}
        arrays |= {
            "Hit@0": np.concatenate([[0], np.cumsum(counts)]),
            "Hit.t": np.arange(counts.sum(), dtype="f4"),
        }
        cuts = arrays["Hit@0"]
        expected += [[k, k * 0.5 + number, arrays["Hit.t"][cuts[k] : cuts[k + 1]].tolist()] for k in range(n)]
        names.append(write_file(tmp_path / f"{number}.root", [arrays], schema))
    with (tmp_path / "merged.root").open("xb", buffering=0) as out:
        assert merge_files(names, out, {}).resealed == 4
    with NTupleFile(tmp_path / "merged.root") as file:
        assert [len(column.pages) for column in file.clusters[0].columns] == [1, 3, 1, 1]
    command = [sys.executable, "-c", SUMS, str(tmp_path / "merged.root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected[::61]
