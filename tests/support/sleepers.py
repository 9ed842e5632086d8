"""Very many jobs at once on a real Slurm, under the agents: each waits at a pipe until all may go on."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright import durable
from beamwright.agents.importer import Importer
from beamwright.agents.submitter import Submitter
from beamwright.agents.tracker import Tracker
from beamwright.batch import slurm
from beamwright.db import schema
from beamwright.production import jobs
from beamwright.production.workspace import Workspace
from kill import production
from support.slurm import NODES, end, holder, running

AT_ONCE = 100
SETTINGS = """\
format = 1
[farm.near]
scheduler = "slurm"
slots = 1
poll_s = 0.2
"""
DONE = (
    '{{"status":"ok","failure_class":null,"message":"","release":"{release}","resolved_hash":"",'
    '"ledger":[],"quarantined":[],"outputs":[],"figures":{{}},"statistics":{{}}}}'
)


@dataclass
class Sleepers:
    """A workspace with so many jobs, its agents, and the pipe at which its payloads wait."""

    workspace: Workspace
    agents: list[Any]
    pipe: Path

    def turn(self) -> int:
        """Let each agent take its turn."""
        return sum(agent.turn() for agent in self.agents)

    def states(self) -> Counter[str]:
        """Count attempts by state."""
        with self.workspace.db.read() as conn:
            return Counter(conn.execute(sa.select(schema.attempt.c.state)).scalars())

    def results(self) -> Counter[str]:
        """Count jobs by state, but for those of the production that were put aside."""
        query = sa.select(schema.job.c.state).where(schema.job.c.state != "cancelled")
        with self.workspace.db.read() as conn:
            return Counter(conn.execute(query).scalars())

    def until(self, is_done: Callable[[], bool], seconds: float) -> None:
        """Let the agents work until something holds."""
        limit = time.monotonic() + seconds
        while not is_done():
            assert time.monotonic() < limit, self.states()
            if not self.turn():
                time.sleep(0.1)

    def start(self, count: int, seconds: float) -> None:
        """Have so many jobs run, some hundred more at a time: starting takes far more than running."""
        farm = self.workspace.settings.farm["near"]
        for at_once in (*range(AT_ONCE, count, AT_ONCE), count):
            object.__setattr__(farm, "slots", at_once)
            self.until(partial(self._run, at_once), seconds)

    def _run(self, count: int) -> bool:
        return self.waiting() == count and self.states() == {"running": count}

    def wrappers(self) -> list[int]:
        """Return the processes that hold the locks of their job directories."""
        with self.workspace.db.read() as conn:
            places = [Path(one) for one in conn.execute(sa.select(schema.attempt.c.directory)).scalars()]
        return [holder(one / jobs.LOCK_FILE) for one in places if durable.is_locked(one / jobs.LOCK_FILE)]

    def waiting(self) -> int:
        """Count the payloads that have come as far as the pipe."""
        return sum(1 for _ in self.workspace.root.glob("farms/*/scratch/*/here"))

    def let_go(self) -> None:
        """Let all payloads go on: a reader is woken by the first writer, one that comes later finds none."""
        while self.waiting():
            with suppress(OSError):  # nobody waits just now
                os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
            if not self.turn():
                time.sleep(0.1)


@contextmanager
def sleepers(folder: Path, count: int) -> Iterator[Sleepers]:
    """Start a Slurm whose nodes together run so many jobs at once, and make the jobs."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    done = DONE.format(release=production.RELEASE)
    shell = f"touch here; read x <{pipe}; printf '%s' '{done}' >payload.json; rm here"
    commands = {"process": ["/bin/sh", "-c", shell], "validate": ["true"]}
    workspace = Workspace.create(folder / "workspace", SETTINGS)
    _fill(workspace, count)
    with running(folder / "slurm", -(-count // len(NODES))):
        farm = slurm.make(workspace, "near", workspace.settings.farm["near"])
        farms = {"near": farm}
        agents = [Submitter(workspace, farms, commands), Tracker(workspace, farms), Importer(workspace)]
        made = Sleepers(workspace, agents, pipe)
        try:
            yield made
        finally:
            for pid in made.wrappers():
                end(pid)
            farm.close()
            workspace.db.close()


def pss_kb(pids: list[int]) -> int:
    """Return the memory of processes, what they share divided among them, in kB."""
    found = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found


def _fill(workspace: Workspace, count: int) -> None:
    """Make units without inputs and outputs."""
    raw = workspace.root / "raw"
    raw.mkdir()
    production.make(workspace.root, raw).db.close()
    with workspace.db.begin() as conn:
        conn.execute(sa.update(schema.job).values(state="cancelled"))
        limits = {"wall_s": 3600.0, "memory_mb": 100, "event_s": 5.0}
        places = [((2, number, 0), (2, number, 9)) for number in range(count)]
        rows = [production.unit_row("pass", "process", one, [], (), limits=limits) for one in places]
        production.add_units(conn, "pass", rows)
