"""Two workers on a path bound by the processor, against two copies of the one-worker job side by side."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from _memory import RUN, MemoryReader
from harness import Figure, arguments, report

from beamwright.core.lineage import Lineage
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.loop import run_path
from beamwright.event.module import Module
from beamwright.event.path import Output
from beamwright.event.path import Path as Steps
from beamwright.event.table import Table, offsets_of

BENCH = "event/workers"
BANKS = BankSet.from_document(
    {
        "Hit": {"columns": {"t": {"type": "f4"}, "charge": {"type": "f4"}}},
        "Fit": {"rows": "one", "columns": {"t": {"type": "f4"}, "quality": {"type": "f4"}}},
    }
)
LINEAGE = Lineage("bench", "b", "s", "p", "dst", "dst", "A", "r", "c")


class Fit(Module):
    """Takes some 50 µs of processor time per event, as a reconstruction does, and no memory to speak of."""

    reads = ("Hit",)
    writes = ("Fit",)

    def process(self, batch: Batch) -> None:
        hits = batch["Hit"]
        mean = np.zeros(batch.n)
        weights = hits.charge.astype("f8")
        for step in range(40):
            weights = hits.charge / (1 + (hits.t - mean[hits.record_index]) ** 2 / (1 + step))
            whole = np.bincount(hits.record_index, weights, minlength=batch.n)
            moment = np.bincount(hits.record_index, weights * hits.t, minlength=batch.n)
            mean = moment / np.maximum(whole, 1e-9)
        quality = np.bincount(hits.record_index, weights, minlength=batch.n)
        batch["Fit"] = Table.one("Fit", {"t": mean, "quality": quality})


def sample(n: int) -> Table:
    """Return the hits of n events, 60 each on average."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(60, n)
    rows = int(counts.sum())
    return Table(BANKS["Hit"], offsets_of(counts), {"t": rng.normal(0, 5, rows), "charge": rng.random(rows)})


def work(reader: MemoryReader, file: Path, workers: int) -> None:
    """Run the path."""
    steps = Steps("fit", "event", [Fit()], [Output("dst", ["Hit", "Fit"])])
    file.unlink(missing_ok=True)
    run_path(
        steps, reader, RUN, banks=BANKS, outputs={"dst": file}, lineage=lambda stream: LINEAGE,
        workers=workers, batch_events=500,
    )  # fmt: skip


def copies(reader: MemoryReader, files: list[Path]) -> float:
    """Run the one-worker job in several processes at once; return the wall seconds until all are done."""
    begun = time.perf_counter()
    pids = []
    for file in files:
        pid = os.fork()
        if not pid:
            work(reader, file, 1)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("a copy of the job failed")
    return time.perf_counter() - begun


def pool(reader: MemoryReader, file: Path) -> float:
    """Run the job with two workers; return the wall seconds."""
    begun = time.perf_counter()
    pid = os.fork()
    if not pid:
        work(reader, file, 2)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the job failed")
    return time.perf_counter() - begun


def measure(n: int, repeat: int) -> Figure:
    """Compare events per second: 2 n in two copies, n in one job with two workers."""
    reader = MemoryReader(n, {"Hit": sample(n)}, BANKS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / "a.root", folder / "b.root"]
        rounds = [(pool(reader, folder / "two.root"), copies(reader, files)) for _ in range(repeat)]
        equal = (folder / "two.root").read_bytes() == files[0].read_bytes() == files[1].read_bytes()
    own = n / statistics.median(pair[0] for pair in rounds)
    peer = 2 * n / statistics.median(pair[1] for pair in rounds)
    return Figure(
        BENCH, "2 workers, 60 hits fitted", n, own, peer, "two jobs of one worker", "ev/s", own / peer, equal
    )


def main() -> None:
    """Measure at N and 10 N."""
    options = arguments(__doc__, 20_000)
    report([measure(n, options.repeat) for n in (options.events, 10 * options.events)], options.json)


if __name__ == "__main__":
    main()
