"""The agents on a simulated clock: a graph of jobs from prepared to accepted, one in ten failing on the way.

An agent event is a line of history: one change of one thing's state, with who, when and why.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import sqlalchemy as sa  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402
from many import EVENTS, many  # noqa: E402

from beamwright.agents.simulate import Behaviour, Simulation  # noqa: E402
from beamwright.core.clock import ManualClock  # noqa: E402
from beamwright.core.settings import Farm  # noqa: E402
from beamwright.db import schema  # noqa: E402
from beamwright.production.workspace import Workspace  # noqa: E402


def main() -> None:
    options = arguments(__doc__, 20_000)
    figures = []
    for jobs in (options.events // 10, options.events):
        with many(jobs) as made:
            made.create()
            workspace = Workspace(made.workspace.root, made.workspace.settings, ManualClock(1e6))
            object.__setattr__(workspace.settings, "farm", {"near": Farm(slots=1200)})
            with workspace.db.begin() as conn:  # the jobs of the trivial production are of another size
                conn.execute(sa.update(schema.job).where(schema.job.c.id <= 2).values(state="held"))
            failures = {"lost": 0.03, "node": 0.04, "application_crash": 0.03}
            before = _lines(workspace)
            simulation = Simulation(
                workspace, {"near": Behaviour(3600.0, 0.5, failures)}, records=EVENTS, turn_s=300.0
            )
            start = time.process_time()
            simulation.run()
            cpu = time.process_time() - start
            events = _lines(workspace) - before
            with workspace.db.read() as conn:
                query = sa.select(sa.func.count()).where(schema.job.c.state == "ok")
                is_well = conn.execute(query).scalar_one() >= 0.99 * jobs
            workspace.db.close()
        rate = events / cpu
        figures.append(
            Figure("jobs/simulate", "agent events", jobs, rate, None, "", "per CPU s", None, is_well)
        )
        figures.append(
            Figure("jobs/simulate", "jobs", jobs, jobs / cpu, None, "", "per CPU s", None, is_well)
        )
    report(figures, options.json)


def _lines(workspace: Workspace) -> int:
    with workspace.db.read() as conn:
        return int(conn.execute(sa.select(sa.func.count()).select_from(schema.history)).scalar_one())


if __name__ == "__main__":
    main()
