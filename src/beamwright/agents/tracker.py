"""The tracker: follows attempts at their farms, and declares lost what has vanished without a report.

An attempt lives as long as its wrapper holds the lock in its job directory, whatever a batch system says
of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from beamwright import durable
from beamwright.batch.scheduler import Scheduler, Status, cause
from beamwright.batch.wrapper import NOT_REPORTED
from beamwright.core.errors import SchedulerDownError, SchedulerError, StateError
from beamwright.core.messages import HEARTBEAT_FILE
from beamwright.db import history, schema
from beamwright.production import failing, jobs
from beamwright.production.workspace import Workspace

ACTOR = "tracker"
UNWANTED = jobs.SETTLED | {"held"}
SUBMITTING_S = 60.0
SILENT_HEARTBEATS = 20
UNKNOWN = Status("unknown")
# Records that are written late are looked into so often.
HISTORY_EVERY_S = 5.0
Step = Literal["wait", "start", "renew", "lose", "hang", "kill"]
Decided = tuple[Step, Any, Status]


@dataclass(frozen=True)
class Signs:
    """What the job directory tells of an attempt's life; ``beat`` is the time of the last heartbeat."""

    has_report: bool
    is_locked: bool
    beat: float


def decide(attempt: Any, job_state: str, status: Status, signs: Signs, now: float, silence: float) -> Step:
    """Decide what follows for an attempt that is leased, submitted or running. Pure.

    A report is the importer's affair. ``silence`` is how long a heart may stand still before its wrapper
    hangs.
    """
    if signs.has_report:
        return "wait"
    if job_state in UNWANTED:
        return "kill"
    if status.state == "queued" and not signs.is_locked:
        return "renew" if now > attempt.deadline else "wait"
    if not signs.is_locked and status.state in ("finished", "unknown"):
        return "lose"
    if now > attempt.deadline:
        return "hang" if now - signs.beat > silence else "renew"
    return "start" if attempt.state == "submitted" and signs.is_locked else "wait"


@dataclass
class Tracker:
    """Follows all attempts that are in flight; ``schedulers`` are by farm."""

    workspace: Workspace
    schedulers: Mapping[str, Scheduler]
    name: str = ACTOR
    _begun: float = field(init=False)
    _is_tidy: bool = False
    _vanished: dict[int, float] = field(default_factory=dict, init=False)
    _asked: dict[str, float] = field(default_factory=dict, init=False)
    _hosts: dict[int, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._begun = self.workspace.clock.now()

    def turn(self) -> int:
        """Look at every attempt in flight; return how many changed."""
        now = self.workspace.clock.now()
        if not self._is_tidy:
            with self.workspace.db.read() as conn:
                self._tidy({row.nonce for row in jobs.in_flight(conn)})
        with self.workspace.db.read() as conn:
            living = jobs.at_a_glance(conn)
        polled = self._poll() if living else {}
        restless = self._restless(living, polled, now)
        if not restless:
            return 0
        with self.workspace.db.read() as conn:
            rows = jobs.in_flight(conn, restless)
        known = [(row, polled.get(row.farm, {}).get(row.batch_id or "", UNKNOWN)) for row in rows]
        steps: list[Decided] = [(self._decide(row, status, now), row, status) for row, status in known]
        steps = self._remembered(steps, now)
        prepared = [step for step in steps if step[0] != "wait" and self._prepare(step[0], step[1])]
        return self._write(prepared, now) if prepared else 0

    def _restless(
        self, living: Sequence[Any], polled: Mapping[str, Mapping[str, Status]], now: float
    ) -> list[int]:
        """Return the attempts about which anything can be due: not those that run, as their farms say, nor
        those of which nothing is known.
        """
        found = []
        for id, farm, batch_id, state, deadline, job_state in living:
            said = polled.get(farm)
            if said is None:
                is_quiet = farm in self.schedulers
            else:
                is_running = state == "running" and said.get(batch_id or "", UNKNOWN).state == "running"
                is_quiet = is_running and now <= deadline and job_state not in UNWANTED
            if not is_quiet:
                found.append(id)
        return found

    def _poll(self) -> dict[str, Mapping[str, Status]]:
        """Ask every farm once; nothing is decided about the attempts at one that does not answer."""
        polled = {}
        for farm, scheduler in self.schedulers.items():
            with suppress(SchedulerDownError):
                polled[farm] = scheduler.poll()
        return polled

    def _decide(self, row: Any, status: Status, now: float) -> Step:
        if row.state == "leased" and self._is_being_submitted(row, now):
            return "wait"
        if row.state == "running" and status.state == "running" and now <= row.deadline:
            return "kill" if row.job_state in UNWANTED else "wait"
        silence = SILENT_HEARTBEATS * self.workspace.settings.limits.heartbeat_s
        return decide(row, row.job_state, status, self._signs(row), now, silence)

    def _remembered(self, steps: Sequence[Decided], now: float) -> list[Decided]:
        """Ask the batch systems' records how attempts ended that are to be lost and that no list names.

        Where records are written later, they are waited for a little.
        """
        gone = {row.id: row for step, row, status in steps if step == "lose" and status == UNKNOWN}
        self._vanished = {i: self._vanished.get(i, now) for i in gone}
        lag = {name: getattr(farm, "history_after_s", 0.0) for name, farm in self.schedulers.items()}
        young = {i for i, row in gone.items() if now - self._vanished[i] < lag.get(row.farm, 0.0)}
        told: dict[int, Status] = {}
        for farm in sorted({row.farm for row in gone.values()} & self.schedulers.keys()):
            if not lag[farm] or now >= self._asked.get(farm, 0.0) + HISTORY_EVERY_S or gone.keys() - young:
                self._asked[farm] = now
                told |= self._history(farm, [row for row in gone.values() if row.farm == farm])
        waits = young - told.keys()
        return [
            ("wait" if row.id in waits else step, row, told.get(row.id, said)) for step, row, said in steps
        ]

    def _history(self, farm: str, rows: Sequence[Any]) -> dict[int, Status]:
        """Return what a batch system's records say of attempts; nothing where they cannot be read."""
        ids = {row.batch_id: row.id for row in rows if row.batch_id}
        try:
            said = self.schedulers[farm].history(ids) if ids else {}
        except SchedulerError:
            return {}
        return {ids[batch_id]: status for batch_id, status in said.items()}

    def _is_being_submitted(self, row: Any, now: float) -> bool:
        """Tell whether the submitter may still be at this lease: it is younger than we are, and young."""
        return bool(row.leased >= self._begun and now - row.leased < SUBMITTING_S)

    def _signs(self, row: Any) -> Signs:
        places = self._places(row)
        if places.has_report():  # nothing else counts then
            return Signs(True, False, row.leased)
        try:
            # By the clock of the farm's storage: that of a node may be wrong.
            beat = (places.job / HEARTBEAT_FILE).stat().st_mtime
        except OSError:
            beat = row.leased
        # In this order: a wrapper that reports between the two still holds its lock.
        is_locked = durable.is_locked(places.job / jobs.LOCK_FILE)
        return Signs(places.has_report(), is_locked, beat)

    def _places(self, row: Any) -> jobs.Places:
        return jobs.Places(self.workspace.farm(row.farm), row.unit_key, row.nonce)

    # --- steps --------------------------------------------------------------------------------------------

    def _prepare(self, step: Step, row: Any) -> bool:
        """Do what a step does outside the database; tell whether it still holds."""
        if step == "kill":
            jobs.stop(self._places(row))
        if step in ("kill", "hang") and row.farm in self.schedulers:
            try:
                self.schedulers[row.farm].cancel([row.batch_id or ""])
            except SchedulerDownError:
                return False
        if step in ("lose", "hang"):
            self._hosts[row.id] = jobs.host(self._places(row))
        return self._bury(row) if step == "lose" else True

    def _bury(self, row: Any) -> bool:
        """Make sure that an attempt neither starts nor has reported, and remove what it left."""
        places = self._places(row)
        if not jobs.revoke(places) or places.report.exists():
            return False
        shutil.rmtree(places.output, ignore_errors=True)
        shutil.rmtree(places.scratch, ignore_errors=True)
        return True

    def _write(self, steps: Sequence[Decided], now: float) -> int:
        """Write the steps in one transaction; return how many were."""
        with self.workspace.db.begin() as conn:
            return self._attempt(conn, steps, now)

    def _attempt(self, conn: sa.Connection, steps: Sequence[Decided], now: float) -> int:
        """Write all of the steps or, where somebody else was faster with one, all but that."""
        try:
            with conn.begin_nested():
                self._perform(conn, steps, now)
            return len(steps)
        except StateError:
            half = len(steps) // 2
            return sum(self._attempt(conn, part, now) for part in (steps[:half], steps[half:]) if half)

    def _perform(self, conn: sa.Connection, steps: Sequence[Decided], now: float) -> None:
        limits = self.workspace.settings.limits
        _start(conn, [row for step, row, _ in steps if step == "start"], now)
        jobs.renew(conn, [row.id for step, row, _ in steps if step == "renew"], now + limits.lease_s)
        _kill(conn, [row for step, row, _ in steps if step == "kill"], now)
        gone = [one for one in steps if one[0] in ("lose", "hang")]
        lost = [self._failure(*one) for one in gone]
        failing.lose(conn, [row for _, row, _ in gone], lost, tries=limits.tries, actor=ACTOR, now=now)

    def _failure(self, step: Step, row: Any, status: Status) -> failing.Failure:
        host = row.host or self._hosts.get(row.id) or None
        return failing.Failure(row.id, row.job_id, *_explain(step, row, status), host)

    def _tidy(self, living: set[str]) -> None:
        """Remove the scratch directories that attempts of an earlier process left behind."""
        for farm in self.workspace.settings.farm:
            scratch = self.workspace.farm(farm) / "scratch"
            for entry in scratch.iterdir() if scratch.is_dir() else ():
                if entry.name not in living:
                    shutil.rmtree(entry, ignore_errors=True)
        self._is_tidy = True


def _start(conn: sa.Connection, rows: Sequence[Any], now: float) -> None:
    moves = [history.Move(row.id, row.state, "running", "", {"started": now}) for row in rows]
    history.move_each(conn, schema.attempt, moves, actor=ACTOR, at=now)
    jobs = [row.job_id for row in rows if row.job_state == "submitted"]
    history.move_all(conn, schema.job, jobs, "submitted", "running", actor=ACTOR, at=now)


def _kill(conn: sa.Connection, rows: Sequence[Any], now: float) -> None:
    why = [(row, f"job {row.job_id} is {row.job_state}") for row in rows]
    moves = [
        history.Move(row.id, row.state, "killed", text, {"ended": now, "message": text}) for row, text in why
    ]
    history.move_each(conn, schema.attempt, moves, actor=ACTOR, at=now)


def _explain(step: Step, row: Any, status: Status) -> tuple[str, str]:
    """Return the failure class and the message for an attempt that ends without a report."""
    who = f"the attempt at farm {row.farm}"
    if step == "hang":
        return "lost", f"{who} is lost: its heart stands still"
    if status.exit_code == NOT_REPORTED:
        return "disk", f"{who} could not write its report: make room on the file system of {row.directory}"
    said = f" (its batch system says {status.reason})" if status.reason else ""
    return cause(status.reason), f"{who} vanished without a report{said}"
