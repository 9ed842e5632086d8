"""``beamwright event``: single events, found by their keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import Noun, json_option, sources_option, workspace_option, write_document

if TYPE_CHECKING:
    from beamwright.core.runs import EventKey
    from beamwright.event.batch import Batch
    from beamwright.event.collection import CollectionReader
    from beamwright.event.sources import SourceFiles
    from beamwright.event.table import Table

Place = tuple[str, "CollectionReader"]


@click.group(cls=Noun)
def event() -> None:
    """Single events, by their keys."""


@event.command("show")
@click.argument("key", metavar="SERIES:RUN:SECTION:EVENT")
@click.option(
    "--in", "places", multiple=True, metavar="FILE|NAME", help="A file or collection; may be repeated."
)
@click.option("--stream", help="Collections of this stream only.")
@click.option("--tier", help="Collections of this tier only.")
@click.option("--bank", "banks", multiple=True, help="This bank only; may be repeated.")
@click.option("--rows", type=click.IntRange(0), default=20, help="Rows of a bank to print [default: 20].")
@sources_option
@workspace_option
@json_option
def show(
    key: str,
    places: tuple[str, ...],
    stream: str | None,
    tier: str | None,
    banks: tuple[str, ...],
    rows: int,
    sources: tuple[Path, ...],
    folder: Path | None,
    as_json: bool,
) -> None:
    """Show one event: its banks as tables, from the first collection that holds it."""
    from beamwright.core.errors import UnknownNameError
    from beamwright.core.runs import EventKey
    from beamwright.event.lookup import find, read_record
    from beamwright.event.sources import SourceFiles

    wanted = EventKey.parse(key)
    known = SourceFiles.of(sources) if sources else None
    readers = list(_readers(wanted, places, known, folder, {"stream": stream, "tier": tier}))
    found = [(name, reader) for name, reader in readers if find(reader, wanted) is not None]
    if not found:
        where = ", ".join(places) or "the valid collections of this workspace"
        error = UnknownNameError(f"event in {where}", key)
        error.hint = _near(wanted, readers) or f"`beamwright explain {key}` says what became of it"
        raise error
    name, reader = found[0]
    batch = read_record(reader, wanted, list(banks) or None)
    others = [other for other, _ in found[1:]]
    head = {"key": key, "record": reader.record, "in": name, "also": others}
    write_document(
        head | {"banks": {bank: _rows(table) for bank, table in batch.tables.items()}},
        as_json,
        None if as_json else list(_lines(head, batch, rows)),
    )


def _near(key: EventKey, readers: list[Place]) -> str:
    """Say which events there are beside one that is not there."""
    from beamwright.event.lookup import neighbours

    found = sorted({near for _, reader in readers for near in neighbours(reader, key)})
    below = [near for near in found if near < key.position][-1:]
    above = [near for near in found if near > key.position][:1]
    names = [":".join(map(str, (key.series, *near))) for near in below + above]
    if readers and not names:
        return f"{readers[0][0]} holds series {readers[0][1].series}"
    return f"the nearest {'is' if len(names) == 1 else 'are'} {' and '.join(names)}" if names else ""


def _readers(
    key: EventKey,
    places: tuple[str, ...],
    sources: SourceFiles | None,
    folder: Path | None,
    wanted: dict[str, str | None],
) -> Iterator[Place]:
    """Yield what may hold the event: the files that were named, or collections of the workspace."""
    from beamwright.core.errors import UsageError
    from beamwright.event.collection import CollectionReader

    files = [place for place in places if Path(place).is_file()]
    for file in files:
        yield file, CollectionReader([file], sources)
    names = [place for place in places if place not in files]
    for name in names:
        if ":" not in name:
            raise UsageError(
                f"there is no file {name}", hint="give a path, or the name scope:name of a collection"
            )
    if names or not places:
        yield from _registered(key, names, folder, wanted)


def _registered(
    key: EventKey, names: list[str], folder: Path | None, wanted: dict[str, str | None]
) -> Iterator[Place]:
    from beamwright.cli.common import open_workspace
    from beamwright.production.access import collections_holding, source_files, valid_collection

    workspace = open_workspace(folder)
    with workspace.db.read() as conn:
        chosen = [valid_collection(conn, name) for name in names] or [
            found
            for found in collections_holding(conn, key)
            if all(value in (None, getattr(found, column)) for column, value in wanted.items())
        ]
    for collection in chosen:
        yield collection.name, collection.open(source_files(workspace))


def _lines(head: dict[str, Any], batch: Batch, limit: int) -> Iterator[str]:
    yield f"{head['record']} {head['key']} in {head['in']}"
    if head["also"]:
        yield f"also in {', '.join(head['also'])}"
    for name, table in batch.tables.items():
        yield ""
        yield from _bank_lines(name, table, limit)


def _bank_lines(name: str, table: Table, limit: int) -> Iterator[str]:
    from beamwright.event.banks import Bank
    from beamwright.report import text

    assert isinstance(table.bank, Bank), "a table that was read has its declaration"
    yield click.style(f"{name}: {table.rows} row{'s' * (table.rows != 1)}", bold=True)
    rows = _rows(table)[:limit]
    if rows:
        columns = table.bank.columns
        names = ["row", *(f"{c.name} [{c.unit}]" if c.unit else c.name for c in columns)]
        cells = [[n, *(_cell(row[c.name]) for c in columns)] for n, row in enumerate(rows)]
        yield from text.table(names, cells, indent="  ")
    if table.rows > len(rows):
        yield f"  and {table.rows - len(rows)} more (--rows N)"


def _rows(table: Table) -> list[dict[str, Any]]:
    """Return the rows of a table as JSON-ready members, numbers that are none as null."""
    from beamwright.event.table import plain_rows

    columns = [_plain(plain_rows(table, name)) for name in table.columns]
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _cell(value: Any) -> str:
    if isinstance(value, list):
        shown = " ".join(_cell(part) for part in value[:6])
        return f"[{shown}{' …' * (len(value) > 6)}]"
    return f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)
