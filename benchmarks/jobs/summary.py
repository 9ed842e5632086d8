"""Summaries of tasks with very many jobs, as ``task show`` tells them; CPU time of this process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from harness import Figure, arguments, cpu_seconds, report, side_by_side  # noqa: E402
from many import many  # noqa: E402

from beamwright.production import counting, handling  # noqa: E402


def main() -> None:
    options = arguments(__doc__, 100_000)
    figures = []
    for jobs in (options.events // 10, options.events):
        with many(jobs) as made:
            made.create()
            made.run_all()
            db = made.workspace.db

            def summary() -> dict[str, object]:
                with db.read() as conn:  # noqa: B023
                    return counting.summary(conn, handling.find_task(conn, "p/pass"), time.time())

            def failures() -> int:
                with db.read() as conn:  # noqa: B023
                    return sum(int(row["attempts"]) for row in counting.failures(conn))

            is_well = summary()["states"] == {"ok": jobs + 2} and failures() == (jobs + 2) // 100
            told, counted = side_by_side([cpu_seconds(summary), cpu_seconds(failures)], options.repeat)
        for work, wall in (("summary of a task", told), ("failures by class, farm and node", counted)):
            figures.append(Figure("jobs/summary", work, jobs, 1000 * wall, None, "", "ms", None, is_well))
    report(figures, options.json)


if __name__ == "__main__":
    main()
