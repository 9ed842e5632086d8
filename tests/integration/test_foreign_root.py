"""TTrees and RNTuples that ROOT wrote, read as records with banks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from beamwright.event.foreign import ForeignReader

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
frame = frame.Define("MET", "2.0 * rdfentry_")
options = ROOT.RDF.RSnapshotOptions()
for name, form in (("tree", "kTTree"), ("ntuple", "kRNTuple")):
    options.fOutputFormat = getattr(ROOT.RDF.ESnapshotOutputFormat, form)
    frame.Snapshot("Events", f"{sys.argv[1]}/{name}.root", ["run", "event", "Muon_pt", "MET"], options)
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
