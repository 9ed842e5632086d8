"""``beamwright collection``: sets of events over files."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import Columns, pick, reader, reading, where_option, write_document, write_rows


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
