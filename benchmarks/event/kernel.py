"""The dimuon kernel over records in memory: in the event loop, and bare; compilation apart."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from _memory import RUN, MemoryReader, cpu_seconds
from _peers import AXES
from harness import Figure, arguments, report

from beamwright.event.kernel import Counts
from beamwright.event.loop import run_path
from beamwright.event.path import Path as Steps
from beamwright.event.table import Table, offsets_of
from dimuon import BANKS, kernel_class

BENCH = "event/kernel"


def sample(n: int) -> Table:
    """Return the muons of n events."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(2.4, n)
    rows = int(counts.sum())
    columns = {
        "pt": 3 + rng.exponential(20, rows), "eta": rng.normal(0, 1.2, rows),
        "phi": rng.uniform(-np.pi, np.pi, rows), "charge": rng.choice(np.array([-1, 1]), rows),
    }  # fmt: skip
    return Table(BANKS["Muon"], offsets_of(counts), columns)


def counters() -> list[Any]:
    """Return empty histograms as a kernel fills them."""
    return [Counts(np.zeros(b + 2, np.int64), low, b / (high - low)) for b, low, high in AXES.values()]


def measure(n: int, repeat: int) -> list[Figure]:
    """Compare the event loop with one call of the compiled function."""
    muons = sample(n)
    reader = MemoryReader(n, {"Muon": muons}, BANKS)
    kernel = numba.njit(kernel_class().kernel)  # type: ignore[attr-defined]
    columns = [muons.columns[name] for name in ("pt", "eta", "phi", "charge")]
    begun = time.perf_counter()
    kernel(0, muons.offsets, *columns, *counters())
    compiling = time.perf_counter() - begun
    bins: dict[str, list[list[int]]] = {}

    def ours() -> None:
        steps = Steps("kernel", "event", [kernel_class()()], [])
        found = run_path(steps, reader, RUN, banks=BANKS)
        bins["ours"] = [found.histograms[name].counts.tolist() for name in AXES]

    def bare() -> None:
        held = counters()
        kernel(n, muons.offsets, *columns, *held)
        bins["bare"] = [one.counts.tolist() for one in held]

    ours()
    rounds = [(cpu_seconds(ours), cpu_seconds(bare)) for _ in range(repeat)]
    own, peer = (n / statistics.median(column) / 1e6 for column in zip(*rounds, strict=True))
    equal = bins["ours"] == bins["bare"]
    return [
        Figure(BENCH, "dimuon kernel, in memory", n, own, peer, "bare numba", "M ev/s", own / peer, equal),
        Figure(BENCH, "compile", n, compiling, None, "", "s", None, None),
    ]


def main() -> None:
    """Measure at N and 10 N."""
    options = arguments(__doc__, 1_000_000)
    sizes = (options.events, 10 * options.events)
    report([figure for n in sizes for figure in measure(n, options.repeat)], options.json)


if __name__ == "__main__":
    main()
