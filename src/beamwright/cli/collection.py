"""``beamwright collection``: sets of events over files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from beamwright.cli.common import (
    Columns,
    pick,
    reader,
    reading,
    sources_option,
    where_option,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    from beamwright.event.sources import SourceFiles


@click.group()
def collection() -> None:
    """Collections: sets of events over files."""


@collection.command("ls")
@click.option("--stream", help="Of this stream only.")
@click.option("--tier", help="Of this tier only.")
@click.option("--series", help="Of this series only.")
@click.option("--production", help="Of this production only.")
@where_option
@reading
def ls(
    where: str | None,
    stream: str | None,
    tier: str | None,
    series: str | None,
    production: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """List collections."""
    from beamwright.catalog import query
    from beamwright.db import schema
    from beamwright.report import text
    from beamwright.report.document import collections

    with reader(folder) as conn:
        ids = query.chosen(conn, schema.collection, where, query.COLLECTIONS)
        wanted = {"stream": stream, "tier": tier, "series": series, "production": production}
        rows = [
            row
            for row in collections(conn, ids=ids)
            if all(value in (None, row[name]) for name, value in wanted.items())
        ]
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
    write_rows(rows, columns, as_json)


@collection.command("show")
@click.argument("name")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a collection: its files, parents, release and conditions."""
    from beamwright.report.document import collections

    with reader(folder) as conn:
        found = pick(collections(conn), "name", "collection", name)
    write_document(found, as_json)


@collection.command("promote")
@click.argument("name", metavar="FILE|NAME")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.",
)
@sources_option
@reading
def promote(name: str, output: Path, sources: tuple[Path, ...], folder: Path | None, as_json: bool) -> None:
    """Write the deep copy of a pointer skim: a file, or a collection of one file."""
    from beamwright.event.pointer import promote as write_copy
    from beamwright.event.sources import SourceFiles

    file, found = Path(name), SourceFiles.of(sources) if sources else None
    if not file.is_file():
        file, known = _only_file(name, folder)
        found = found or known
    written = write_copy(file, output, found)
    document = {"file": str(output), "events": written.events, "uuid": written.uuid, "size": written.size}
    write_document(document, as_json, [f"{output}: {written.events} records, {written.size} bytes"])


def _only_file(name: str, folder: Path | None) -> tuple[Path, SourceFiles]:
    """Return the file of a collection, and what finds the files that it leads into."""
    from beamwright.cli.common import open_workspace
    from beamwright.core.errors import UsageError
    from beamwright.production.access import named, source_files, valid_collections

    workspace = open_workspace(folder)
    with workspace.db.read() as conn:
        files = named(valid_collections(conn), name).files
    if len(files) != 1:
        raise UsageError(f"collection {name} has {len(files)} files", hint="promote them one by one")
    return files[0], source_files(workspace)


@collection.command("export")
@click.argument("name", metavar="FILE|NAME")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write: .parquet or .arrow.",
)
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
    """Write a collection, or a file, as Parquet or Arrow."""
    from beamwright.core.errors import ConflictError
    from beamwright.event.collection import CollectionReader
    from beamwright.event.columnar import export as write
    from beamwright.event.sources import SourceFiles
    from beamwright.production.access import open_collection

    found = SourceFiles.of(sources) if sources else None
    with CollectionReader([name], found) if Path(name).is_file() else open_collection(name, folder) as reader:
        try:
            records = write(reader, output, banks or None)
        except FileExistsError as error:
            raise ConflictError(str(error), hint="name another file, or remove it") from error
    size = output.stat().st_size
    document = {"file": str(output), "events": records, "size": size}
    write_document(document, as_json, [f"{output}: {records} records, {size} bytes"])
