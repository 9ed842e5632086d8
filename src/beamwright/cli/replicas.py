"""``beamwright file missing|where|verify|reconcile``: files at endpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.asking import asking, completer, question, write_answer, write_plan
from beamwright.cli.common import (
    Columns,
    Row,
    dry_run_option,
    open_workspace,
    reading,
    say,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.production.workspace import Workspace

_PAGE, _READ_AT_ONCE = 500, 100


@click.command("where")
@click.option("--at", "place", help="At this endpoint or site only: its files, one by one.")
@asking("file")
@reading
def where(place: str | None, folder: Path | None, as_json: bool, explain: bool, **asked: Any) -> None:
    """Show how many files are at which endpoint, or with --at which ones."""
    from beamwright.catalog import replicas
    from beamwright.catalog.asking import ask
    from beamwright.catalog.vocabulary import state_then
    from beamwright.db import schema

    workspace = open_workspace(folder)
    with closing(workspace.db), workspace.db.read() as conn:
        if place is None:
            _check_alone(explain, asked)
            names = ("endpoint", "state", "files", "bytes")
            write_rows(replicas.summary(conn), {name: name for name in names}, as_json)
            return
        wanted = question("file", asked)
        places, table = replicas.at(_endpoints(workspace, conn), place), schema.replica
        if explain:
            write_plan(conn, wanted, as_json, replicas.known_at(places, wanted.as_of))
            return
        columns = (table.c.endpoint, table.c.path, state_then(table, wanted.as_of).label("replica"))
        rows = (
            {"file": f"{r['scope']}:{r['name']}", "bytes": r["size"]} | _place(r)
            for r in ask(conn, wanted, replicas.held(places, wanted.as_of), columns=columns, join=table)
        )
        shown = ("file", "bytes", "endpoint", "replica", "path")
        write_answer(conn, wanted, rows, {name: name for name in shown}, as_json)


def _check_alone(explain: bool, asked: dict[str, Any]) -> None:
    """Refuse to leave out silently what speaks of single files."""
    from beamwright.core.errors import UsageError

    given = [name for name in ("where", "as_of", "limit") if asked[name] is not None]
    given += ["explain"] if explain else []
    if given:
        option = given[0].replace("_", "-")
        raise UsageError(
            f"--{option} chooses single files, and none are listed", hint="say --at ENDPOINT, too"
        )


def _place(row: Row) -> Row:
    return {name: row[name] for name in ("endpoint", "replica", "path")}


@click.command("missing")
@click.option("--at", "place", required=True, help="The endpoint or site that should hold the files.")
@asking("file")
@reading
def missing(place: str, folder: Path | None, as_json: bool, explain: bool, **asked: Any) -> None:
    """List the files that a site or an endpoint lacks, with the endpoints that hold them."""
    from beamwright.catalog import replicas
    from beamwright.catalog.asking import ask, is_narrow

    workspace = open_workspace(folder)
    with closing(workspace.db), workspace.db.read() as conn:
        wanted = question("file", asked)
        places = replicas.at(_endpoints(workspace, conn), place)
        absent = replicas.lacking(places, is_narrow(conn, wanted), wanted.as_of)
        if explain:
            write_plan(conn, wanted, as_json, absent)
            return
        rows = _with_places(ask(conn, wanted, absent), lambda ids: replicas.of_files(conn, ids, wanted.as_of))
        columns: Columns = {"file": "file", "bytes": "bytes", "is at": lambda r: ", ".join(r["at"]) or "–"}
        write_answer(conn, wanted, rows, columns, as_json)


def _with_places(rows: Iterator[Row], find: Callable[[list[int]], dict[int, list[str]]]) -> Generator[Row]:
    while page := list(islice(rows, _PAGE)):
        places = find([row["id"] for row in page])
        for row in page:
            yield {"file": f"{row['scope']}:{row['name']}", "bytes": row["size"], "at": places[row["id"]]}


@click.command("verify")
@click.option("--at", "place", required=True, help="The endpoint or site whose files are to be read.")
@click.option("--where", metavar="EXPRESSION", shell_complete=completer("file"), help="These files only.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@dry_run_option
@reading
def verify(
    place: str, where: str | None, limit: int | None, dry_run: bool, folder: Path | None, as_json: bool
) -> int:
    """Read in full what nobody has read: a replica that is as registered is verified, another is suspect.

    The paths of the endpoint must lead to files of this machine. Run it again to go on where it was stopped.
    """
    import getpass

    from beamwright.catalog import replicas, verifying
    from beamwright.catalog.asking import Question
    from beamwright.cli.progress import each
    from beamwright.core.errors import IntegrityError

    workspace, counts, bad = open_workspace(folder), Counter[str](), list[Row]()
    with closing(workspace.db) as db:
        with db.read() as conn:
            places = replicas.at(_endpoints(workspace, conn), place)
            rows = verifying.waiting(conn, Question.of("file", where, None, limit=limit), places)
        unread = each([] if dry_run else rows, "files")
        while seen := [verifying.read(row) for row in islice(unread, _READ_AT_ONCE)]:
            settle = partial(verifying.settle, seen=seen, actor=getpass.getuser(), now=workspace.clock.now())
            db.transact(settle)
            counts.update(one.outcome for one in seen)
            bad += [vars(one) for one in seen if one.outcome != "verified"]
    if bad or as_json:
        write_rows(bad, {"file": "file", "path": "path", "is": "outcome", "because": "problem"}, as_json)
    told = ", ".join(f"{counts[name]} {name}" for name in ("verified", "suspect", "unread"))
    say(f"{len(rows)} replicas would be read" if dry_run else told)
    return IntegrityError.exit_code if bad else 0


@click.command("reconcile")
@click.argument("endpoint")
@click.option(
    "--listing",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='What the storage holds: PATH, PATH<tab>SIZE or {"path": …, "size": …} a line; may be gzipped.',
)
@click.option("--taken", required=True, metavar="DATE", help="When the listing was begun (UTC).")
@click.option("--prefix", default="", help="Written before each listed path, as paths are in the catalogue.")
@click.option("--max-files", type=click.IntRange(min=0), help="Instead of the settings' reconcile.max_files.")
@click.option("--max-bytes", type=click.IntRange(min=0), help="Instead of reconcile.max_bytes.")
@click.option("--max-per-cent", type=click.FloatRange(0, 100), help="Instead of reconcile.max_per_cent.")
@click.option(
    "--release", "reason", default="", metavar="REASON", help="Go past the brakes, for this reason."
)
@dry_run_option
@reading
def reconcile(
    endpoint: str,
    path: Path,
    taken: str,
    prefix: str,
    reason: str,
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
    **limits: float | None,
) -> None:
    """Compare a storage's listing with the catalogue, and mark what two listings agree is gone.

    Dark files are reported, never removed. A replica that is missing in all listings over the time
    reconcile.apart_s is declared lost, one of another size suspect.
    """
    from beamwright.catalog import reconciling, replicas
    from beamwright.catalog.listings import Listing
    from beamwright.core.clock import seconds_of

    workspace = open_workspace(folder)
    settings = workspace.settings.reconcile
    chosen = settings.model_dump() | {name: value for name, value in limits.items() if value is not None}
    apart = chosen.pop("apart_s")
    brakes = reconciling.Brakes(apart, **chosen)
    begun = seconds_of(taken, "the time of the listing")
    listing = Listing(path, prefix)
    with closing(workspace.db) as db:
        with db.read() as conn:
            replicas.at({name: name for name in _endpoints(workspace, conn)}, endpoint)
            found = reconciling.differences(conn, endpoint, listing, begun)
            scan = reconciling.confirm(conn, endpoint, found, begun, apart)
            made = reconciling.plan(conn, endpoint, scan.confirmed)
        if not dry_run:
            now = workspace.clock.now()
            with db.begin() as conn:
                id = reconciling.record(conn, endpoint, listing, begun, found, now)
            scan = replace(scan, id=id)
            made = db.transact(lambda conn: reconciling.act(conn, endpoint, scan, brakes, begun, now, reason))
    _tell(endpoint, listing, scan, made, brakes, dry_run, as_json)


def _tell(
    endpoint: str, listing: Any, scan: Any, made: Any, brakes: Any, dry_run: bool, as_json: bool
) -> None:
    sure = {(f.path, f.kind) for f in scan.confirmed}
    rows = [
        {"path": f.path, "finding": f.kind, "size": f.size, "confirmed": (f.path, f.kind) in sure}
        for f in scan.findings
    ]
    document = {
        "endpoint": endpoint, "listed": listing.files, "findings": rows, "confirmed": len(sure),
        "lost": len(made.lost), "suspect": len(made.suspect), "bytes": made.bytes, "live": made.live,
        "per_cent": round(made.per_cent, 6), "tripped": made.tripped(brakes), "acted": not dry_run,
    }  # fmt: skip
    if as_json:
        write_document(document, as_json)
    elif rows:
        names = ("path", "finding", "size", "confirmed")
        write_rows(rows[:1000], {name: name for name in names}, as_json)
    agreed = f"{len(sure)} of {len(rows)} findings are confirmed" if rows else "listing and catalogue agree"
    verb = "would be" if dry_run else "were"
    say(f"{agreed}; {len(made.lost)} replicas {verb} declared lost, {len(made.suspect)} suspect")
    if scan.earlier is None and rows:
        say(f"a listing taken {brakes.apart:g} s later must confirm them")


def _endpoints(workspace: Workspace, conn: sa.Connection) -> dict[str, str]:
    from beamwright.catalog import replicas

    settings = workspace.settings
    declared = dict.fromkeys(settings.farm, settings.site.name)
    declared |= {name: endpoint.site for name, endpoint in settings.endpoint.items()}
    return replicas.endpoints(conn, declared, settings.site.name)
