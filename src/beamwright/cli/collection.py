"""``beamwright collection``: sets of events over files."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.asking import asking, question, write_answer, write_plan
from beamwright.cli.common import (
    Columns,
    Noun,
    decided,
    dry_run_option,
    open_workspace,
    output_option,
    reader,
    reading,
    reason_option,
    say,
    sources_option,
    write_document,
)
from beamwright.cli.registering import register_command

if TYPE_CHECKING:
    from beamwright.production.interventions import Why


@click.group(cls=Noun)
def collection() -> None:
    """Collections: sets of events over files."""


@collection.command("ls")
@click.option("--stream", help="Of this stream only.")
@click.option("--tier", help="Of this tier only.")
@click.option("--series", help="Of this series only.")
@click.option("--production", help="Of this production only.")
@asking("collection")
@reading
def ls(
    stream: str | None,
    tier: str | None,
    series: str | None,
    production: str | None,
    folder: Path | None,
    as_json: bool,
    explain: bool,
    **asked: Any,
) -> None:
    """List collections."""
    from beamwright.catalog.vocabulary import COLLECTIONS
    from beamwright.report import text

    wanted = {"stream": stream, "tier": tier, "series": series, "production": production}
    known = {name: COLLECTIONS[name] for name, value in wanted.items() if value is not None}
    within = [field.is_value(wanted[name]) for name, field in known.items()]
    columns: Columns = {
        "collection": "name",
        "tier": "tier",
        "stream": "stream",
        "state": "state",
        "interval": lambda r: text.interval(r["interval"]),
        "records": "events",
        "bytes": "size",
        "sha256": lambda r: (r["sha256"] or "")[:12],
        "simulated": "is_mc",
    }
    with reader(folder) as conn:
        put = question("collection", asked)
        if explain:
            write_plan(conn, put, as_json, *within)
            return
        write_answer(conn, put, _described(conn, put, within), columns, as_json, **wanted)


def _described(conn: Any, put: Any, within: list[Any]) -> Generator[dict[str, Any]]:
    """Yield the collections that are asked for with files and parents, a thousand at a time."""
    from beamwright.catalog.asking import ask
    from beamwright.report.document import collections

    rows = ask(conn, put, *within)
    while part := list(islice(rows, 1000)):
        states = {row["id"]: row["state"] for row in part}
        yield from collections(conn, ids=set(states), states=states)


collection.add_command(register_command("collection"))


@collection.command("supersede")
@click.argument("name")
@click.option("--by", "successor", metavar="NAME", help="The collection that takes its place.")
@reason_option
@dry_run_option
@reading
def supersede(
    name: str, successor: str | None, reason: str, dry_run: bool, folder: Path | None, as_json: bool
) -> None:
    """Decide that a collection is not used any more, in favour of another where there is one."""
    from beamwright.catalog import collections
    from beamwright.core.did import Did

    def give_up(conn: Any, why: Why) -> Any:
        new = None if successor is None else Did.parse(successor)
        return collections.supersede(conn, Did.parse(name), new, why.reason, why.now, why.actor)

    write_document(asdict(decided(folder, give_up, reason=reason, dry_run=dry_run)), as_json)


@collection.command("withdraw")
@click.argument("name")
@reason_option
@dry_run_option
@reading
def withdraw(name: str, reason: str, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Decide that a collection is bad, and that nothing takes its place."""
    from beamwright.catalog import collections
    from beamwright.core.did import Did

    def give_up(conn: Any, why: Why) -> Any:
        return collections.withdraw(conn, Did.parse(name), why.reason, why.now, why.actor)

    write_document(asdict(decided(folder, give_up, reason=reason, dry_run=dry_run)), as_json)


@collection.command("show")
@click.argument("name")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a collection: its files, parents, release and conditions."""
    from beamwright.catalog import metadata
    from beamwright.catalog.collections import look_up
    from beamwright.report.document import collections

    with reader(folder) as conn:
        identity = look_up(conn, name).id
        (found,) = collections(conn, ids={identity})
        said = metadata.of(conn, "collection", [identity])[identity]
    write_document(found | ({"metadata": said} if said else {}), as_json)


@collection.command("promote")
@click.argument("name", metavar="FILE|NAME")
@output_option("The file to write.")
@click.option("--name", "made", metavar="NAME", help="What the deep copy of a collection is called.")
@sources_option
@dry_run_option
@reading
def promote(
    name: str,
    output: Path,
    made: str | None,
    sources: tuple[Path, ...],
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Write the deep copy of a pointer skim: of a file, or of a collection, and then as a collection."""
    if dry_run:
        say(f"would write the deep copy of {name} into {output}")
        return
    promoted = _promoted_file if Path(name).is_file() else _promoted_collection
    document = promoted(name, output, made, sources, folder)
    line = f"{document['name']}: " if "name" in document else ""
    write_document(
        document, as_json, [f"{line}{output}: {document['events']} records, {document['size']} bytes"]
    )


def _promoted_file(
    name: str, output: Path, made: str | None, sources: tuple[Path, ...], folder: Path | None
) -> dict[str, Any]:
    from beamwright.core.errors import UsageError
    from beamwright.event.pointer import promote as write_copy
    from beamwright.event.sources import SourceFiles

    if made is not None:
        raise UsageError(f"{name} is a file of no collection", hint="leave --name out")
    written = write_copy(Path(name), output, SourceFiles.of(sources) if sources else None)
    return {"file": str(output), "events": written.events, "uuid": written.uuid, "size": written.size}


def _promoted_collection(
    name: str, output: Path, made: str | None, sources: tuple[Path, ...], folder: Path | None
) -> dict[str, Any]:
    from beamwright.core.did import Did
    from beamwright.core.errors import UsageError
    from beamwright.production.promoting import promote as promote_collection

    if sources:
        raise UsageError("the catalogue knows what a collection leads into", hint="leave --sources out")
    target = None if made is None else Did.parse(made, Did.parse(name).scope)
    promoted = promote_collection(open_workspace(folder), name, output, target)
    found = {key: promoted.verdict[key] for key in ("events", "uuid", "size", "sha256")}
    return {"name": str(promoted.name), "file": str(output)} | found


@collection.command("export")
@click.argument("name", metavar="FILE|NAME")
@output_option("The file to write: .parquet or .arrow.")
@click.option("--bank", "banks", multiple=True, help="This bank only; may be repeated.")
@sources_option
@reading
def export(
    name: str,
    output: Path,
    banks: tuple[str, ...],
    sources: tuple[Path, ...],
    folder: Path | None,
    as_json: bool,
) -> None:
    """Write a collection, or a file, as Parquet or Arrow; of runs that have a verdict."""
    from beamwright.cli.common import reader as workspace_reader
    from beamwright.event.collection import CollectionReader
    from beamwright.event.columnar import export as write
    from beamwright.event.sources import SourceFiles
    from beamwright.event.store import storage_errors
    from beamwright.production.access import open_collection
    from beamwright.production.inspection import check_export

    found = SourceFiles.of(sources) if sources else None
    if not Path(name).is_file():
        with workspace_reader(folder) as conn:
            check_export(conn, name)
    with CollectionReader([name], found) if Path(name).is_file() else open_collection(name, folder) as reader:
        with storage_errors(output):
            records = write(reader, output, banks or None)
    size = output.stat().st_size
    document = {"file": str(output), "events": records, "size": size}
    write_document(document, as_json, [f"{output}: {records} records, {size} bytes"])
