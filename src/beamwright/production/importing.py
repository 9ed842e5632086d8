"""Taking reports in: any order, any number of times; the first valid one of a unit wins.

``examine`` reads a report and hashes its outputs in full, outside any transaction. ``settle`` then
compares it, inside one, with what was leased, declared and is on the disk, and writes everything that
follows from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from beamwright import durable
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import ReportError
from beamwright.core.messages import FAILURES, PAYLOAD_PREFIX
from beamwright.db import history, schema, writing
from beamwright.production import accounts, failing, jobs, registration
from beamwright.production.accounts import Expected
from beamwright.production.tickets import is_signed, ticket
from beamwright.production.units import row_interval
from beamwright.production.workspace import Workspace

ACTOR = "importer"
# The database's own: a full disk, a lost server, a deadlock. No report is refused for them.
_TROUBLE = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.ProgrammingError)
_KEPT = ("id", "job_id", "number", "nonce", "state", "farm", "report_sha256")
FINAL = frozenset({"accepted", "rejected", "superseded"})
Result = Literal["accepted", "rejected", "superseded", "failed", "duplicate", "waiting"]


@dataclass(frozen=True)
class Content:
    """An output as it was read: its digest, and what would change if it were touched afterwards."""

    path: str
    digest: durable.Digest
    inode: int
    mtime_ns: int

    def is_untouched(self) -> bool:
        """Tell whether the file is still the one that was read."""
        status = os.stat(self.path)
        now = (status.st_size, status.st_ino, status.st_mtime_ns)
        return now == (self.digest.size, self.inode, self.mtime_ns)


@dataclass(frozen=True)
class Examined:
    """A report and its outputs (by stream) as read from the disk; ``problem`` says why it is unusable."""

    path: Path
    sha256: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    contents: dict[str, Content] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a report, and why it was not accepted."""

    result: Result
    message: str = ""


class _Refused(Exception):
    """A report is not acceptable; the failure class goes to the attempt."""

    def __init__(self, failure_class: str, message: str) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.message = message


def import_report(workspace: Workspace, path: Path) -> Outcome:
    """Take one report in; a second time changes nothing."""
    return import_reports(workspace, [path])[path]


def import_reports(workspace: Workspace, paths: Sequence[Path]) -> dict[Path, Outcome]:
    """Take reports in: read them all, then settle them in one transaction."""
    examined = [examine(path) for path in paths]
    outcomes = workspace.db.transact(lambda conn: settle(conn, workspace, examined))
    return {item.path: outcome for item, outcome in zip(examined, outcomes, strict=True)}


def examine(path: Path) -> Examined:
    """Read a report and, in full, each output beside it."""
    try:
        data = path.read_bytes()
        report = json.loads(data)
        attempt = report["attempt"]
        if not isinstance(attempt["nonce"], str) or not isinstance(attempt["unit"], str):
            raise ValueError("its attempt has no nonce and unit")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Examined(path, problem=f"the report cannot be read: {error!r}")  # and so has no signature
    try:
        folder = str(path.parent)
        durable.remove_partial(folder)  # a wrapper killed just after its report was published leaves one
        contents = {o["stream"]: _content(folder, o["file"]) for o in report["outputs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Examined(path, sha256_hex(data), report, problem=f"an output cannot be read: {error}")
    return Examined(path, sha256_hex(data), report, contents)


def settle(conn: sa.Connection, workspace: Workspace, items: Sequence[Examined]) -> list[Outcome]:
    """Decide on examined reports, in their order, and write what follows; return an outcome for each."""
    outcomes: dict[int, Outcome] = {}
    waiting = list(enumerate(items))
    while waiting:
        rows = _attempts(conn, [_nonce(item) for _, item in waiting])
        known = [(index, item, rows.get(_nonce(item))) for index, item in waiting]
        now = [one for _, group in _by_job(known).items() for one in group[:1]]
        for (index, *_), outcome in zip(now, _settle(conn, workspace, now), strict=True):
            outcomes[index] = outcome
        waiting = [(index, item) for index, item in waiting if index not in outcomes]
    return [outcomes[index] for index in range(len(items))]


_Known = tuple[int, Examined, Any]


def _by_job(known: Sequence[_Known]) -> dict[Any, list[_Known]]:
    """Group reports by their jobs: of one job, the next is looked at when the one before is written."""
    groups: dict[Any, list[_Known]] = {}
    for index, item, row in known:
        groups.setdefault(("index", index) if row is None else row.job_id, []).append((index, item, row))
    return groups


@dataclass
class _Case:
    """A report that is to be written: its attempt, its unit, and why it is not accepted, if so."""

    examined: Examined
    row: Any
    unit: Any
    is_ours: bool
    refusal: _Refused | None = None
    outcome: Outcome = Outcome("accepted")

    def refuse(self, refusal: _Refused, result: Result = "rejected") -> None:
        self.refusal = refusal
        self.outcome = Outcome(result, f"{refusal.failure_class}: {refusal.message}")

    @property
    def reported(self) -> Mapping[str, Any]:
        """The report, as far as it can be trusted."""
        return self.examined.report if self.is_ours else {}


def _settle(conn: sa.Connection, workspace: Workspace, known: Sequence[_Known]) -> list[Outcome]:
    """Settle reports of different jobs."""
    done = {index: _at_once(workspace, item, row) for index, item, row in known}
    open_ones = [(index, item, row) for index, item, row in known if done[index] is None]
    units = _units(conn, [row.unit_id for _, _, row in open_ones])
    records = registration.known_records(conn, list(units.values()))
    now, cases = workspace.clock.now(), {}
    for index, item, row in open_ones:
        key = ticket(workspace.secret, row.nonce, row.unit_key)
        case = _Case(item, row, units[row.unit_id], is_signed(item.report, key))
        _judge(case, records[row.unit_id])
        cases[index] = case
    _accept(conn, [case for case in cases.values() if case.outcome.result == "accepted"], now)
    _end(conn, workspace, [case for case in cases.values() if case.outcome.result != "accepted"], now)
    return [done[index] or cases[index].outcome for index, *_ in known]


def _at_once(workspace: Workspace, examined: Examined, row: Any) -> Outcome | None:
    """Return the outcome of a report after which nothing is to be written, or None."""
    if row is None:
        return Outcome("rejected", examined.problem or "no attempt has this nonce")
    places = jobs.Places(workspace.farm(row.farm), row.unit_key, row.nonce)
    if str(examined.path) != places.report_name:
        return Outcome("rejected", f"the report of this attempt belongs to {places.report}")
    if row.state in FINAL:
        return _again(row, examined)
    if row.job_state == "held":
        return Outcome("waiting", "the job is held")
    return None


def _judge(case: _Case, records: Mapping[str, int | None]) -> None:
    """Decide on a report by what is known of its attempt and unit, and by the disk. Writes nothing."""
    examined, row = case.examined, case.row
    try:
        if not case.is_ours:
            raise _Refused("policy", "the report's signature is not that of this attempt's ticket")
        _check_origin(row, examined)
        _figures(case, 0.0)
        if examined.report["status"] != "ok":
            failure_class = examined.report["failure_class"]
            known = failure_class if failure_class in FAILURES else "application_error"
            case.refuse(_Refused(known, str(examined.report["message"])), "failed")
        elif row.job_state in jobs.SETTLED:
            case.outcome = Outcome("superseded", f"job {row.job_id} is {row.job_state} already")
        else:
            _check_accounts(examined, _check_outputs(case, records))
    except _Refused as refusal:
        case.refuse(refusal)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        case.refuse(_Refused("output_invalid", f"the report has not the agreed form: {error!r}"))


# --- finding the attempt -----------------------------------------------------------------------------------


def _content(directory: str, name: str) -> Content:
    """Read a file of the report's own directory; its identity is taken before the reading."""
    path = durable.confined_name(directory, name)
    if os.path.dirname(path) != directory:
        raise ValueError(f"{name!r} is no plain file name")
    status = os.stat(path)
    return Content(path, durable.hash_file(path), status.st_ino, status.st_mtime_ns)


def _nonce(examined: Examined) -> str:
    """Return the nonce of the attempt that the report names, or in whose directory an unreadable one lies."""
    return str(examined.report["attempt"]["nonce"] if examined.report else examined.path.parent.name)


def _attempts(conn: sa.Connection, nonces: Sequence[str]) -> dict[str, Any]:
    """Return attempts by nonce, with what is known of their jobs."""
    return {row.nonce: row for row in writing.among(conn, _known(), schema.attempt.c.nonce, nonces)}


@cache
def _known() -> sa.Select[Any]:
    attempt, job, unit, task = schema.attempt, schema.job, schema.unit, schema.task
    return (
        sa.select(
            *(attempt.c[name] for name in _KEPT),
            job.c.state.label("job_state"),
            unit.c.id.label("unit_id"),
            unit.c.key.label("unit_key"),
            schema.production.c.release.label("task_release"),
            schema.production.c.name.label("production"),
        )
        .join(job, attempt.c.job_id == job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(schema.production, task.c.production_id == schema.production.c.id)
    )


def _units(conn: sa.Connection, ids: Sequence[int]) -> dict[int, Any]:
    return {row.id: row for row in writing.among(conn, _whole_unit(), schema.unit.c.id, ids)}


@cache
def _whole_unit() -> sa.Select[Any]:
    return sa.select(schema.unit)


def _again(row: Any, examined: Examined) -> Outcome:
    if row.report_sha256 == examined.sha256:
        return Outcome("duplicate", f"the attempt is {row.state}")
    return Outcome("rejected", f"another report of this attempt was taken in; it is {row.state}")


# --- checks ------------------------------------------------------------------------------------------------


def _check_origin(row: Any, examined: Examined) -> None:
    """Check that the report speaks of this attempt and that it can be used."""
    named = {"unit": row.unit_key, "number": row.number, "nonce": row.nonce, "farm": row.farm}
    if examined.report["attempt"] != named:
        raise _Refused("policy", f"the report names {examined.report['attempt']}, the lease says {named}")
    if examined.problem:
        raise _Refused("output_invalid", examined.problem)


def _check_outputs(case: _Case, records: Mapping[str, int | None]) -> Expected:
    """Compare outputs with the declaration and the disk; return what the accounts must agree with."""
    examined, row, unit = case.examined, case.row, case.unit
    report, payload = examined.report, examined.report["payload"]
    if payload["release"] != row.task_release:
        message = (
            f"the job ran under release {payload['release']}, the production asks for {row.task_release}"
        )
        raise _Refused("policy", message)
    if payload.get("resolved_hash", "") != unit.resolved_hash:
        message = f"the job resolved its conditions to {payload.get('resolved_hash', '') or 'nothing'}"
        raise _Refused("policy", f"{message}, the unit asks for {unit.resolved_hash or 'nothing'}")
    streams = unit.definition["streams"]
    outputs = {output["stream"]: output for output in report["outputs"]}
    optional = {s for s in streams if s.startswith(PAYLOAD_PREFIX)}
    if len(outputs) != len(report["outputs"]) or not set(streams) - optional <= set(outputs) <= set(streams):
        raise _Refused("output_invalid", f"the outputs are {sorted(outputs)}, declared are {sorted(streams)}")
    for stream, output in outputs.items():
        _check_content(stream, output, streams[stream], examined.contents[stream])
    kinds = {s: jobs.file_kind(unit.kind, s, streams[s]) for s in outputs}
    has_lines = unit.kind != "gather"
    events = {s: o["events"] for s, o in outputs.items() if has_lines and kinds[s] != "bundle"}
    prescaled = frozenset(r for r, factor in (unit.definition.get("prescale") or {}).items() if factor > 1)
    is_request = unit.kind == "generate"
    return Expected(row_interval(unit), records, events, frozenset(streams), prescaled, is_request)


def _check_content(
    stream: str, output: Mapping[str, Any], declared: Mapping[str, Any], content: Content
) -> None:
    digest = content.digest
    if output["file"] != declared["file"]:
        raise _Refused(
            "output_invalid", f"output {stream} is {output['file']}, declared is {declared['file']}"
        )
    if (output["size"], output["sha256"], output["adler32"]) != (digest.size, digest.sha256, digest.adler32):
        message = (
            f"output {stream} was reported as {output['sha256'][:12]} and read back as {digest.sha256[:12]}"
        )
        raise _Refused("output_invalid", message)
    if not content.is_untouched():
        raise _Refused("output_invalid", f"output {stream} was touched while it was taken in")


def _check_accounts(examined: Examined, expected: Expected) -> None:
    payload = examined.report["payload"]
    found = accounts.problems(payload["ledger"], payload["quarantined"], expected)
    if found:
        raise _Refused("output_invalid", "the accounts are wrong: " + "; ".join(found))


# --- consequences ------------------------------------------------------------------------------------------


def _figures(case: _Case, now: float) -> dict[str, Any]:
    """Return what a report that can be trusted tells of its attempt, as columns."""
    report = case.reported
    resources, payload = report.get("resources", {}), report.get("payload") or {}
    return {
        "started": report.get("started"),
        "ended": report.get("ended", now),
        "host": report.get("host"),
        "cpu_s": float(resources.get("cpu_s", 0.0)),
        "wall_s": float(resources.get("wall_s", 0.0)),
        "max_rss_kb": int(resources.get("max_rss_kb", 0)),
        "exit_code": report.get("exit_code"),
        "release": payload.get("release"),
        "timings": report.get("timings"),
        "figures": {"statistics": payload.get("statistics")} | (payload.get("figures") or {}),
        "report_sha256": case.examined.sha256,
    }


def _reported(case: _Case, now: float) -> dict[str, Any]:
    """Return the columns of an attempt that has reported."""
    try:
        return _figures(case, now)
    except (KeyError, TypeError, ValueError, AttributeError):
        return {"report_sha256": case.examined.sha256, "ended": now}  # signed, and still no sense


def _accept(conn: sa.Connection, cases: Sequence[_Case], now: float) -> None:
    """Register what the units gave, and finish their jobs, all at once.

    When that fails, each half of them is tried, so that what cannot be registered is refused alone.
    """
    if not cases:
        return
    try:
        with conn.begin_nested():
            _write(conn, cases, now)
    except _TROUBLE:
        raise
    except (ReportError, KeyError, TypeError, ValueError, sa.exc.StatementError) as error:
        if len(cases) == 1:
            cases[0].refuse(_Refused("output_invalid", str(error).partition("\n")[0]))
            return
        half = len(cases) // 2
        _accept(conn, cases[:half], now)
        _accept(conn, cases[half:], now)


def _write(conn: sa.Connection, cases: Sequence[_Case], now: float) -> None:
    """Write what follows from accepted reports; jobs go by way of the states that lost attempts left out."""
    attempts = [_ended(case, _reported(case, now), "accepted") for case in cases]
    history.move_each(conn, schema.attempt, attempts, actor=ACTOR, at=now)
    accepted = [registration.Accepted(c.row, c.unit, c.examined.report, _stamps(c.examined)) for c in cases]
    registration.register(conn, accepted, now)
    history.move_each(conn, schema.job, [_finished(case) for case in cases], actor=ACTOR, at=now)


def _ended(case: _Case, values: Mapping[str, Any], target: str) -> history.Move:
    """Return the way of an attempt from where it is to its end."""
    then = ((target, case.outcome.message),)
    return history.Move(case.row.id, case.row.state, "reported", "", values, then)


def _finished(case: _Case) -> history.Move:
    """Return the way of a job to ok."""
    before = {"failed": ("prepared", "submitted"), "prepared": ("submitted",)}
    first, *rest = [(s, _late(case, s)) for s in (*before.get(case.row.job_state, ()), "ok")]
    return history.Move(case.row.job_id, case.row.job_state, *first, then=tuple(rest))


def _late(case: _Case, target: str) -> str:
    return "" if target == "ok" else f"attempt {case.row.number} reported late"


def _end(conn: sa.Connection, workspace: Workspace, cases: Sequence[_Case], now: float) -> None:
    """End attempts that are not accepted; a job fails with its attempt, unless a later one is under way."""
    if not cases:
        return
    moves = []
    for case in cases:
        values = _reported(case, now)
        if case.refusal:
            values |= {"failure_class": case.refusal.failure_class, "message": case.refusal.message}
        moves.append(_ended(case, values, "rejected" if case.refusal else "superseded"))
    history.move_each(conn, schema.attempt, moves, actor=ACTOR, at=now)
    failures = [
        failing.Failure(c.row.id, c.row.job_id, r.failure_class, r.message, c.reported.get("host"))
        for c in cases
        if (r := c.refusal)
    ]
    failing.fail(conn, failures, tries=workspace.settings.limits.tries, actor=ACTOR, now=now)


def _stamps(examined: Examined) -> dict[str, tuple[str, int, int]]:
    return {s: (c.path, c.inode, c.mtime_ns) for s, c in examined.contents.items()}
