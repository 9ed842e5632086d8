"""The same loops on a simulated clock: farms whose jobs take time and fail by chance, no file, no process.

Submitter, tracker and importer are the real ones, on a real database; only the job directories and what a
worker does are made up. The same seed gives the same history.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beamwright.agents.importer import Importer
from beamwright.agents.submitter import Submitter
from beamwright.agents.tracker import Signs, Tracker
from beamwright.batch.scheduler import JobSpec, Status
from beamwright.core import garbage
from beamwright.core.clock import ManualClock
from beamwright.core.messages import JobDoc
from beamwright.durable import Digest
from beamwright.production import importing, jobs
from beamwright.production.importing import Content, Examined
from beamwright.production.tickets import signature, ticket
from beamwright.production.workspace import Workspace


@dataclass(frozen=True)
class Behaviour:
    """How jobs go at a farm: their mean time, its spread, and how likely each class of failure is."""

    seconds: float = 60.0
    spread: float = 0.3
    failures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class SimulatedFarm:
    """A batch system of the simulation: so many slots, jobs in the order in which they came."""

    clock: ManualClock
    draw: random.Random
    slots: int
    behaviour: Behaviour
    reports: dict[str, str] = field(default_factory=dict)
    _status: dict[str, Status] = field(default_factory=dict)
    _waiting: deque[tuple[str, str]] = field(default_factory=deque)
    _running: list[tuple[float, str, str, str]] = field(default_factory=list)
    _count: int = 0

    def submit(self, jobs: Sequence[JobSpec]) -> list[str]:
        ids = [f"sim{self._count + number}" for number in range(len(jobs))]
        self._count += len(jobs)
        self._waiting += [(batch_id, job.directory.name) for batch_id, job in zip(ids, jobs, strict=True)]
        self._status |= dict.fromkeys(ids, Status("queued"))
        self._start(self.clock.now())
        return ids

    def poll(self) -> Mapping[str, Status]:
        """Bring the farm up to the clock; return its jobs. What has ended is told once."""
        now = self.clock.now()
        while self._running and self._running[0][0] <= now:
            at, batch_id, nonce, failure = heapq.heappop(self._running)
            exit_code = {"": 0, "lost": None}.get(failure, 1)
            self._status[batch_id] = Status("finished", exit_code)
            if failure != "lost":
                self.reports[nonce] = failure
            self._start(at)
        return self._status

    def history(self, ids: Iterable[str]) -> Mapping[str, Status]:
        return {}

    def cancel(self, ids: Iterable[str]) -> None:
        gone = set(ids)
        self._waiting = deque(one for one in self._waiting if one[0] not in gone)
        self._running = [one for one in self._running if one[1] not in gone]
        heapq.heapify(self._running)
        self._status |= dict.fromkeys(gone & self._status.keys(), Status("finished", -15))

    def close(self) -> None:
        self._waiting, self._running = deque(), []

    def next_end(self) -> float | None:
        """Return when the next job ends."""
        return self._running[0][0] if self._running else None

    def forget(self, batch_ids: Iterable[str]) -> None:
        """Forget jobs that are settled."""
        for batch_id in batch_ids:
            self._status.pop(batch_id, None)

    def _start(self, at: float) -> None:
        while self._waiting and len(self._running) < self.slots:
            batch_id, nonce = self._waiting.popleft()
            length = max(0.1, self.draw.gauss(1.0, self.behaviour.spread)) * self.behaviour.seconds
            heapq.heappush(self._running, (at + length, batch_id, nonce, self._failure()))
            self._status[batch_id] = Status("running")

    def _failure(self) -> str:
        chance = self.draw.random()
        for name, share in self.behaviour.failures.items():
            if chance < share:
                return name
            chance -= share
        return ""


class _Made(Content):
    """An output that exists in the simulation only."""

    def is_untouched(self) -> bool:
        return True


@dataclass
class _Submitter(Submitter):
    leases: dict[str, jobs.Lease] = field(default_factory=dict)

    def _write_all(self, leases: Sequence[jobs.Lease]) -> None:
        self.leases |= {leased.places.nonce: leased for leased in leases}


@dataclass
class _Tracker(Tracker):
    farms: Mapping[str, SimulatedFarm] = field(default_factory=dict)

    def _signs(self, row: Any) -> Signs:
        farm = self.farms[row.farm]
        is_running = farm.poll().get(row.batch_id, Status("unknown")).state == "running"
        return Signs(row.nonce in farm.reports, is_running, self.workspace.clock.now())

    def _bury(self, row: Any) -> bool:
        return True

    def _tidy(self, living: set[str]) -> None:
        self._is_tidy = True


@dataclass
class _Importer(Importer):
    farms: Mapping[str, SimulatedFarm] = field(default_factory=dict)
    leases: dict[str, jobs.Lease] = field(default_factory=dict)
    records: int = 100

    def turn(self) -> int:
        examined = []
        for farm in self.farms.values():
            for nonce, failure in farm.reports.items():
                leased = self.leases.pop(nonce)
                examined.append(made_up(self.workspace, leased, failure, self.records))
            farm.reports.clear()
        if examined:
            with self.workspace.db.begin() as conn:
                importing.settle(conn, self.workspace, examined)
        return len(examined)


def made_up(workspace: Workspace, leased: jobs.Lease, failure: str, records: int) -> Examined:
    """Return the report that a wrapper would have written, as the importer reads it."""
    job, now = leased.document, workspace.clock.now()
    payload, outputs = (None, []) if failure else _work(job, records)
    report: dict[str, Any] = {
        "format": 1, "attempt": dict(job["attempt"]), "status": "failed" if failure else "ok",
        "failure_class": failure or None, "message": "simulated" if failure else "", "exit_code": 0,
        "payload": payload, "outputs": outputs, "host": f"node{leased.attempt_id % 100}",
        "resources": {"cpu_s": 1.0, "wall_s": 1.1, "max_rss_kb": 1000}, "timings": {},
        "started": now, "ended": now,
    }  # fmt: skip
    key = ticket(workspace.secret, leased.places.nonce, leased.places.unit)
    signed = report | {"signature": signature(report, key)}
    place = leased.places.output_name
    contents: dict[str, Content] = {
        o["stream"]: _Made(f"{place}/{o['file']}", Digest(o["size"], o["sha256"], o["adler32"]), 0, 0)
        for o in outputs
    }
    return Examined(leased.places.report, signed["signature"], signed, contents)


def _work(job: JobDoc, records: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the payload's account and the outputs of a job that goes well: half of the records are kept."""
    lines, outputs = [], []
    for stream, declared in job["streams"].items():
        file_kind = jobs.file_kind(job["kind"], stream, declared)
        is_bundle = file_kind == "bundle"
        content = hashlib.sha256(f"{job['attempt']['unit']} {stream}".encode()).hexdigest()
        events = 0 if is_bundle else records // 2
        output = {"stream": stream, "file": declared["file"], "events": events, "size": 1000}
        kind = {"kind": file_kind, "uuid": None if is_bundle else content[:32]}
        outputs.append(output | kind | {"sha256": content, "adler32": content[:8]})
        if not is_bundle:
            line = {"record": job["record"], "stream": stream, "interval": job["interval"], "read": records}
            rest = {"created": 0, "filtered": records - events, "prescaled": 0, "quarantined": 0}
            lines.append(line | rest | {"written": events})
    asked = job["conditions"]
    resolved_hash = asked["resolved_hash"] if asked else ""
    payload: dict[str, Any] = {
        "status": "ok",
        "release": job["release"],
        "resolved_hash": resolved_hash,
        "ledger": lines,
    }
    payload |= {"quarantined": [], "outputs": [], "figures": {}, "statistics": {}}
    return payload, outputs


@dataclass
class Simulation:
    """Runs the jobs of a workspace, whose clock must be a simulated one, at farms that behave so.

    ``records`` is the number of records in each unit; the agents look every ``turn_s``.
    """

    workspace: Workspace
    behaviour: Mapping[str, Behaviour]
    seed: int = 0
    records: int = 100
    turn_s: float = 30.0

    def __post_init__(self) -> None:
        clock, draw = self.workspace.clock, random.Random(self.seed)
        assert isinstance(clock, ManualClock), "a simulation moves the clock"
        farms = {
            name: SimulatedFarm(clock, random.Random(draw.random()), farm.slots, self.behaviour[name])
            for name, farm in self.workspace.settings.farm.items()
        }
        self._farms, self._clock = farms, clock
        self._submitter = _Submitter(self.workspace, farms)
        self._tracker = _Tracker(self.workspace, farms, farms=farms)
        self._importer = _Importer(self.workspace, farms=farms, leases=self._submitter.leases)
        self._importer.records = self.records

    def run(self, until: float = float("inf")) -> float:
        """Run until nothing is left to do, or to a time; return the time."""
        agents = (self._submitter, self._tracker, self._importer)
        while self._clock.now() < until:
            with garbage.put_off():
                done = sum(agent.turn() for agent in agents)
            if not done and not self._advance(until):
                break
        return self._clock.now()

    def _advance(self, until: float) -> bool:
        """Move the clock to the next thing that happens; False when nothing will."""
        now = self._clock.now()
        ends = [end for farm in self._farms.values() if (end := farm.next_end()) is not None]
        if not ends or min(ends) > now + self.turn_s:
            with self.workspace.db.read() as conn:
                due = jobs.next_start(conn)
            ends += [due] if due is not None and due > now else []
        if not ends:
            return False
        self._clock.time = min(until, max(min(ends), now + self.turn_s))
        return True
