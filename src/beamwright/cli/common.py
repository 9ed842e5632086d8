"""What all commands share: their options, the workspace they work in, and how results are written."""

from __future__ import annotations

import getpass
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from beamwright.core.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType

    import sqlalchemy as sa

    from beamwright.production.interventions import Why
    from beamwright.production.workspace import Workspace

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Row = dict[str, Any]
Columns = Mapping[str, str | Callable[[Row], Any]]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON: a line per row of a list, or one document."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
by_option = click.option("--by", default="", help="Who decides [default: the user].")
reason_option = click.option("--reason", required=True, help="Why; kept in the history for ever.")
sources_option = click.option(
    "--sources",
    multiple=True,
    metavar="PLACE",
    type=click.Path(exists=True, path_type=Path),
    help="A file or folder that pointer skims lead into; may be repeated.",
)
workspace_option = click.option(
    "-w",
    "--workspace",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="BEAMWRIGHT_WORKSPACE",
    help="The workspace [default: the nearest folder upwards with a beamwright.toml].",
)


def colours() -> bool | None:
    """Tell whether output may have colours: None where the stream decides, a terminal or not."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def can_overwrite(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that can write over what it shows."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def turns(every: float, sleep: Callable[[float], None]) -> Iterator[None]:
    """Yield for each turn of a command that goes on until it is interrupted, ``every`` seconds apart.

    Raises: KeyboardInterrupt after SIGINT, also where a finalizer or a callback of a library took the first.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        while True:
            yield
            if not came:
                sleep(every)
            if came:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def output_option(text: str) -> Callable[[F], F]:
    """Return the option that names the file a command writes."""
    path = click.Path(dir_okay=False, path_type=Path)
    return click.option("-o", "--output", required=True, type=path, help=text)


class Noun(click.Group):
    """A noun, whose help lists its commands with the whole first sentence of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.get_short_help_str(1000)) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def reading(command: F) -> F:
    """Add the options of a command that reads a workspace."""
    return workspace_option(json_option(command))


def open_workspace(folder: Path | None) -> Workspace:
    """Open the workspace that was named, or the nearest one upwards."""
    from beamwright.production.workspace import Workspace

    return Workspace.open(folder) if folder else Workspace.find(Path.cwd())


@contextmanager
def reader(folder: Path | None) -> Iterator[sa.Connection]:
    """Give a reading connection to the workspace's database."""
    workspace = open_workspace(folder)
    try:
        with workspace.db.read() as connection:
            yield connection
    finally:
        workspace.db.close()


def decided(
    folder: Path | None,
    work: Callable[[sa.Connection, Why], T],
    *,
    by: str = "",
    reason: str = "",
    dry_run: bool = False,
) -> T:
    """Return what work in a write transaction gives, by whom and why; a dry run takes it back.

    Where others write the same, it is done anew: it does nothing but read and write that database.
    """
    from beamwright.production.interventions import Why

    workspace = open_workspace(folder)

    def attempt(conn: sa.Connection) -> T:
        found = work(conn, Why(by or getpass.getuser(), reason, workspace.clock.now()))
        if dry_run:
            conn.rollback()
        return found

    try:
        found = workspace.db.transact(attempt)
    finally:
        workspace.db.close()
    if dry_run:
        say("a dry run: nothing was changed")
    return found


def write_rows(rows: Iterable[Row], columns: Columns, as_json: bool) -> None:
    """Write a list: JSON lines of whole rows, or a table of ``columns`` (heading: member or function)."""
    if as_json:
        for row in rows:
            click.echo(dumps(row))
        return
    found = list(rows)
    if not found:
        click.echo("there are none", err=True)
        return
    from beamwright.report import text

    cells = [[get(row) if callable(get) else row[get] for get in columns.values()] for row in found]
    head, rule, *body = text.table(list(columns), cells)
    for line in (click.style(head, bold=True), click.style(rule, dim=True), *body):
        click.echo(line)


def write_document(document: Row, as_json: bool, lines: Sequence[str] | None = None) -> None:
    """Write one document: as JSON, or as the given lines, or as lines of name and value."""
    if as_json:
        click.echo(dumps(document))
        return
    from beamwright.report import text

    for line in text.pairs(document) if lines is None else lines:
        click.echo(line)


def dumps(thing: Any) -> str:
    """Return JSON that is the same for the same content."""
    return json.dumps(thing, sort_keys=True, ensure_ascii=False, default=str)


def say(message: str) -> None:
    """Tell of progress: on standard error."""
    click.echo(message, err=True)


def _is_hash(name: str) -> bool:
    return len(name) == 64 and name.isalnum()


def pick(rows: Sequence[Row], member: str, kind: str, name: str) -> Row:
    """Return the one row whose member is, or uniquely starts with, the name.

    Raises: UnknownNameError, UsageError where several start with it.
    """
    from beamwright.core.errors import UnknownNameError

    exact = [row for row in rows if str(row[member]) == name]
    found = exact or [row for row in rows if str(row[member]).startswith(name)]
    if not found:
        names = (str(row[member]) for row in rows[:10_000])
        raise UnknownNameError(kind, name, {n[:12] if _is_hash(n) else n for n in names})
    if len(found) > 1 and len({row[member] for row in found}) > 1:
        some = ", ".join(sorted({str(row[member]) for row in found})[:4])
        raise UsageError(f"{len(found)} {kind}s begin with {name!r}: {some}", hint="write more of the name")
    return found[0]
