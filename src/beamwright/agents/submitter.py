"""The submitter: leases attempts at prepared jobs and hands their directories to batch systems."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import sqlalchemy as sa

from beamwright.batch.scheduler import JobSpec, Scheduler
from beamwright.core.errors import SchedulerDownError, SchedulerError, StorageError
from beamwright.core.settings import Farm
from beamwright.db import history, schema
from beamwright.production import failing, fairness, installing, jobs, scouting
from beamwright.production.broker import Candidate, assign
from beamwright.production.workspace import Workspace

ACTOR = jobs.ACTOR
# So many jobs are looked at for each free slot: some may be bound to a farm that is full.
AHEAD = 20
# So many jobs may wait at a farm for each of its slots, if they are short enough.
WAITING = 64
# So many job directories are written at once where even the fastest of the first few has to wait for a disk.
WRITERS, FIRST, SLOW_S = 8, 4, 0.001


@dataclass
class Submitter:
    """Submits what is prepared, as far as the farms have room.

    ``commands`` start payload and validation where a farm has no installation of a job's release; they are
    those of the release ``here``, where that is said: jobs of others wait for an installation.
    """

    workspace: Workspace
    schedulers: Mapping[str, Scheduler]
    commands: Mapping[str, list[str]] = field(default_factory=lambda: jobs.COMMANDS)
    name: str = ACTOR
    here: str | None = None
    _seen: dict[str, set[str]] = field(default_factory=dict)

    def turn(self) -> int:
        """Lease, write and submit; return how many attempts were submitted.

        Raises: StorageError when a job directory cannot be written.
        """
        now = self.workspace.clock.now()
        pairs = self.decide(now)
        if not pairs:
            return 0
        with self.workspace.db.begin() as conn:
            leases = jobs.lease(conn, self.workspace, pairs, now, self.commands)
        self._write_all(leases)
        for farm in sorted(self.schedulers):
            self._submit(farm, [leased for leased in leases if leased.farm == farm])
        return len(leases)

    def decide(self, now: float) -> list[tuple[int, str]]:
        """Return which prepared job goes to which farm."""
        farms = {n: f for n, f in self.workspace.settings.farm.items() if n in self.schedulers}
        with self.workspace.db.read() as conn:
            if not jobs.has_prepared(conn, now):
                return []
            is_scouted = scouting.has_scouted(conn)
        if is_scouted:
            with self.workspace.db.begin() as conn:
                scouting.release(conn, now)
        with self.workspace.db.read() as conn:
            held = _by_farm(jobs.held_slots(conn))
            busy = {name: self._busy(name, held.get(name, [])) for name in farms}
            taken = {name: count for name, count in busy.items() if count is not None}
            farms = {name: farms[name] for name in taken}
            free = sum(max(0, farms[name].room - taken[name]) for name in farms)
            shares = self.workspace.settings.analyses
            if not free:
                return []
            releases = self._releases()
            found = fairness.prepared(conn, now, free, releases, shares)
            pairs = self._assign(found, farms, taken)
            if len(pairs) < free == len(found):  # some are bound to a farm that is full: look further
                found = fairness.prepared(conn, now, AHEAD * free, releases, shares)
                pairs = self._assign(found, farms, taken)
            return pairs

    def _assign(
        self, found: Sequence[fairness.Prepared], farms: Mapping[str, Farm], taken: Mapping[str, int]
    ) -> list[tuple[int, str]]:
        """Give each job a farm that has room, its release, and that it may run at."""
        able = {release: self._able(release) for release in {release for _, _, release in found}}
        bound = [
            (job_id, [f for f in able[release] if f in (only or able[release])])
            for job_id, only, release in found
        ]
        return assign([Candidate(job_id, tuple(names)) for job_id, names in bound if names], farms, taken)

    def _releases(self) -> set[str] | None:
        """Return the releases of jobs that can start somewhere, or None for any."""
        return None if self.here is None else {self.here, *installing.installed(self.workspace)}

    def _able(self, release: str) -> list[str]:
        """Return the farms at which jobs of a release can start."""
        here = release if self.here is None else self.here
        return installing.usable(self.workspace, release, here)

    def _busy(self, farm: str, held: Sequence[str | None]) -> int | None:
        """Return how many slots of a farm are taken, or None when it does not answer.

        Where jobs are short, twice as many may wait at the farm as have gone well since the last look: so it
        has work until the next one, also where that comes late.
        """
        try:
            polled = self.schedulers[farm].poll()
        except SchedulerDownError:
            return None
        ended = {i for i in held if i and i in polled and polled[i].state == "finished"}
        live = {i for i in held if i} - ended
        good = [i for i in self._seen.get(farm, set()) - live if i in polled and polled[i].exit_code == 0]
        short = min(2 * len(good), WAITING * self.workspace.settings.farm[farm].slots)
        self._seen[farm] = live
        return len(held) - len(ended) - short

    def _write_all(self, leases: Sequence[jobs.Lease]) -> None:
        """Write job directories: side by side where each waits for the disk."""
        installed = cache(lambda farm, release: installing.commands(self.workspace, farm, release))
        for leased in leases:
            document = leased.document
            document["commands"] = installed(leased.farm, document["release"]) or document["commands"]
        first, rest = leases[:FIRST], leases[FIRST:]
        if min(self._write(leased) for leased in first) < SLOW_S:
            for leased in rest:
                self._write(leased)
            return
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(self._write, rest):
                pass

    def _write(self, leased: jobs.Lease) -> float:
        """Write a job directory; return the seconds that this took."""
        begun = time.perf_counter()
        try:
            jobs.write_job_directory(leased, self.workspace.secret)
        except OSError as error:
            message = f"the job directory {leased.places.job} cannot be written: {error.strerror}"
            hint = "make room on its file system, then run the same command again: the lease is taken back"
            raise StorageError(message, hint=hint) from error
        return time.perf_counter() - begun

    def _submit(self, farm: str, leases: Sequence[jobs.Lease]) -> None:
        if not leases:
            return
        try:
            batch_ids = self.schedulers[farm].submit([_spec(leased) for leased in leases])
        except SchedulerError as error:
            self._refused(leases, error)
            return
        self._seen.setdefault(farm, set()).update(batch_ids)
        now = self.workspace.clock.now()
        moves = [
            history.Move(leased.attempt_id, "leased", "submitted", "", {"batch_id": batch_id})
            for leased, batch_id in zip(leases, batch_ids, strict=True)
        ]
        self.workspace.db.transact(
            lambda conn: history.move_each(conn, schema.attempt, moves, actor=ACTOR, at=now)
        )

    def _refused(self, leases: Sequence[jobs.Lease], error: SchedulerError) -> None:
        """Take the leases back when the batch system took none of the jobs."""
        now, tries = self.workspace.clock.now(), self.workspace.settings.limits.tries
        stayed = [leased for leased in leases if jobs.revoke(leased.places)]

        def lose(conn: sa.Connection) -> None:
            rows = jobs.in_flight(conn, [leased.attempt_id for leased in stayed])
            lost = [failing.Failure(row.id, row.job_id, "submit", str(error)) for row in rows]
            failing.lose(conn, rows, lost, tries=tries, actor=ACTOR, now=now)

        self.workspace.db.transact(lose)


def _by_farm(held: Iterable[tuple[str, str | None]]) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for farm, batch_id in held:
        found.setdefault(farm, []).append(batch_id)
    return found


def _spec(leased: jobs.Lease) -> JobSpec:
    limits = leased.document["limits"]
    memory_mb, wall_s = int(limits["memory_mb"]), float(limits["wall_s"])
    disk_mb, cores = int(limits.get("disk_mb", 0)), int(leased.document.get("workers", 1))
    name = leased.places.unit[:12]
    return JobSpec(leased.places.job, name, memory_mb, wall_s, leased.avoid, disk_mb, cores)
