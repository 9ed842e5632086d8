"""Taking reports in: any order, any number of times; the first valid one of a unit wins.

``examine`` reads a report and hashes its outputs in full, outside any transaction. ``settle`` then
compares it, inside one, with what was leased, declared and is on the disk, and writes everything that
follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from beamwright import durable
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import ReportError
from beamwright.core.messages import FAILURES, PAYLOAD_PREFIX
from beamwright.db import history, schema
from beamwright.production import accounts, jobs, registration
from beamwright.production.accounts import Expected
from beamwright.production.tickets import is_signed, ticket
from beamwright.production.units import row_interval
from beamwright.production.workspace import Workspace

ACTOR = "importer"
FINAL = frozenset({"accepted", "rejected", "superseded"})
Result = Literal["accepted", "rejected", "superseded", "failed", "duplicate", "waiting"]


@dataclass(frozen=True)
class Content:
    """An output as it was read: its digest, and what would change if it were touched afterwards."""

    path: Path
    digest: durable.Digest
    inode: int
    mtime_ns: int


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
    """Take reports in: read them all, then settle them in one transaction, each in its own savepoint."""
    examined = [examine(path) for path in paths]
    outcomes = {}
    with workspace.db.begin() as conn:
        for item in examined:
            with conn.begin_nested():
                outcomes[item.path] = settle(conn, workspace, item)
    return outcomes


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
        durable.remove_partial(path.parent)  # a wrapper killed just after its report was published leaves one
        contents = {o["stream"]: _content(path.parent, o["file"]) for o in report["outputs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Examined(path, sha256_hex(data), report, problem=f"an output cannot be read: {error}")
    return Examined(path, sha256_hex(data), report, contents)


def settle(conn: sa.Connection, workspace: Workspace, examined: Examined) -> Outcome:
    """Decide on an examined report and write what follows."""
    row = _attempt(conn, examined)
    if row is None:
        return Outcome("rejected", examined.problem or "no attempt has this nonce")
    places = jobs.Places(workspace.farm(row.farm), row.unit_key, row.nonce)
    if examined.path != places.report:
        return Outcome("rejected", f"the report of this attempt belongs to {places.report}")
    if row.state in FINAL:
        return _again(row, examined)
    if row.job_state == "held":
        return Outcome("waiting", "the job is held")
    now = workspace.clock.now()
    key = ticket(workspace.secret, row.nonce, row.unit_key)
    is_ours = is_signed(examined.report, key)
    try:
        with conn.begin_nested():
            if not is_ours:
                raise _Refused("policy", "the report's signature is not that of this attempt's ticket")
            return _judge(conn, workspace, row, examined, now)
    except _Refused as refusal:
        _move_to_reported(conn, row, examined, now, examined.report if is_ours else {})
        return _reject(conn, workspace, row, refusal, now)


def _judge(conn: sa.Connection, workspace: Workspace, row: Any, examined: Examined, now: float) -> Outcome:
    """Take the report in when all is well with it; nothing of this stays when it is refused."""
    try:
        _check_origin(row, examined)
        _move_to_reported(conn, row, examined, now, examined.report)
        if examined.report["status"] != "ok":
            return _failed(conn, workspace, row, examined, now)
        if row.job_state in jobs.SETTLED:
            return _end(conn, row, "superseded", f"job {row.job_id} is {row.job_state} already", now)
        _check_accounts(examined, _check_outputs(conn, row, examined))
        _accept(conn, row, examined, now)
    except ReportError as error:
        raise _Refused("output_invalid", str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _Refused("output_invalid", f"the report has not the agreed form: {error!r}") from error
    return Outcome("accepted")


# --- finding the attempt -----------------------------------------------------------------------------------


def _content(directory: Path, name: str) -> Content:
    """Read a file of the report's own directory; its identity is taken before the reading."""
    path = durable.confined(directory, name)
    if path.parent != directory:
        raise ValueError(f"{name!r} is no plain file name")
    status = path.stat()
    return Content(path, durable.hash_file(path), status.st_ino, status.st_mtime_ns)


def _attempt(conn: sa.Connection, examined: Examined) -> Any:
    """Return the attempt that the report names, or in whose directory an unreadable one lies."""
    attempt, job, unit, task = schema.attempt, schema.job, schema.unit, schema.task
    query = (
        sa.select(
            attempt,
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
    nonce = examined.report["attempt"]["nonce"] if examined.report else examined.path.parent.name
    return conn.execute(query.where(attempt.c.nonce == nonce)).one_or_none()


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


def _check_outputs(conn: sa.Connection, row: Any, examined: Examined) -> Expected:
    """Compare outputs with the declaration and the disk; return what the accounts must agree with."""
    report, payload = examined.report, examined.report["payload"]
    unit = conn.execute(sa.select(schema.unit).where(schema.unit.c.id == row.unit_id)).one()
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
    events = {s: o["events"] for s, o in outputs.items() if not jobs.is_bundle(unit.kind, s)}
    prescaled = frozenset(r for r, factor in (unit.definition.get("prescale") or {}).items() if factor > 1)
    records = registration.known_records(conn, unit)
    return Expected(row_interval(unit), records, events, frozenset(streams), prescaled)


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
    status = content.path.stat()
    if (status.st_size, status.st_ino, status.st_mtime_ns) != (digest.size, content.inode, content.mtime_ns):
        raise _Refused("output_invalid", f"output {stream} was touched while it was taken in")


def _check_accounts(examined: Examined, expected: Expected) -> None:
    payload = examined.report["payload"]
    found = accounts.problems(payload["ledger"], payload["quarantined"], expected)
    if found:
        raise _Refused("output_invalid", "the accounts are wrong: " + "; ".join(found))


# --- consequences ------------------------------------------------------------------------------------------


def _move_to_reported(
    conn: sa.Connection, row: Any, examined: Examined, now: float, report: Mapping[str, Any]
) -> None:
    """Note that the attempt has reported, with the figures of a report that can be trusted."""
    resources, payload = report.get("resources", {}), report.get("payload") or {}
    values = {
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
        "report_sha256": examined.sha256,
    }
    history.move(conn, schema.attempt, row.id, row.state, "reported", actor=ACTOR, at=now, **values)


def _failed(conn: sa.Connection, workspace: Workspace, row: Any, examined: Examined, now: float) -> Outcome:
    """Take a report of failure in."""
    failure_class = examined.report["failure_class"]
    if failure_class not in FAILURES:
        failure_class = "application_error"
    message = str(examined.report["message"])
    _reject(conn, workspace, row, _Refused(failure_class, message), now)
    return Outcome("failed", f"{failure_class}: {message}")


def _reject(conn: sa.Connection, workspace: Workspace, row: Any, refusal: _Refused, now: float) -> Outcome:
    """Reject the attempt; its job fails with it, unless a later attempt is under way or the job is done."""
    reason = f"{refusal.failure_class}: {refusal.message}"
    outcome = _end(conn, row, "rejected", reason, now, refusal)
    if row.job_state in ("submitted", "running") and jobs.is_latest(conn, row.id, row.job_id):
        job = conn.execute(sa.select(schema.job).where(schema.job.c.id == row.job_id)).one()
        tries = workspace.settings.limits.tries
        jobs.fail(conn, job, refusal.failure_class, refusal.message, tries=tries, actor=ACTOR, now=now)
    return outcome


def _end(
    conn: sa.Connection, row: Any, target: Result, reason: str, now: float, refusal: _Refused | None = None
) -> Outcome:
    values = {"failure_class": refusal.failure_class, "message": refusal.message} if refusal else {}
    history.move(
        conn, schema.attempt, row.id, "reported", target, actor=ACTOR, reason=reason, at=now, **values
    )
    return Outcome(target, reason)


def _accept(conn: sa.Connection, row: Any, examined: Examined, now: float) -> None:
    """Register what the unit gave and finish the job, by way of the states that a lost attempt left out."""
    registration.register(conn, row, examined.report, _stamps(examined), now)
    history.move(conn, schema.attempt, row.id, "reported", "accepted", actor=ACTOR, at=now)
    state = row.job_state
    for target in {"failed": ("prepared", "submitted"), "prepared": ("submitted",)}.get(state, ()):
        reason = f"attempt {row.number} reported late"
        history.move(conn, schema.job, row.job_id, state, target, actor=ACTOR, reason=reason, at=now)
        state = target
    history.move(conn, schema.job, row.job_id, state, "ok", actor=ACTOR, at=now)


def _stamps(examined: Examined) -> dict[str, tuple[str, int, int]]:
    return {s: (str(c.path), c.inode, c.mtime_ns) for s, c in examined.contents.items()}
