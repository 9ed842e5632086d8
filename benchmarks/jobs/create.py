"""Making very many jobs with their inputs: cut from one chunk, written in one transaction, all syncs on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from harness import Figure, arguments, report  # noqa: E402
from many import many  # noqa: E402


def main() -> None:
    options = arguments(__doc__, 100_000)
    figures = []
    for jobs in (options.events // 10, options.events):
        with many(jobs) as made:
            start, cpu = time.perf_counter(), time.process_time()
            new = made.create()
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            start = time.perf_counter()
            again = made.create()
            second = time.perf_counter() - start
            is_well = (new, again) == (jobs, 0)
        figures.append(Figure("jobs/create", "create", jobs, wall, None, "", "s", None, is_well))
        figures.append(Figure("jobs/create", "create, CPU time", jobs, cpu, None, "", "s", None, is_well))
        figures.append(
            Figure("jobs/create", "find them all there", jobs, second, None, "", "s", None, is_well)
        )
    report(figures, options.json)


if __name__ == "__main__":
    main()
