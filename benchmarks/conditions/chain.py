"""What a chain costs per run beside the jobs: planning collector and fit, storing, sweeping, advancing.

The calibrator works on a workspace with SQLite, every commit synced; jobs end at once. Wall time, and its CPU
time alone. The goal: below 200 ms per run, however long the chain. There is no peer.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tests")]

from harness import Figure, arguments, report  # noqa: E402

from beamwright.production.workspace import Workspace  # noqa: E402
from support.chain_bench import SPEC, ChainBench  # noqa: E402

BENCH = "conditions/chain"
HITS = 50
WATCHED_S = 2.0  # of the simulated clock: jobs that end unseen are found after this time


def rolled(root: Path, runs: int) -> tuple[Any, bool]:
    """Roll a chain over so many runs; return (wall, CPU) seconds of each, and whether all got constants."""
    Workspace.create(root).db.close()
    numbers = list(range(1, runs + 1))
    bench = ChainBench(root, SPEC.replace("[1, 2, 3, 4]", str(numbers)).replace("max_runs = 2\n", ""))
    times = []
    for run in numbers:
        bench.bring(run)
        spent = turned(bench)
        for unit in bench.jobs("collect"):
            bench.collect(unit, HITS)
        spent += turned(bench)
        for unit in bench.jobs("fit"):
            bench.propose(unit, "accept", 1.0 + run / 1000)
        times.append(spent + turned(bench))
    stored = bench.check_constants()
    return times, sorted(stored) == numbers and len(set(stored.values())) == runs


def turned(bench: ChainBench) -> Any:
    """Return the seconds, wall and CPU, that the calibrator takes until it has nothing more to do."""
    start = np.array([time.perf_counter(), time.process_time()])
    done = 1
    while done:
        bench.clock.sleep(WATCHED_S)
        done = bench.calibrator.turn()
    return np.array([time.perf_counter(), time.process_time()]) - start


def main() -> None:
    """Roll chains of two lengths; the last runs of each count."""
    options = arguments(__doc__, events=200)
    figures = []
    for runs in (options.events // 10, options.events):
        with tempfile.TemporaryDirectory() as folder:
            times, same = rolled(Path(folder) / "workspace", runs)
        for what, ours in zip(("wall", "CPU"), 1000 * np.median(times[-10:], axis=0), strict=True):
            work = f"the last 10 of {runs} runs, {what} time"
            figures.append(Figure(BENCH, work, runs, float(ours), None, "", "ms/run", None, same))
    report(figures, options.json)


if __name__ == "__main__":
    main()
