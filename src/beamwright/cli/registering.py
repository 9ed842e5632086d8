"""``register`` for runs, files and collections: one by one, or by the million from a list."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import dry_run_option, open_workspace, reading, say, write_document
from beamwright.core.words import number_of

if TYPE_CHECKING:
    from beamwright.catalog.registering import Outcome
    from beamwright.cli.progress import Progress
    from beamwright.db.engine import Database

_ABOUT = """Register {subject}s that others made, from a list or one record.

    A list is a .jsonl or .parquet file, or - for standard input; lines may be gzipped. Each record is
    described in the reference of records. What is registered alike is passed over, so that a list which was
    cut is simply given again; what contradicts is refused by name and line, and what came before it stays.
    """


# What may take the place of what is known, by decision.
_INSTEAD = {
    "collection": (
        "--supersede",
        "Where a name is taken: let the new collection take the other's place, and say why.",
    ),
    "run": ("--correct", "Where a run has another luminosity or livetime: correct it, and say why."),
}


def register_command(subject: str) -> click.Command:
    """Return the command ``register`` of a noun."""

    @click.option(
        "--from",
        "place",
        metavar="FILE",
        type=click.Path(path_type=Path, allow_dash=True),
        help="The list: .jsonl (also .jsonl.gz), .parquet or -.",
    )
    @click.option("--record", metavar="JSON", help="One record, as JSON.")
    @dry_run_option
    @reading
    def register(
        place: Path | None,
        record: str | None,
        dry_run: bool,
        folder: Path | None,
        as_json: bool,
        supersede: str = "",
    ) -> int:
        return _register(subject, place, record, dry_run, folder, as_json, supersede)

    if subject in _INSTEAD:
        name, help = _INSTEAD[subject]
        register = click.option(name, "supersede", default="", metavar="REASON", help=help)(register)
    register.__doc__ = _ABOUT.format(subject=subject)
    return click.command("register")(register)


def _register(
    subject: str,
    place: Path | None,
    record: str | None,
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
    supersede: str,
) -> int:
    from beamwright.catalog.streams import size_of
    from beamwright.catalog.writers import Source
    from beamwright.cli.progress import Progress
    from beamwright.core.errors import UsageError

    if (place is None) == (record is None):
        raise UsageError(
            "nothing says what to register", hint="give --from FILE or --record JSON, one of them"
        )
    if place is not None and str(place) != "-" and not place.is_file():
        raise UsageError(f"there is no file {place}", hint="give a .jsonl or .parquet file, or -")
    workspace = open_workspace(folder)
    workspace.db.check()
    name = "standard input" if str(place) == "-" else place.name if place else "the command line"
    source = Source(name, time.time(), getpass.getuser(), supersede)
    position, read, size = [0], [0], size_of(place) if place else 0
    progress = Progress()
    records = _counted(_records(place, record, position), read)
    try:
        tell = _teller(progress, position, read, size)
        work = _rehearse if dry_run else _do
        return work(workspace.db, subject, records, source, tell, as_json)
    finally:
        progress.close()
        workspace.db.close()


def _records(place: Path | None, record: str | None, position: list[int]) -> Iterable[tuple[int, Any]]:
    from beamwright.catalog.streams import read_records
    from beamwright.core.errors import UsageError

    if place is not None:
        return read_records(place, position)
    try:
        said = json.loads(record or "")
    except ValueError as error:
        raise UsageError(f"--record is no JSON: {error}", hint='write {"name": …}') from error
    if not isinstance(said, dict):
        raise UsageError("--record is no JSON object", hint='write {"name": …}')
    return [(1, said)]


def _counted(records: Iterable[tuple[int, Any]], read: list[int]) -> Iterator[tuple[int, Any]]:
    """Pass records on, and keep the number of the last one that was read."""
    for number, record in records:
        read[0] = number
        yield number, record


def _teller(progress: Progress, position: list[int], read: list[int], size: int) -> Any:
    """Return what shows the progress; how many there will be is told from the part that was read ahead."""

    def tell(done: int) -> None:
        of = round(read[0] * size / position[0]) if size and position[0] else None
        progress(done, None if of is None else max(done, of))

    return tell


def _do(db: Database, subject: str, records: Any, source: Any, tell: Any, as_json: bool) -> int:
    from beamwright.catalog.registering import register

    return _told(register(db, subject, records, source, tell), subject, as_json, "registered")


def _rehearse(db: Database, subject: str, records: Any, source: Any, tell: Any, as_json: bool) -> int:
    from beamwright.catalog.registering import rehearse
    from beamwright.core.errors import ConflictError

    with db.read() as conn:
        found, problems = rehearse(conn, subject, records, source, tell)
    _told(found, subject, as_json, "would be registered", problems)
    return ConflictError.exit_code if problems else 0


def _told(found: Outcome, subject: str, as_json: bool, verb: str, problems: list[str] | None = None) -> int:
    for problem in problems or ():
        say(problem)
    document: dict[str, Any] = {"new": found.new, "equal": found.equal}
    document |= {"corrected": found.corrected} if found.corrected else {}
    document |= {} if problems is None else {"problems": problems}
    text = f"{number_of(found.new, subject)} {verb}, {found.equal} were there alike"
    text += f", {number_of(found.corrected, 'correction')}" if found.corrected else ""
    write_document(
        document, as_json, [text + (f", {number_of(len(problems), 'problem')}" if problems else "")]
    )
    return 0
