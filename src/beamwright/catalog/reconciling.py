"""Reconciling an endpoint: what its listing and the catalogue hold differently, and what follows from it.

One listing proves nothing: files come and go while it is made. Only what all listings over a declared time
agree on is acted on, what is on its way or in quarantine is left out, and brakes stop an action that is too
large to be true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from beamwright.catalog.listings import Entry, Listing
from beamwright.catalog.replicas import COMING, LIVE
from beamwright.core.errors import ConflictError, UsageError
from beamwright.db import history, schema
from beamwright.db.engine import insert_id

ACTOR = "reconciler"
MOST_FINDINGS = 500_000
_PAGE = 5000
_AT_ONCE = 500
_MOVING = ("leased", "submitted", "running", "reported", "lost", "killed", "rejected", "superseded")
_NONCE = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_REPORT = "report.json"


@dataclass(frozen=True)
class Brakes:
    """How much one reconciliation may change; ``apart`` seconds lie between the listings that agree."""

    apart: float
    max_files: int
    max_bytes: int
    max_per_cent: float

    def document(self) -> dict[str, float]:
        """Return the limits."""
        names = ("max_files", "max_bytes", "max_per_cent")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Finding:
    """A path on which listing and catalogue disagree: dark (unknown), lost (not listed), of another size."""

    kind: str
    path: str
    size: int | None
    replica_id: int | None


@dataclass(frozen=True)
class Scan:
    """What one listing says, and which of its findings the listings before it agree on."""

    id: int | None
    earlier: tuple[int, float] | None
    findings: list[Finding]
    confirmed: list[Finding]


@dataclass(frozen=True)
class Plan:
    """What confirmed findings come to: replicas to declare lost, or suspect, and how much that is."""

    lost: list[int]
    suspect: list[int]
    bytes: int
    live: int

    @property
    def per_cent(self) -> float:
        """The true share of the endpoint's live replicas."""
        return 100 * (len(self.lost) + len(self.suspect)) / self.live if self.live else 0.0

    def tripped(self, brakes: Brakes) -> list[str]:
        """Return the brakes that this would go past, in words."""
        files = len(self.lost) + len(self.suspect)
        found = (
            (files, brakes.max_files, f"{files} files are more than max_files = {brakes.max_files}"),
            (
                self.bytes,
                brakes.max_bytes,
                f"{self.bytes} bytes are more than max_bytes = {brakes.max_bytes}",
            ),
            (
                self.per_cent,
                brakes.max_per_cent,
                f"{self.per_cent:.3g} % of {self.live} replicas are more than "
                f"max_per_cent = {brakes.max_per_cent:g}",
            ),
        )
        return [text for value, limit, text in found if value > limit]


def differences(conn: sa.Connection, endpoint: str, listing: Listing, taken: float) -> list[Finding]:
    """Compare a listing with the catalogue; what is on its way, came later or lies in quarantine is left out.

    Raises: FormatError, StorageError, ConflictError when next to nothing agrees.
    """
    found = list(islice(_merged(listing.entries(), _known(conn, endpoint)), MOST_FINDINGS + 1))
    if len(found) > MOST_FINDINGS:
        raise ConflictError(
            f"the listing and the catalogue differ in more than {MOST_FINDINGS} files of {endpoint}",
            hint="check the endpoint and --prefix: paths must be written as in the catalogue",
        )
    found = _without_quarantine(conn, found)
    return _without_arrivals(conn, found, taken)


def confirm(
    conn: sa.Connection, endpoint: str, findings: Sequence[Finding], taken: float, apart: float
) -> Scan:
    """Return which findings each listing since the newest one ``apart`` seconds earlier has as well."""
    table = schema.listing
    mine = sa.select(table.c.id, table.c.taken).where(table.c.endpoint == endpoint, table.c.taken < taken)
    earlier = conn.execute(
        mine.where(table.c.taken <= taken - apart).order_by(table.c.taken.desc()).limit(1)
    ).first()
    if earlier is None:
        return Scan(None, None, list(findings), [])
    between = [row.id for row in conn.execute(mine.where(table.c.taken >= earlier.taken))]
    said = schema.listing_finding
    votes: dict[tuple[str, str], int] = {}
    for row in conn.execute(sa.select(said.c.path, said.c.kind).where(said.c.listing_id.in_(between))):
        votes[row.path, row.kind] = votes.get((row.path, row.kind), 0) + 1
    agreed = [finding for finding in findings if votes.get((finding.path, finding.kind)) == len(between)]
    return Scan(None, (earlier.id, earlier.taken), list(findings), agreed)


def record(
    conn: sa.Connection,
    endpoint: str,
    listing: Listing,
    taken: float,
    findings: Sequence[Finding],
    now: float,
) -> int:
    """Keep a listing and its findings; the same one again is the same.

    Raises: ConflictError for another listing of that moment, or one older than the newest, UsageError.
    """
    if taken > now:
        raise UsageError("the listing was taken in the future", hint="give --taken in UTC")
    table = schema.listing
    newest = conn.execute(
        sa.select(table).where(table.c.endpoint == endpoint).order_by(table.c.taken.desc()).limit(1)
    ).first()
    if newest is not None and newest.taken == taken and newest.sha256 == listing.sha256:
        return int(newest.id)
    if newest is not None and newest.taken >= taken:
        raise ConflictError(
            f"a listing of {endpoint} that is as new or newer was reconciled", hint="list the storage anew"
        )
    counts = {"files": listing.files, "bytes": listing.bytes, "sha256": listing.sha256}
    id = insert_id(conn, table, endpoint=endpoint, taken=taken, created=now, **counts)
    for start in range(0, len(findings), _PAGE):
        rows = [
            {"listing_id": id, "kind": f.kind, "path": f.path, "size": f.size, "replica_id": f.replica_id}
            for f in findings[start : start + _PAGE]
        ]
        conn.execute(sa.insert(schema.listing_finding), rows)
    return id


def plan(conn: sa.Connection, endpoint: str, confirmed: Sequence[Finding]) -> Plan:
    """Return what the confirmed findings come to as the catalogue stands now."""
    states = _states(conn, [f.replica_id for f in confirmed if f.replica_id is not None])
    ids = {f.replica_id: f.kind for f in confirmed if f.replica_id in states}
    lost = sorted(id for id, kind in ids.items() if id is not None and kind == "lost")
    suspect = sorted(
        id for id, kind in ids.items() if id is not None and kind == "differs" and states[id][0] != "suspect"
    )
    replica = schema.replica
    live = sa.select(sa.func.count()).where(replica.c.endpoint == endpoint, replica.c.state.in_(LIVE))
    size = sum(states[id][1] for id in (*lost, *suspect))
    return Plan(lost, suspect, size, int(conn.execute(live).scalar_one()))


def act(
    conn: sa.Connection, endpoint: str, scan: Scan, brakes: Brakes, taken: float, now: float, reason: str = ""
) -> Plan:
    """Declare replicas lost and suspect, with history; the same scan again changes nothing.

    ``reason`` releases the brakes, and is kept.

    Raises: ConflictError when a brake trips; nothing is changed then.
    """
    made = plan(conn, endpoint, scan.confirmed)
    if scan.id is None or scan.earlier is None or not (made.lost or made.suspect):
        return made
    tripped = made.tripped(brakes)
    if tripped and not reason:
        raise ConflictError(
            f"nothing was changed: {'; '.join(tripped)}",
            hint="look at the storage; when all of it is true, release the brakes with --release REASON",
            tripped=tripped,
        )
    why = f"missing or different in all listings from {scan.earlier[1]:.0f} to {taken:.0f}"
    states = _states(conn, [*made.lost, *made.suspect])
    for source in ("present", "verified"):
        ids = [id for id in (*made.lost, *made.suspect) if states[id][0] == source]
        history.move_all(conn, schema.replica, ids, source, "suspect", actor=ACTOR, reason=why, at=now)
    history.move_all(conn, schema.replica, made.lost, "suspect", "lost", actor=ACTOR, reason=why, at=now)
    _note(conn, scan, made, brakes, now, reason if tripped else "")
    return made


def _note(conn: sa.Connection, scan: Scan, made: Plan, brakes: Brakes, now: float, reason: str) -> None:
    earlier = scan.earlier[0] if scan.earlier else scan.id
    counts = {"lost": len(made.lost), "suspect": len(made.suspect), "bytes": made.bytes, "live": made.live}
    values: dict[str, Any] = {"brakes": brakes.document(), "reason": reason, "created": now}
    conn.execute(
        sa.insert(schema.reconciliation).values(listing_id=scan.id, earlier_id=earlier, **counts, **values)
    )


def _known(conn: sa.Connection, endpoint: str) -> Iterator[Any]:
    """Yield the replicas of an endpoint in the order of their paths, as a listing has them."""
    replica, file = schema.replica, schema.file
    order = sa.collate(replica.c.path, "C") if conn.dialect.name == "postgresql" else replica.c.path
    chosen = (
        sa.select(replica.c.id, replica.c.path, replica.c.state, file.c.size)
        .join(file, replica.c.file_id == file.c.id)
        .where(replica.c.endpoint == endpoint, replica.c.state != "deleted")
    )
    yield from conn.execute(chosen.order_by(order).execution_options(yield_per=_PAGE))


def _merged(listed: Iterator[Entry], known: Iterator[Any]) -> Iterator[Finding]:
    """Walk along both, which are in one order."""
    entry, row = next(listed, None), next(known, None)
    while entry is not None or row is not None:
        if row is None or (entry is not None and entry[0] < row.path):
            if entry is not None:
                yield Finding("dark", entry[0], entry[1], None)
            entry = next(listed, None)
        elif entry is None or row.path < entry[0]:
            if row.state in LIVE:
                yield Finding("lost", row.path, None, row.id)
            row = next(known, None)
        else:
            if row.state in LIVE and entry[1] not in (None, row.size):
                yield Finding("differs", row.path, entry[1], row.id)
            elif row.state not in (*LIVE, *COMING, "deleting"):
                yield Finding("dark", row.path, entry[1], row.id)
            entry, row = next(listed, None), next(known, None)


def _without_quarantine(conn: sa.Connection, findings: list[Finding]) -> list[Finding]:
    """Leave out what lies with attempts: on its way, rejected, or the report beside accepted outputs."""
    if not any(f.kind == "dark" and _NONCE.search(f.path) for f in findings):
        return findings
    attempt = schema.attempt
    states = {row.nonce: row.state for row in conn.execute(sa.select(attempt.c.nonce, attempt.c.state))}

    def is_known(path: str) -> bool:
        owners = [states[nonce] for nonce in _NONCE.findall(path) if nonce in states]
        return any(state in _MOVING for state in owners) or (bool(owners) and path.endswith(f"/{_REPORT}"))

    return [f for f in findings if f.kind != "dark" or not is_known(f.path)]


def _without_arrivals(conn: sa.Connection, findings: list[Finding], taken: float) -> list[Finding]:
    """Leave out replicas that came when the listing was being made, or later."""
    ids = [f.replica_id for f in findings if f.kind != "dark" and f.replica_id is not None]
    came: set[int] = set()
    table, replica = schema.history, schema.replica
    for part in _parts(ids):
        moved = sa.select(table.c.object).where(
            table.c.kind == "replica", table.c.object.in_([str(id) for id in part]), table.c.at >= taken
        )
        came |= {int(name) for name in conn.execute(moved).scalars()}
        verified = sa.select(replica.c.id).where(replica.c.id.in_(part), replica.c.verified_at >= taken)
        came |= set(conn.execute(verified).scalars())
    return [f for f in findings if f.kind == "dark" or f.replica_id not in came]


def _states(conn: sa.Connection, ids: Sequence[int]) -> Mapping[int, tuple[str, int]]:
    """Return state and size of those replicas that are live."""
    replica, file = schema.replica, schema.file
    found: dict[int, tuple[str, int]] = {}
    for part in _parts(ids):
        chosen = sa.select(replica.c.id, replica.c.state, file.c.size).join(file)
        live = chosen.where(replica.c.id.in_(part), replica.c.state.in_(LIVE))
        found |= {row.id: (row.state, row.size) for row in conn.execute(live)}
    return found


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
