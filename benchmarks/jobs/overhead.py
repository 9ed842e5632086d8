"""What a job costs beside its payload: trivial jobs with the full protocol on two local farms.

Results are synced. Prints jobs per second for warm runners and for fresh processes, on disk and in memory
(tmpfs), what one job spends in each phase, and what it costs the agents and the rest in CPU time, which
others on the machine do not change as much as the rate. ``equal`` says that all jobs were accepted and, for
the throughput, that a further run which was killed as a whole in its middle had lost none of its finished
jobs when it ended.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import sqlalchemy as sa  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402

from acceptance import test_storm as storm  # noqa: E402
from beamwright.agents import loop  # noqa: E402
from beamwright.agents.importer import Importer  # noqa: E402
from beamwright.agents.submitter import Submitter  # noqa: E402
from beamwright.agents.tracker import Tracker  # noqa: E402
from beamwright.batch.local import LocalScheduler  # noqa: E402
from beamwright.core import garbage  # noqa: E402
from beamwright.db import schema  # noqa: E402
from beamwright.production.workspace import Workspace  # noqa: E402
from kill import production  # noqa: E402
from kill.harness import outputs_of  # noqa: E402

SLOTS = 2
PHASES = ("start", "stage", "process", "validate", "hash", "copy")


def prepare(root: Path, jobs: int) -> Workspace:
    """Make a workspace with so many prepared jobs."""
    production.enlarge(jobs, SLOTS)
    return production.make(root)


def run(
    root: Path,
    jobs: int,
    is_fresh: bool,
    make: Callable[[Path, int], Workspace] = prepare,
    commands: Mapping[str, list[str]] = production.COMMANDS,
) -> tuple[float, dict[str, float], bool]:
    """Run so many jobs; return the wall time, the seconds of each phase (the median) and those that a job
    costs the agents and the machine, and whether all went well.

    The wall time is that of as many jobs at the rate of those after the first two of each slot, with which
    wrappers and runners start; the CPU time has the start in it.
    """
    workspace = make(root, jobs)
    farms = {
        name: LocalScheduler(SLOTS, log=root / "logs" / name, fresh=is_fresh)
        for name in workspace.settings.farm
    }
    spent = {"lease": 0.0, "track": 0.0, "import": 0.0}
    agents = {
        "lease": Submitter(workspace, farms, commands),
        "track": Tracker(workspace, farms),
        "import": Importer(workspace),
    }
    garbage.seldom()
    before, started = _cpu(), None
    while left := _open(workspace):
        if started is None and jobs - left >= 2 * SLOTS * len(farms):
            started = time.perf_counter(), left
        done = 0
        for name, agent in agents.items():
            begun = time.perf_counter()
            done += agent.turn()
            spent[name] += time.perf_counter() - begun
        time.sleep(loop.rest(done))
    assert started, "so few jobs say nothing"
    wall = (time.perf_counter() - started[0]) / started[1] * jobs
    for farm in farms.values():
        farm.close()
    spent |= {name: used - before[name] for name, used in _cpu().items()}
    with workspace.db.read() as conn:
        rows = list(conn.execute(sa.select(schema.attempt)))
    workspace.db.close()
    phases = {p: statistics.median((row.timings or {}).get(p, 0.0) for row in rows) for p in PHASES}
    return (
        wall,
        phases | {n: s / jobs for n, s in spent.items()},
        all(row.state == "accepted" for row in rows),
    )


def _cpu() -> dict[str, float]:
    """Return the CPU seconds of the agents, and of the wrappers, runners and jobs that have ended."""
    found = {"agents, CPU": resource.RUSAGE_SELF, "worker, CPU": resource.RUSAGE_CHILDREN}
    usages = {name: resource.getrusage(who) for name, who in found.items()}
    return {name: usage.ru_utime + usage.ru_stime for name, usage in usages.items()}


def _open(workspace: Any) -> int:
    with workspace.db.read() as conn:
        return production.open_jobs(conn)


def main() -> None:
    options = arguments(__doc__, 200)
    figures = []
    memory = Path("/dev/shm")
    places = {"disk": None, **({"tmpfs": memory} if memory.is_dir() else {})}
    for name, is_fresh in (("warm runners", False), ("a process per job", True)):
        for place, parent in places.items():
            with tempfile.TemporaryDirectory(dir=parent) as folder:
                wall, phases, is_well = run(Path(folder) / "workspace", options.events, is_fresh)
                lost = survives(Path(folder), options.events // 4, is_fresh)
            common = ("jobs/overhead", options.events)
            rate = options.events / wall
            figures.append(
                _figure(common, f"{name}, {place}: throughput", rate, "jobs/s", is_well and not lost)
            )
            shown = phases if place == "disk" else {n: s for n, s in phases.items() if "CPU" in n}
            figures += [
                _figure(common, f"{name}, {place}: {p}", 1e3 * s, "ms", is_well) for p, s in shown.items()
            ]
    report(figures, options.json)


def survives(folder: Path, jobs: int, is_fresh: bool) -> list[str]:
    """Kill everything in the middle of a run, end it, and return the finished jobs that were lost."""
    root, units = folder / "killed", max(10, jobs // 10 * 10)
    process = storm.start(root, units, is_fresh)
    while storm.done(root) < units and process.poll() is None:
        time.sleep(0.01)
    for pid in [process.pid, *storm.below(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    before = outputs_of(root)
    while storm.start(root, units, is_fresh).wait():
        pass
    after = outputs_of(root)
    return sorted(name for name, content in before.items() if after.get(name) != content)


def _figure(common: tuple[str, int], work: str, ours: float, unit: str, is_well: bool) -> Figure:
    return Figure(common[0], work, common[1], ours, None, "", unit, None, is_well)


if __name__ == "__main__":
    main()
