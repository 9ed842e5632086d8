"""What a job costs beside its payload: trivial jobs with the full protocol on two local farms, all syncs on.

Prints jobs per second for warm runners and for fresh processes, and what one job spends in each phase.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import sqlalchemy as sa  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402

from beamwright.agents.importer import Importer  # noqa: E402
from beamwright.agents.submitter import Submitter  # noqa: E402
from beamwright.agents.tracker import Tracker  # noqa: E402
from beamwright.batch.local import LocalScheduler  # noqa: E402
from beamwright.db import schema  # noqa: E402
from kill import production  # noqa: E402

PHASES = ("start", "stage", "process", "validate", "hash", "copy")


def run(root: Path, jobs: int, is_fresh: bool) -> tuple[float, dict[str, float], bool]:
    """Run so many jobs; return the wall time, the median seconds of each phase, and whether all went well."""
    production.SECTIONS, production.UNIT = jobs * production.UNIT, production.UNIT
    workspace = production.make(root)
    farms = {
        name: LocalScheduler(1, log=root / "logs" / name, fresh=is_fresh) for name in workspace.settings.farm
    }
    spent = {"lease": 0.0, "track": 0.0, "import": 0.0}
    agents = {
        "lease": Submitter(workspace, farms, production.COMMANDS),
        "track": Tracker(workspace, farms),
        "import": Importer(workspace),
    }
    start = time.perf_counter()
    while _open(workspace):
        done = 0
        for name, agent in agents.items():
            begun = time.perf_counter()
            done += agent.turn()
            spent[name] += time.perf_counter() - begun
        if not done:
            next(iter(farms.values())).wait(0.002)
    wall = time.perf_counter() - start
    for farm in farms.values():
        farm.close()
    with workspace.db.read() as conn:
        rows = list(conn.execute(sa.select(schema.attempt)))
    workspace.db.close()
    phases = {p: statistics.median(row.timings.get(p, 0.0) for row in rows) for p in PHASES}
    return (
        wall,
        phases | {n: s / jobs for n, s in spent.items()},
        all(row.state == "accepted" for row in rows),
    )


def _open(workspace: Any) -> int:
    with workspace.db.read() as conn:
        return production.open_jobs(conn)


def main() -> None:
    options = arguments(__doc__, 200)
    figures = []
    for name, is_fresh in (("warm runners", False), ("a process per job", True)):
        production.SECTIONS = 1
        with tempfile.TemporaryDirectory() as folder:
            wall, phases, is_well = run(Path(folder) / "workspace", options.events, is_fresh)
        common = ("jobs/overhead", options.events)
        figures.append(_figure(common, f"{name}: throughput", options.events / wall, "jobs/s", is_well))
        figures += [_figure(common, f"{name}: {p}", 1000 * s, "ms", is_well) for p, s in phases.items()]
    report(figures, options.json)


def _figure(common: tuple[str, int], work: str, ours: float, unit: str, is_well: bool) -> Figure:
    return Figure(common[0], work, common[1], ours, None, "", unit, None, is_well)


if __name__ == "__main__":
    main()
