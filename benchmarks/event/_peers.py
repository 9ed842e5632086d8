"""The dimuon selection as peers do it; dimuon.py runs one side per process: ``_peers.py SIDE FILE WARM-UP``.

Prints one JSON document: seconds of start-up, of compilation, CPU seconds of the loop, and the bins.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

Bins = list[list[float]]
AXES = {"mass": (600, 0.0, 300.0), "pt": (100, 0.0, 200.0), "eta": (100, -5.0, 5.0)}
CODE = r"""
#include <ROOT/RDataFrame.hxx>
#include <ROOT/RVec.hxx>
#include <TH1D.h>
#include <cmath>
#include <vector>
using F = ROOT::RVec<float>;
using I = ROOT::RVec<int>;
std::vector<std::vector<double>> dimuon(const char *file) {
  ROOT::RDataFrame frame("events", file);
  auto pairs = frame
    .Filter([](const F &pt, const I &q) { return pt.size() == 2 && q[0] != q[1]; },
            {"Muon.pt", "Muon.charge"})
    .Define("mass", [](const F &pt, const F &eta, const F &phi) {
       const double angle = std::cosh(double(eta[0]) - eta[1]) - std::cos(double(phi[0]) - phi[1]);
       return std::sqrt(2. * pt[0] * pt[1] * angle);
     }, {"Muon.pt", "Muon.eta", "Muon.phi"})
    .Define("pt0", [](const F &pt) { return double(pt[0]); }, {"Muon.pt"})
    .Define("eta0", [](const F &eta) { return double(eta[0]); }, {"Muon.eta"});
  auto mass = pairs.Histo1D<double>({"m", "", 600, 0, 300}, "mass");
  auto pt = pairs.Histo1D<double>({"p", "", 100, 0, 200}, "pt0");
  auto eta = pairs.Histo1D<double>({"e", "", 100, -5, 5}, "eta0");
  std::vector<std::vector<double>> found;
  for (auto h : {mass, pt, eta}) {
    std::vector<double> bins;
    for (int i = 0; i < h->GetNbinsX() + 2; ++i) bins.push_back(h->GetBinContent(i));
    found.push_back(bins);
  }
  return found;
}
"""


def rdf_compiled() -> Callable[[str], Bins]:
    """Return RDataFrame with typed functions, compiled with optimisation once and kept beside the file."""
    import ROOT

    path = Path(sys.argv[2]).parent / "rdf" / "dimuon.C"
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != CODE:
        path.write_text(CODE)
    ROOT.gROOT.ProcessLine(f".L {path}+O")
    return lambda file: [list(bins) for bins in ROOT.dimuon(file)]


def rdf_string() -> Callable[[str], Bins]:
    """Return RDataFrame with expressions in strings."""
    import ROOT

    mass = (
        "std::sqrt(2. * Muon.pt[0] * Muon.pt[1] * (std::cosh(double(Muon.eta[0]) - Muon.eta[1])"
        " - std::cos(double(Muon.phi[0]) - Muon.phi[1])))"
    )

    def run(file: str) -> Bins:
        pairs = (
            ROOT.RDataFrame("events", file)
            .Filter("Muon.pt.size() == 2 && Muon.charge[0] != Muon.charge[1]")
            .Define("mass", mass)
            .Define("pt0", "double(Muon.pt[0])")
            .Define("eta0", "double(Muon.eta[0])")
        )
        columns = {"mass": "mass", "pt": "pt0", "eta": "eta0"}
        booked = [pairs.Histo1D((name, "", *AXES[name]), column) for name, column in columns.items()]
        return [[h.GetBinContent(i) for i in range(h.GetNbinsX() + 2)] for h in booked]

    return run


def coffea() -> Callable[[str], Bins]:
    """Return a coffea processor, run chunk by chunk."""
    import awkward as ak
    import hist
    import numpy as np
    from coffea import processor
    from coffea.nanoevents import BaseSchema

    class Dimuon(processor.ProcessorABC):
        def process(self, events):  # type: ignore[no-untyped-def]
            muons = events.Muon
            muons = muons[ak.num(muons.pt) == 2]
            first, second = muons[:, 0], muons[:, 1]
            opposite = first.charge != second.charge
            first, second = first[opposite], second[opposite]
            change = [ak.values_astype(first[x], "f8") - second[x] for x in ("eta", "phi")]
            pts = ak.values_astype(first.pt, "f8")
            mass = np.sqrt(2 * pts * second.pt * (np.cosh(change[0]) - np.cos(change[1])))
            found = {}
            for name, values in (("mass", mass), ("pt", pts), ("eta", ak.values_astype(first.eta, "f8"))):
                found[name] = hist.Hist(hist.axis.Regular(*AXES[name]), storage=hist.storage.Int64())
                found[name].fill(ak.to_numpy(values))
            return found

        def postprocess(self, accumulator):  # type: ignore[no-untyped-def]
            return accumulator

    runner = processor.Runner(
        executor=processor.IterativeExecutor(status=False), schema=BaseSchema, chunksize=250_000
    )

    def run(file: str) -> Bins:
        found = runner({"sample": {"files": {file: "events"}}}, processor_instance=Dimuon())
        return [found[name].values(flow=True).tolist() for name in AXES]

    return run


def bare() -> Callable[[str], Bins]:
    """Return NumPy and boost-histogram on arrays that are in memory already."""
    import boost_histogram as bh
    import numpy as np
    import uproot

    held: dict[str, tuple] = {}  # type: ignore[type-arg]

    def load(file: str) -> tuple:  # type: ignore[type-arg]
        import awkward as ak

        muons = uproot.open(file)["events"].arrays(["Muon"])["Muon"]
        columns = [ak.to_numpy(ak.flatten(muons[name])) for name in ("pt", "eta", "phi", "charge")]
        counts = ak.to_numpy(ak.num(muons.pt))
        return (np.concatenate([[0], np.cumsum(counts)]), *columns)

    def run(file: str) -> Bins:
        offsets, pt, eta, phi, charge = held[file]
        found = [bh.Histogram(bh.axis.Regular(*axis), storage=bh.storage.Int64()) for axis in AXES.values()]
        for start in range(0, len(offsets) - 1, 65_536):
            part = offsets[start : start + 65_537]
            first = part[:-1][part[1:] - part[:-1] == 2]
            first = first[charge[first] != charge[first + 1]]
            second = first + 1
            one, other = pt[first].astype("f8"), eta[first].astype("f8")
            angle = np.cosh(other - eta[second]) - np.cos(phi[first].astype("f8") - phi[second])
            for h, values in zip(found, (np.sqrt(2 * one * pt[second] * angle), one, other), strict=True):
                h.fill(values)
        return [h.values(flow=True).tolist() for h in found]

    for file in sys.argv[2:4]:
        held[file] = load(file)
    return run


SIDES = {"rdf-string": rdf_string, "rdf-compiled": rdf_compiled, "coffea": coffea, "bare": bare}


def measured(make: Callable[[], Callable[[str], Bins]], file: str, warm: str) -> dict[str, object]:
    """Return what a side took."""
    run = make()
    start_up = time.time() - float(os.environ["BENCH_BEGUN"])  # with the start of the interpreter
    times = []
    for name in (warm, warm, file):
        wall, cpu = time.perf_counter(), time.process_time()
        bins = run(name)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        "start_up": start_up, "compile": times[0][0] - times[1][0], "wall": times[2][0], "cpu": times[2][1],
        "bins": bins,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measured(SIDES[sys.argv[1]], sys.argv[2], sys.argv[3])))
