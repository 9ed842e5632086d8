"""A workspace with very many jobs, for the benchmarks of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import sqlalchemy as sa  # noqa: E402

from beamwright.core.runs import SECTION_MAX, Interval  # noqa: E402
from beamwright.db import schema  # noqa: E402
from beamwright.production import splitting  # noqa: E402
from beamwright.production.spec import StepSpec  # noqa: E402
from beamwright.production.splitting import Covered, Item  # noqa: E402
from beamwright.production.tasks import Facts, Task  # noqa: E402
from beamwright.production.units import UnitPlan, add_units  # noqa: E402
from beamwright.production.workspace import Workspace  # noqa: E402
from kill import production  # noqa: E402

EVENTS = 10


@dataclass(frozen=True)
class Many:
    """A workspace, its task, and an item that so many units are cut from."""

    workspace: Workspace
    task: Task
    item: Item

    def plan(self) -> list[UnitPlan]:
        """Cut the units."""
        intervals = [interval for interval, _ in splitting.ranges(self.item, EVENTS)]
        covered = dict.fromkeys(intervals, Covered())
        return splitting.process_units(self.task, self.item, covered, splitting.Run(), EVENTS)

    def create(self) -> int:
        """Cut the units and make their jobs in one transaction; return how many are new."""
        with self.workspace.db.begin() as conn:
            return len(add_units(conn, self.task, self.plan(), 0.0))

    def run_all(self) -> None:
        """Write accepted attempts at all jobs, as if they had run; one in a hundred failed once before."""
        with self.workspace.db.begin() as conn:
            ids = list(conn.execute(sa.select(schema.job.c.id)).scalars())
            rows = [_attempt(job_id, 1, job_id % 100 == 0) for job_id in ids]
            rows += [_attempt(job_id, 2, False) for job_id in ids if job_id % 100 == 0]
            conn.execute(sa.insert(schema.attempt), rows)
            conn.execute(sa.update(schema.job).values(state="ok"))


def _attempt(job_id: int, number: int, has_failed: bool) -> dict[str, Any]:
    end: dict[str, Any] = {"state": "accepted", "failure_class": None, "message": None}
    if has_failed:
        end = {"state": "rejected", "failure_class": "application_error", "message": "told to fail"}
    place = {"farm": f"farm{job_id % 3}", "host": f"node{job_id % 50}", "directory": "", "batch_id": "1"}
    times = {"leased": 1.0, "deadline": 9.0, "started": 2.0, "ended": 3.0 + job_id % 7, "cpu_s": 0.9}
    times |= {"wall_s": 1.0, "max_rss_kb": 1000, "exit_code": 0}
    return {"job_id": job_id, "number": number, "nonce": f"{job_id}-{number}"} | place | times | end


@contextmanager
def many(jobs: int) -> Iterator[Many]:
    """Make a workspace for so many jobs."""
    with TemporaryDirectory() as folder:
        workspace = production.make(Path(folder) / "workspace")
        step = StepSpec(name="pass", inputs=["data"], path="main", split=EVENTS)
        facts = Facts("event", {"dst": "dst", "skim": "skim"}, records=("event",))
        task = Task(1, 1, "p", "trivial", production.RELEASE, "active", 1, "c", step, facts)
        sections = np.arange(jobs * EVENTS) // 100
        keys = (sections, np.arange(jobs * EVENTS) % 100)
        place = {"kind": "raw", "reader": "trivial", "role": "main", "interval": None}
        raw: Any = {"path": "/raw", "name": "raw:chunk0", "sha256": "0" * 64, "size": 1} | place
        interval = Interval.sections("M", 1, 0, SECTION_MAX)
        counted = {"event": jobs * EVENTS}
        item = Item(interval, (raw,), "", False, False, counted, chunk_ids=(1,), keys=keys)
        try:
            yield Many(workspace, task, item)
        finally:
            workspace.db.close()
