"""Very many jobs at once on a real Slurm, whose nodes are declared large enough: how soon all of them run,
what a round of the agents over them costs, the memory of their wrappers, and how soon all are taken in.

The payloads wait at a pipe. Needs Slurm's programs, and 6 to 12 MB of memory for each job.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from harness import Figure, arguments, cpu_seconds, report, side_by_side  # noqa: E402

from support.sleepers import pss_kb, sleepers  # noqa: E402
from support.slurm import missing  # noqa: E402

PATIENCE_S = 1200.0


def measure(count: int, repeat: int) -> list[Figure]:
    """Return the figures of so many jobs."""
    with tempfile.TemporaryDirectory() as name, sleepers(Path(name), count) as jobs:
        start = time.perf_counter()
        jobs.start(count, PATIENCE_S)
        begin = time.perf_counter() - start
        turn = side_by_side([cpu_seconds(jobs.turn)], repeat)[0]
        wrappers = jobs.wrappers()
        memory = pss_kb(wrappers) / 1024
        start = time.perf_counter()
        jobs.let_go()
        jobs.until(lambda: jobs.states() == {"accepted": count}, PATIENCE_S)
        end = time.perf_counter() - start
        is_well = len(set(wrappers)) == count and jobs.results() == {"ok": count}
    figures = [("until all run", begin, "s"), ("a round of the agents, CPU time", turn, "s")]
    figures += [("PSS of all wrappers", memory, "MB"), ("PSS of a wrapper", memory / count, "MB")]
    figures += [("until all are taken in", end, "s")]
    return [
        Figure("jobs/at_once", work, count, x, None, "", unit, None, is_well) for work, x, unit in figures
    ]


def main() -> None:
    options = arguments(__doc__, 1200)
    if absent := missing():
        print(f"Slurm is not installed: no {', '.join(absent)}", file=sys.stderr)
        return
    counts = (options.events // 10, options.events)
    report([one for count in counts for one in measure(count, options.repeat)], options.json)


if __name__ == "__main__":
    main()
