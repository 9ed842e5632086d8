"""``beamwright db``: the database as a whole: what it is, upgrades, moves, backups, seals."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import (
    Columns,
    Noun,
    dry_run_option,
    open_workspace,
    reading,
    say,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    from beamwright.db.engine import Database
    from beamwright.production.workspace import Workspace

_ACTOR = "operator"


@click.group(cls=Noun)
def db() -> None:
    """The database: upgrade, move, back up, restore, seal."""


@db.command("show")
@reading
def show(folder: Path | None, as_json: bool) -> None:
    """Show where the database is, its schema, and what is kept of it."""
    from beamwright.db import operations

    database = _as_it_is(open_workspace(folder))
    document = operations.description(database)
    database.close()
    write_document(document, as_json)


@db.command("check")
@reading
def check(folder: Path | None, as_json: bool) -> int:
    """Check the database alone: schema, guards, soundness, and every invariant that needs no file."""
    from beamwright import fsck
    from beamwright.core.errors import IntegrityError
    from beamwright.db import operations

    workspace = open_workspace(folder)
    rows = [{"invariant": 0, "object": "schema", "message": text} for text in operations.faults(workspace.db)]
    rows += [found.document() for found in fsck.run(workspace.db, workspace.root, on_storage=False)]
    workspace.db.close()
    if rows or as_json:
        columns: Columns = {"invariant": "invariant", "object": "object", "what is wrong": "message"}
        write_rows(rows, columns, as_json)
    say(f"{len(rows)} faults" if rows else "the database is sound")
    return IntegrityError.exit_code if rows else 0


@db.command("upgrade")
@click.option("--no-backup", is_flag=True, help="Do not back the database up first.")
@dry_run_option
@reading
def upgrade(no_backup: bool, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Bring the database to the schema of this beamwright; all data are kept."""
    from beamwright.db import archive, migrations, operations

    workspace = open_workspace(folder)
    database = _as_it_is(workspace)
    before = database.revision()
    document: dict[str, Any] = {"database": database.name, "from": before, "to": migrations.HEAD}
    if before == migrations.HEAD or dry_run:
        say("the database has this schema already" if before == migrations.HEAD else "nothing was done")
        write_document(document, as_json)
        return
    with workspace.lock():
        now = workspace.clock.now()
        if before is not None and not no_backup:
            name = f"before-{migrations.HEAD}-{_stamp(now)}.zip"
            document["backup"] = str(archive.write(database, _backups(workspace) / name, now).path)
            say(f"backed up to {document['backup']}")
        database.migrate()
        operations.note(database, "schema", "upgraded", _ACTOR, now, document)
    database.close()
    write_document(document, as_json)


@db.command("move")
@click.argument("target")
@dry_run_option
@reading
def move(target: str, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Move everything to an empty database at TARGET, verify it row by row, and use that from then on.

    TARGET is postgresql://USER@HOST/NAME or the path of a new SQLite file. The password of a server comes
    from ~/.pgpass or PGPASSWORD. The database that was left stays as it is, and takes no more writes.
    """
    from beamwright.core.settings import with_database
    from beamwright.db import moving, operations

    workspace = open_workspace(folder)
    url = _target(workspace, target)
    text = operations.settings_form(url, workspace.root)
    with_database((workspace.root / "beamwright.toml").read_text(), text)
    document: dict[str, Any] = {"from": workspace.db.name, "to": text}
    with workspace.lock():
        if dry_run:
            operations.check_empty(url)
            say("nothing was done; the target is empty and can be reached")
            write_document(document, as_json)
            return
        now = workspace.clock.now()
        with closing(workspace.db) as source:
            verified = moving.move(source, url, now, say, partial(workspace.use_database, text))
        document["tables"], document["rows"] = moving.totals(verified)
        operations.note(workspace.db, "workspace", "moved", _ACTOR, now, document)
        workspace.db.close()
    say(f"every row was verified; the settings name {text} now, {document['from']} is as it was")
    write_document(document, as_json)


@db.command("relocate")
@click.option(
    "--from", "former", metavar="DIR", help="Where the workspace was; where its last attempt had it."
)
@dry_run_option
@reading
def relocate(former: str | None, dry_run: bool, folder: Path | None, as_json: bool) -> int:
    """Let the database name files where they are, after the workspace's folder was moved or copied.

    Each file that it named in the old folder is read in full in the new one first, and compared with its
    checksums. Where one is missing, or is another, nothing is changed.
    """
    from beamwright.catalog import relocating
    from beamwright.cli.progress import Progress
    from beamwright.core.errors import IntegrityError, UsageError

    workspace = open_workspace(folder)
    _check_own(workspace)
    new, progress, found = str(workspace.root), Progress(), []
    with workspace.lock():
        with workspace.db.read() as conn:
            last = relocating.former_root(conn)
            old = os.path.normpath(former) if former else last
            if old is None:
                raise UsageError("nothing tells where the workspace was", hint="say --from DIR")
            for one in relocating.look(conn, old, new) if old != new else ():
                found.append(one)
                progress(len(found), None)
        progress.close()
        if not found and old not in (last, new):
            listed = "`beamwright file ls --json` tells where files are"
            hint = f"its last attempt was in {last}" if last else listed
            raise UsageError(f"the database names no file below {old}", hint=hint)
        wrong = [{"path": one.path, "because": relocating.differs(one)} for one in found if not one.is_right]
        if wrong:
            write_rows(wrong, {"path": "path", "because": "because"}, as_json)
            say(f"{len(wrong)} of {len(found)} files are not as registered: nothing was changed")
            return IntegrityError.exit_code
        counts = {"replicas": len(found)}
        if not dry_run and old != new:
            by = (workspace.clock.now(), _ACTOR)
            counts = workspace.db.transact(lambda conn: relocating.settle(conn, found, old, new, *by))
    workspace.db.close()
    say("a dry run: nothing was changed" if dry_run else "every file was read, and is as registered")
    write_document({"from": old, "to": new} | counts, as_json)
    return 0


def _check_own(workspace: Workspace) -> None:
    """Refuse a copy whose settings still name the database file of the original."""
    url, own = workspace.database_url, workspace.root
    path = Path(str(url.database))
    if url.get_backend_name() == "sqlite" and not path.is_relative_to(own) and (own / path.name).is_file():
        from beamwright.core.errors import ConflictError

        raise ConflictError(
            f"the settings name {path}, and there is {own / path.name}",
            hint=f'write url = "sqlite:///{path.name}" into {own}/beamwright.toml',
        )


@db.command("backup")
@click.argument("path", required=False, type=click.Path(path_type=Path, dir_okay=False))
@reading
def backup(path: Path | None, folder: Path | None, as_json: bool) -> None:
    """Back the database up into a file, as it is at one moment, while others go on writing.

    Without PATH: a new file in the workspace's folder backups/.
    """
    from beamwright import durable
    from beamwright.db import archive, operations

    workspace = open_workspace(folder)
    now = workspace.clock.now()
    made = archive.write(workspace.db, path or _backups(workspace) / f"{_stamp(now)}.zip", now)
    document = {"backup": str(made.path.absolute()), "rows": made.rows, "schema": made.revision}
    document["sha256"] = durable.hash_file(made.path).sha256
    operations.note(workspace.db, made.path.name, "backed-up", _ACTOR, now, document)
    workspace.db.close()
    write_document(document, as_json)


@db.command("backups")
@reading
def backups(folder: Path | None, as_json: bool) -> None:
    """List the backups in the workspace's folder backups/."""
    rows = [_row(path) for path in _found(open_workspace(folder))]
    names = ("backup", "taken", "schema", "rows", "bytes")
    write_rows(rows, {name: name for name in names}, as_json)


@db.command("restore")
@click.argument("path", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.option("--to", "target", help="An empty database other than the workspace's own.")
@dry_run_option
@reading
def restore(path: Path, target: str | None, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Restore a backup into an empty database and verify it there, row by row.

    Without --to, into the one that the settings name: move a damaged file away first, or create an empty
    database.
    """
    from beamwright.db import archive, moving, operations
    from beamwright.db.engine import Database

    workspace = open_workspace(folder)
    url = _target(workspace, target) if target else workspace.database_url
    saved = archive.read(path)
    document: dict[str, Any] = {"backup": str(path), "to": Database(url).name}
    if dry_run:
        operations.check_empty(url)
        say(f"would restore {saved.rows} rows")
        write_document(document, as_json)
        return
    with workspace.lock():
        document["tables"], document["rows"] = moving.totals(archive.restore(saved, url, say))
        restored = Database(url)
        operations.note(restored, path.name, "restored", _ACTOR, workspace.clock.now(), document)
        restored.close()
    say("every row was verified; go on with `beamwright fsck`")
    write_document(document, as_json)


@db.command("drill")
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path, dir_okay=False))
@reading
def drill(path: Path | None, folder: Path | None, as_json: bool) -> int:
    """Restore a backup (the newest) into a scratch database, judge it there, and keep the result on record.

    The restored rows are verified, every invariant is checked on them, and what only grows must still be in
    the live database.
    """
    from beamwright.core.errors import IntegrityError, UsageError
    from beamwright.db import operations

    workspace = open_workspace(folder)
    known = _found(workspace)
    if path is None and not known:
        raise UsageError("there is no backup to drill with", hint="make one with `beamwright db backup`")
    chosen = path or known[-1]
    number, rows = _drilled(workspace, chosen)
    document = {"backup": str(chosen), "rows": number, "faults": rows}
    outcome = "drill-failed" if rows else "drilled"
    operations.note(workspace.db, chosen.name, outcome, _ACTOR, workspace.clock.now(), document)
    workspace.db.close()
    columns: Columns = {"invariant": "invariant", "object": "object", "what is wrong": "message"}
    if as_json:
        write_document(document, as_json)
    elif rows:
        write_rows(rows, columns, as_json)
    say(f"{len(rows)} faults" if rows else f"{number} rows restored; every invariant holds on them")
    return IntegrityError.exit_code if rows else 0


@db.command("seal")
@click.option("--patience", default=30.0, show_default=True, help="Seconds to wait for open transactions.")
@reading
def seal(patience: float, folder: Path | None, as_json: bool) -> None:
    """Seal the history up to what can still change, and print the head of the chain."""
    from beamwright.db import seals

    workspace = open_workspace(folder)
    done = seals.seal(workspace.db, workspace.clock.now(), patience)
    with workspace.db.read() as conn:
        head, left = seals.head(conn), seals.open_lines(conn)
    workspace.db.close()
    document = {"sealed": done, "open": left, "last": head and head["last"], "head": head and head["chain"]}
    if left and not done:
        say("a transaction has been open for too long: what it may still write cannot be sealed yet")
    write_document(document, as_json)


@db.command("verify")
@click.option("--head", help="A head that was noted earlier: the chain must still lead through it.")
@reading
def verify(head: str | None, folder: Path | None, as_json: bool) -> int:
    """Verify the history against its seals: no sealed line was changed, removed or added."""
    from beamwright.core.errors import IntegrityError
    from beamwright.db import seals
    from beamwright.fsck import system
    from beamwright.fsck.model import Context

    workspace = open_workspace(folder)
    with workspace.db.read() as conn:
        context = Context(conn, workspace.root, workspace.clock.now(), deep=False)
        rows = [{"object": name, "message": text} for name, text in system.sealed(context)]
        if head is not None and not seals.leads_through(conn, head):
            rows.append({"object": head, "message": "is no head of this chain: it was cut or written anew"})
        newest = seals.head(conn)
    workspace.db.close()
    if rows or as_json:
        write_rows(rows, {"object": "object", "what is wrong": "message"}, as_json)
    end = f"up to line {newest['last']}, head {newest['chain']}" if newest else "and has no seal yet"
    say(f"{len(rows)} faults" if rows else f"the history is as it was sealed, {end}")
    return IntegrityError.exit_code if rows else 0


def _as_it_is(workspace: Workspace) -> Database:
    """Return the database whatever schema it has."""
    from beamwright.db.engine import Database

    return Database(workspace.database_url)


def _target(workspace: Workspace, target: str) -> Any:
    from beamwright.core.errors import UsageError
    from beamwright.db.engine import located

    url = located(target, workspace.root)
    if url.password is not None:
        message = (
            "the address holds a password, which would stand in the settings and in the list of processes"
        )
        raise UsageError(message, hint="put it into ~/.pgpass or PGPASSWORD")
    return url


def _backups(workspace: Workspace) -> Path:
    from beamwright import durable

    durable.make_directory(workspace.backups)
    return workspace.backups


def _found(workspace: Workspace) -> list[Path]:
    """Return the backups that are there, the newest last; damaged ones as well."""
    paths = [path for path in workspace.backups.glob("*.zip") if path.is_file()]
    return sorted(paths, key=lambda path: (_row(path)["taken"], path))


def _row(path: Path) -> dict[str, Any]:
    from beamwright.core.errors import FormatError
    from beamwright.db import archive

    status = path.stat()
    row = {"backup": str(path), "bytes": status.st_size}
    try:
        saved = archive.read(path)
    except FormatError as error:
        return row | {"taken": _date(status.st_mtime), "schema": "damaged", "rows": 0, "fault": error.message}
    return row | {"taken": _date(saved.taken), "schema": saved.revision, "rows": saved.rows, "fault": ""}


def _drilled(workspace: Workspace, path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of rows of a backup, and what is wrong with them once they are restored."""
    import tempfile

    import sqlalchemy as sa

    from beamwright import fsck
    from beamwright.core.errors import BeamwrightError
    from beamwright.db import archive
    from beamwright.db.engine import Database

    with tempfile.TemporaryDirectory(dir=_backups(workspace), prefix=".drill-") as scratch:
        url = sa.URL.create("sqlite", database=str(Path(scratch) / "restored.db"))
        try:
            saved = archive.read(path)
            archive.restore(saved, url, say)
        except BeamwrightError as error:
            return 0, [{"invariant": 23, "object": str(path), "message": error.message}]
        restored = Database(url)
        found = fsck.run(restored, workspace.root, now=saved.taken, on_storage=False)
        restored.close()
    # Whether an earlier drill failed says nothing of this one; broken seals do.
    rows = [v.document() for v in found if v.invariant != 24 or v.object.startswith("seal")]
    with workspace.db.read() as conn:
        lost = archive.lost_since(saved, conn)
    return saved.rows, rows + [
        {"invariant": 23, "object": name, "message": "is in the backup and not, or not so, in the database"}
        for name in lost
    ]


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
