"""One round of the agents over very many running jobs, of which nothing is new: their own work, CPU time."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import sqlalchemy as sa  # noqa: E402
from harness import Figure, arguments, cpu_seconds, report, side_by_side  # noqa: E402
from many import many  # noqa: E402

from beamwright import durable  # noqa: E402
from beamwright.agents.importer import Importer  # noqa: E402
from beamwright.agents.submitter import Submitter  # noqa: E402
from beamwright.agents.tracker import Tracker  # noqa: E402
from beamwright.batch.scheduler import JobSpec, Status  # noqa: E402
from beamwright.core.settings import Farm  # noqa: E402
from beamwright.db import schema  # noqa: E402


class Running:
    """A batch system at which all jobs run for ever."""

    def __init__(self) -> None:
        self.jobs: dict[str, Status] = {}
        self.locks: list[durable.FileLock] = []

    def submit(self, jobs: list[JobSpec]) -> list[str]:
        ids = [f"{len(self.jobs) + number}" for number in range(len(jobs))]
        self.jobs |= dict.fromkeys(ids, Status("running"))
        for job in jobs:
            self.locks.append(durable.FileLock(job.directory / "lock"))
            self.locks[-1].acquire()
        return ids

    def poll(self) -> dict[str, Status]:
        return dict(self.jobs)


def main() -> None:
    options = arguments(__doc__, 1200)
    figures = []
    for jobs in (options.events // 10, options.events):
        with many(jobs + 100) as made:
            made.create()
            farm, workspace = Running(), made.workspace
            slots = {"near": Farm(slots=jobs)}
            object.__setattr__(workspace.settings, "farm", slots)
            farms = {"near": farm}
            agents = [Submitter(workspace, farms), Tracker(workspace, farms), Importer(workspace)]
            start = time.perf_counter()
            for agent in agents:
                agent.turn()
            begin = time.perf_counter() - start
            turn = side_by_side([cpu_seconds(lambda: [agent.turn() for agent in agents])], options.repeat)[0]  # noqa: B023
            with workspace.db.read() as conn:
                states = conn.execute(sa.select(schema.attempt.c.state)).scalars().all()
            is_well = states == ["running"] * jobs
        figures.append(Figure("jobs/reconcile", "start them", jobs, begin, None, "", "s", None, is_well))
        figures.append(Figure("jobs/reconcile", "look at them", jobs, turn, None, "", "s", None, is_well))
    report(figures, options.json)


if __name__ == "__main__":
    main()
