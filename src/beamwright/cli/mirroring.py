"""The part of ``beamwright conditions`` that carries conditions elsewhere, and brings them from there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import (
    dry_run_option,
    dumps,
    open_workspace,
    reader,
    reading,
    say,
    turns,
    write_document,
    write_rows,
)
from beamwright.cli.constants import FILE, parse_interval, version_option
from beamwright.core.errors import NotCoveredError, UnknownNameError, UsageError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.conditions.mirror import Pulled
    from beamwright.conditions.sharing import Source
    from beamwright.production.workspace import Workspace

PULLED = ("global_tag", "before", "version", "state", "intervals", "payloads")


@click.command("export")
@click.argument("global_tag", metavar="GLOBALTAG")
@click.argument("runs", metavar="SERIES/FIRST..LAST", nargs=-1, required=True)
@click.option("--role", "roles", multiple=True, help="These roles only; may be repeated.")
@version_option
@click.option(
    "--to", "target", default=".", type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write to [default: this one].",
)  # fmt: skip
@reading
def export(
    global_tag: str, runs: tuple[str, ...], roles: tuple[str, ...], version: int | None, target: Path,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write the constants of runs into one file, a snapshot, named by its hash.

    Jobs get the same form. Elsewhere `conditions import` takes it; what is not covered is not in it.
    """
    from beamwright import durable
    from beamwright.conditions import tags
    from beamwright.conditions.snapshot import Snapshot, hash_pieces, role_of
    from beamwright.core.canonical import sha256_hex

    intervals = [parse_interval(text) for text in runs]
    with reader(folder) as conn:
        known = sorted(role_of(tag) for tag in tags.members(conn, global_tag, version))
        for role in roles:
            if role not in known:
                raise UnknownNameError(f"role of global tag {global_tag}", role, known)
        data = tags.export(conn, global_tag, intervals, roles or known, version)
    snapshot = Snapshot.from_bytes(data)
    if not snapshot.roles:
        message = f"global tag {global_tag} has no constants for {', '.join(runs)}"
        raise NotCoveredError(
            message, hint=f"`beamwright conditions check {global_tag}` lists what is covered"
        )
    path = target / f"{sha256_hex(data)}.bwc"
    durable.make_directory(target.absolute())
    durable.put_once(path, data)
    document = {
        "file": str(path),
        "size": len(data),
        "roles": list(snapshot.roles),
        "intervals": len(list(snapshot)),
        "resolved_hash": hash_pieces(snapshot),
    }
    write_document(document, as_json)


@click.command("import")
@click.argument("file", type=FILE)
@click.option("--as", "name", metavar="GLOBALTAG", help="Under this name [default: the one it had].")
@dry_run_option
@reading
def import_(file: Path, name: str | None, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Take in a snapshot: each payload is hashed anew, what was tampered with is refused by name.

    Its global tag changes by further snapshots only; make one of your own from it with `conditions tag`.
    """
    workspace = open_workspace(folder)
    try:
        pulled = _import(workspace, file, name, dry_run)
    finally:
        workspace.db.close()
    write_document(pulled.document(), as_json)


def _import(workspace: Workspace, file: Path, name: str | None, dry_run: bool = False) -> Pulled:
    from beamwright.conditions import mirror
    from beamwright.conditions.snapshot import Snapshot
    from beamwright.core.canonical import sha256_hex
    from beamwright.core.errors import ChecksumError, FormatError

    try:
        data = file.read_bytes()
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error}", hint="give a snapshot") from error
    digest = sha256_hex(data)
    if len(file.stem) == len(digest) and file.stem != digest:
        raise ChecksumError(f"{file} has other content than its name says", hint="fetch it again")
    snapshot = Snapshot.from_bytes(data, str(file))

    def take(conn: sa.Connection) -> Pulled:
        now, reason = workspace.clock.now(), f"snapshot {digest}"
        pulled = mirror.take_snapshot(conn, snapshot, name or snapshot.global_tag, reason, now)
        if dry_run:
            conn.rollback()
        return pulled

    pulled = workspace.db.transact(take)
    if dry_run:
        say("a dry run: nothing was changed")
    return pulled


@click.command("mirror")
@click.argument("source", metavar="URL|PATH")
@click.option("--global-tag", "only", multiple=True, help="This one only; may be repeated.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Pull again so often, until interrupted.",
)
@click.option("--token-file", type=FILE, help="Holds the token that the server's `conditions token` told.")
@click.option("--moved-from", metavar="URL|PATH", help="Mirrors of this go on: it is the same source.")
@reading
def mirror(
    source: str, only: tuple[str, ...], every: float | None, token_file: Path | None, moved_from: str | None,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Copy global tags from elsewhere, what is new of them, checked by hash: once, or on a period.

    From a server (http, https: `beamwright up` there), from a database (a SQLite file or postgresql://), or
    from a snapshot. What is cut goes on where it was; nothing appears before it is whole. Mirrors are
    read-only here.
    """
    workspace = open_workspace(folder)
    with ExitStack() as stack:
        stack.callback(workspace.db.close)
        pull = _puller(workspace, source, only, token_file, moved_from, stack)
        if every is None:
            _turn(pull, as_json, goes_on=False)
            return
        for _ in turns(every, workspace.clock.sleep):
            failed = _turn(pull, as_json, goes_on=True)
            say(f"{'trying' if failed else 'looking'} again in {every:g} s; stop it with Ctrl-C")


def _turn(pull: Callable[[], list[Pulled]], as_json: bool, goes_on: bool) -> bool:
    """Pull once and say what came; on a period, say what went wrong and go on."""
    from beamwright.core.errors import BeamwrightError

    try:
        rows = [one.document() for one in pull()]
    except BeamwrightError as error:
        if not goes_on:
            raise
        say(dumps(error.document()) if as_json else f"error: {error}")
        return True
    write_rows(rows, {name.replace("_", " "): name for name in PULLED}, as_json)
    return False


def _puller(
    workspace: Workspace, source: str, only: tuple[str, ...], token_file: Path | None, moved_from: str | None,
    stack: ExitStack,
) -> Callable[[], list[Pulled]]:  # fmt: skip
    from beamwright.conditions.mirror import Mirror, move_source
    from beamwright.core import bundle

    path = Path(source)
    if "://" not in source and path.is_file() and path.read_bytes()[:4] == bundle.MAGIC:
        if moved_from or len(only) > 1:
            raise UsageError("a snapshot holds one global tag", hint="leave out the other options")
        return lambda: [_import(workspace, path, only[0] if only else None)]
    found = _source(source, token_file, stack)
    if moved_from:
        moved = workspace.db.transact(lambda conn: move_source(conn, moved_from, found.name))
        say(f"{moved} mirrors go on from {found.name}")
    one = Mirror(workspace.db, found, workspace.clock.now)
    return lambda: one.pull(only)


def _source(source: str, token_file: Path | None, stack: ExitStack) -> Source:
    from beamwright.client import Client
    from beamwright.conditions.sharing import DatabaseSource, RemoteSource
    from beamwright.core.errors import ConfigError
    from beamwright.db.engine import Database, workspace_url

    if source.startswith(("http://", "https://")):
        client = Client(source, token_file.read_text().strip() if token_file else "")
        stack.callback(client.close)
        return RemoteSource(client)
    if "://" not in source and not Path(source).exists():
        raise ConfigError(f"{source} is not there", hint="give a URL, a database, a workspace or a snapshot")
    database = Database(workspace_url(Path(source)) if Path(source).is_dir() else source)
    stack.callback(database.close)
    database.check()
    return DatabaseSource(database)


@click.command("token")
@reading
def token(folder: Path | None, as_json: bool) -> None:
    """Tell the token with which another site may mirror the conditions of this workspace, and no more."""
    from beamwright.server import auth

    workspace = open_workspace(folder)
    told: dict[str, Any] = {"token": auth.token(workspace.secret, auth.CONDITIONS), "for": "conditions"}
    write_document(told, as_json, [told["token"]])
    say(f"its holder may read the conditions of {workspace.root}, and nothing else, while the secret stays")


COMMANDS = (export, import_, mirror, token)
