"""The submitter: leases attempts at prepared jobs and hands their directories to batch systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from beamwright.batch.scheduler import JobSpec, Scheduler
from beamwright.core.errors import SchedulerDownError, SchedulerError, StorageError
from beamwright.db import history, schema
from beamwright.production import jobs
from beamwright.production.broker import Candidate, assign
from beamwright.production.workspace import Workspace

ACTOR = jobs.ACTOR
# So many jobs are looked at for each free slot: some may be bound to a farm that is full.
AHEAD = 20


@dataclass
class Submitter:
    """Submits what is prepared, as far as the farms have room; ``commands`` start payload and validation."""

    workspace: Workspace
    schedulers: Mapping[str, Scheduler]
    commands: Mapping[str, list[str]] = field(default_factory=lambda: jobs.COMMANDS)
    name: str = ACTOR

    def turn(self) -> int:
        """Lease, write and submit; return how many attempts were submitted.

        Raises: StorageError when a job directory cannot be written.
        """
        now = self.workspace.clock.now()
        pairs = self.decide(now)
        if not pairs:
            return 0
        with self.workspace.db.begin() as conn:
            leases = [
                jobs.lease(conn, self.workspace, job_id, farm, now, self.commands) for job_id, farm in pairs
            ]
        for leased in leases:
            self._write(leased)
        for farm in sorted(self.schedulers):
            self._submit(farm, [leased for leased in leases if leased.farm == farm])
        return len(leases)

    def decide(self, now: float) -> list[tuple[int, str]]:
        """Return which prepared job goes to which farm."""
        farms = {n: f for n, f in self.workspace.settings.farm.items() if n in self.schedulers}
        with self.workspace.db.read() as conn:
            busy = dict.fromkeys(farms, 0)
            if not jobs.has_prepared(conn, now):
                return []
            done = self._finished(farms)
            farms = {name: farms[name] for name in done}
            for farm, batch_id in jobs.held_slots(conn):
                if farm in busy and batch_id not in done[farm]:
                    busy[farm] += 1
            free = sum(max(0, farms[name].slots - busy[name]) for name in farms)
            found = jobs.prepared(conn, now, AHEAD * free) if free else []
        return assign([Candidate(*row) for row in found], farms, busy)

    def _finished(self, farms: Iterable[str]) -> dict[str, set[str]]:
        """Return, for each farm that answers, the jobs that take no more room, imported or not."""
        finished = {}
        for farm in farms:
            with suppress(SchedulerDownError):
                polled = self.schedulers[farm].poll().items()
                finished[farm] = {i for i, status in polled if status.state == "finished"}
        return finished

    def _write(self, leased: jobs.Lease) -> None:
        try:
            jobs.write_job_directory(leased, self.workspace.secret)
        except OSError as error:
            message = f"the job directory {leased.places.job} cannot be written: {error.strerror}"
            hint = "make room on its file system, then run the same command again: the lease is taken back"
            raise StorageError(message, hint=hint) from error

    def _submit(self, farm: str, leases: Sequence[jobs.Lease]) -> None:
        if not leases:
            return
        try:
            batch_ids = self.schedulers[farm].submit([_spec(leased) for leased in leases])
        except SchedulerError as error:
            self._refused(leases, error)
            return
        now = self.workspace.clock.now()
        with self.workspace.db.begin() as conn:
            for leased, batch_id in zip(leases, batch_ids, strict=True):
                values: dict[str, Any] = {"at": now, "batch_id": batch_id}
                history.move(
                    conn, schema.attempt, leased.attempt_id, "leased", "submitted", actor=ACTOR, **values
                )

    def _refused(self, leases: Sequence[jobs.Lease], error: SchedulerError) -> None:
        """Take the leases back when the batch system took none of the jobs."""
        now, tries = self.workspace.clock.now(), self.workspace.settings.limits.tries
        stayed = [leased for leased in leases if jobs.revoke(leased.places)]
        with self.workspace.db.begin() as conn:
            for leased in stayed:
                row = jobs.attempt_row(conn, leased.attempt_id)
                jobs.lose(conn, row, str(error), failure_class="submit", tries=tries, actor=ACTOR, now=now)


def _spec(leased: jobs.Lease) -> JobSpec:
    limits = leased.document["limits"]
    memory_mb, wall_s = int(limits["memory_mb"]), float(limits["wall_s"])
    return JobSpec(leased.places.job, leased.places.unit[:12], memory_mb, wall_s)
