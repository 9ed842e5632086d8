"""Dimuon selection and three histograms over one file of jagged muons: ours, RDataFrame, coffea, bare NumPy.

Every side runs in a process of its own, on the same RNTuple file. Start-up and compilation are reported
apart; figures are events per second of CPU time, that of all threads of a side. The bins must be equal.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
import venv
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from _peers import AXES, measured
from harness import Figure, arguments, report

from beamwright.cli.process import keep_memory
from beamwright.core.histogram import Axis, HistogramSet
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.loop import run_path
from beamwright.event.module import Module
from beamwright.event.path import Path as Steps
from beamwright.event.store import CollectionReader, StreamWriter
from beamwright.event.table import Table, offsets_of

BENCH = "event/dimuon"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "beamwright-bench"
COLUMNS = {"pt": "f4", "eta": "f4", "phi": "f4", "charge": "i4"}
BANKS = BankSet.from_document({"Muon": {"columns": {name: {"type": kind} for name, kind in COLUMNS.items()}}})
WARM_UP = 10_000
CHUNK = 100_000
FORMS = ("columns", "columns, compiled pages", "kernel")


class Dimuon(Module):
    """Two muons of opposite charge: their mass, and momentum and pseudorapidity of the first."""

    reads = ("Muon",)

    def book(self, histograms: HistogramSet) -> None:
        self.mass, self.pt, self.eta = (histograms.book(name, Axis(*AXES[name])) for name in AXES)

    def process(self, batch: Batch) -> None:
        muons = batch["Muon"]
        starts = muons.offsets[:-1]
        first = starts[np.flatnonzero(muons.counts == 2)]
        first = first[muons.charge[first] != muons.charge[first + 1]]
        second = first + 1
        pt, eta = muons.pt[first].astype("f8"), muons.eta[first].astype("f8")
        angle = np.cosh(eta - muons.eta[second]) - np.cos(muons.phi[first].astype("f8") - muons.phi[second])
        batch.fill(self.mass, np.sqrt(2 * pt * muons.pt[second] * angle))
        batch.fill(self.pt, pt)
        batch.fill(self.eta, eta)


@cache
def kernel_class() -> type[Module]:
    """Return the same as a kernel; compiled once for all its modules."""
    from beamwright.event.kernel import KernelModule, fill

    class Kernel(KernelModule):
        reads = ("Muon",)

        def book(self, histograms: HistogramSet) -> None:
            self.mass, self.pt, self.eta = (histograms.book(name, Axis(*AXES[name])) for name in AXES)

        @staticmethod
        def kernel(n, Muon, Muon_pt, Muon_eta, Muon_phi, Muon_charge, mass, pt, eta):  # type: ignore[no-untyped-def]
            for i in range(n):
                a, b = Muon[i], Muon[i] + 1
                if Muon[i + 1] - a == 2 and Muon_charge[a] != Muon_charge[b]:
                    one, other = np.float64(Muon_pt[a]), np.float64(Muon_eta[a])
                    angle = math.cosh(other - Muon_eta[b]) - math.cos(np.float64(Muon_phi[a]) - Muon_phi[b])
                    fill(mass, math.sqrt(2 * one * Muon_pt[b] * angle))
                    fill(pt, one)
                    fill(eta, other)

    return Kernel


def ours(module: Module, file: str) -> list[list[float]]:
    """Run a module over a file, from opening it on."""
    with CollectionReader([file]) as reader:
        path = Steps("dimuon", "event", [module], [])
        found = run_path(path, reader, Interval.sections("A", 1), banks=BANKS)
    return [found.histograms[name].counts.tolist() for name in AXES]


def sample(path: Path, n: int) -> Path:
    """Write n events with 2.4 muons on average; eta and phi have 12 bits of mantissa, as in analysis data."""
    if path.exists():
        return path
    lineage = Lineage("bench", "b", "s", "p", "dst", "dst", "A", "r", "c")
    rng = np.random.default_rng(1)
    partial = path.with_suffix(".part")
    partial.unlink(missing_ok=True)
    with StreamWriter(partial, "dst", BANKS, lineage) as writer:
        for start in range(0, n, CHUNK):
            events = np.arange(start, min(start + CHUNK, n), dtype=np.uint64)
            counts = rng.poisson(2.4, len(events))
            rows = int(counts.sum())
            batch = Batch("event", "A", 1, (events // 1000).astype("u4"), events, banks=BANKS)
            muons = {
                "pt": (3 + rng.exponential(20, rows)).astype("f4"),
                "eta": _coarse(rng.normal(0, 1.2, rows)),
                "phi": _coarse(rng.uniform(-np.pi, np.pi, rows)),
                "charge": rng.choice(np.array([-1, 1], "i4"), rows),
            }
            batch["Muon"] = Table("Muon", offsets_of(counts), muons)
            writer.write(batch)
        writer.close()
    partial.rename(path)
    return path


def _coarse(values: Any) -> Any:
    return (values.astype("f4").view("u4") & 0xFFFFF800).view("f4")


def coffea_python() -> str:
    """Return the interpreter of a virtual environment with coffea, made on first use."""
    folder = CACHE / "coffea"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "coffea"], check=True)
    return str(python)


def side(name: str, file: Path, warm: Path) -> dict[str, Any]:
    """Run one side in a process of its own, and return what it measured."""
    here = Path(__file__)
    if name in FORMS:
        command = [sys.executable, str(here), "--side", name]
    elif name.startswith("rdf"):
        command = [sys.executable, "-W", "ignore", str(here.with_name("_peers.py")), name]
    else:
        command = [coffea_python(), "-W", "ignore", str(here.with_name("_peers.py")), name]
    environment = os.environ | {"BENCH_BEGUN": repr(time.time())}
    command += [str(file), str(warm)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(n: int, repeat: int) -> list[Figure]:
    """Measure all sides in turn, several times; the median of each counts."""
    CACHE.mkdir(parents=True, exist_ok=True)
    file, warm = sample(CACHE / f"dimuon-{n}.root", n), sample(CACHE / f"dimuon-{WARM_UP}.root", WARM_UP)
    names = (*FORMS, "rdf-string", "rdf-compiled", "coffea", "bare")
    rounds = [{name: side(name, file, warm) for name in names} for _ in range(repeat)]
    bins = rounds[0]["columns"]["bins"]
    equal = {name: all(found[name]["bins"] == bins for found in rounds) for name in names}

    def rate(name: str, what: str = "cpu") -> float:
        return n / statistics.median(found[name][what] for found in rounds) / 1e6

    peers = {"rdf-string": "RDataFrame, strings", "rdf-compiled": "RDataFrame, compiled", "coffea": "coffea",
             "bare": "NumPy, boost-histogram in memory"}  # fmt: skip
    figures = [
        Figure(
            BENCH, f"dimuon, {form}", n, rate(form), rate(peer), name, "M ev/s", rate(form) / rate(peer),
            equal[form] and equal[peer],
        )
        for form in FORMS
        for peer, name in peers.items()
    ]  # fmt: skip
    figures += [
        Figure(BENCH, f"{what}, {name}", n, statistics.median(found[name][key] for found in rounds), None, "",
               "s", None, None)
        for name in names
        for what, key in (("start-up", "start_up"), ("compile", "compile"))
    ]  # fmt: skip
    return figures


def main() -> None:
    """Measure at N and 10 N, or one side as a child of this benchmark."""
    if sys.argv[1:2] == ["--side"]:
        keep_memory()  # as the command does
        if sys.argv[2] == "columns, compiled pages":
            from beamwright.event.rntuple import compiled

            compiled.use()
        make = kernel_class() if sys.argv[2] == "kernel" else Dimuon
        found = measured(lambda: lambda file: ours(make(), file), sys.argv[3], sys.argv[4])
        print(json.dumps(found))
        return
    options = arguments(__doc__, 1_000_000)
    figures = [figure for n in (options.events, 10 * options.events) for figure in compare(n, options.repeat)]
    report(figures, options.json)


if __name__ == "__main__":
    main()
