"""Summaries, lists and explanations of tasks with very many jobs; CPU time of this process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from harness import Figure, arguments, cpu_seconds, report, side_by_side  # noqa: E402
from many import many  # noqa: E402

from beamwright.db import lookup  # noqa: E402
from beamwright.production import counting, explain, listing  # noqa: E402
from beamwright.production.listing import Wanted  # noqa: E402

PAGE = 1000
WORKS = (
    "summary of a task", "failures by class, farm and node", "a page of 1,000 jobs, and how many there are",
    "jobs that failed in a class at a farm since a time", "explanation of a task",
)  # fmt: skip


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
                    return counting.summary(conn, lookup.find_task(conn, "p/pass"), time.time())

            def failures() -> int:
                with db.read() as conn:  # noqa: B023
                    return sum(int(row["attempts"]) for row in counting.failures(conn))

            def page() -> tuple[int, int]:
                with db.read() as conn:  # noqa: B023
                    wanted = Wanted(listing.tasks(conn, name="p/pass"), ("ok",))
                    return len(listing.page(conn, wanted, PAGE)), listing.number(conn, wanted)

            def chosen() -> tuple[int, int]:
                wanted = Wanted((1,), ("ok",), "application_error", "farm1", 2.0)
                with db.read() as conn:  # noqa: B023
                    return len(listing.page(conn, wanted, PAGE)), listing.number(conn, wanted)

            def explained() -> str:
                with db.read() as conn:  # noqa: B023
                    return explain.explain(conn, "p/pass").what

            is_well = summary()["states"] == {"ok": jobs + 2} and failures() == (jobs + 2) // 100
            is_well = is_well and page() == (PAGE, jobs + 2) and f"{jobs + 2} units" in explained()
            is_well = is_well and chosen()[1] == sum(
                job % 100 == 0 and job % 3 == 1 for job in range(1, jobs + 3)
            )
            works = (summary, failures, page, chosen, explained)
            walls = side_by_side([cpu_seconds(work) for work in works], options.repeat)
        for work, wall in zip(WORKS, walls, strict=True):
            figures.append(Figure("jobs/summary", work, jobs, 1000 * wall, None, "", "ms", None, is_well))
    report(figures, options.json)


if __name__ == "__main__":
    main()
