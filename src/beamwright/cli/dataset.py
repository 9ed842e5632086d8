"""``beamwright dataset``: sets of collections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from beamwright.cli.common import Columns, pick, reader, reading, write_document, write_rows


@click.group()
def dataset() -> None:
    """Datasets: sets of collections."""


@dataset.command("ls")
@reading
def ls(folder: Path | None, as_json: bool) -> None:
    """List datasets."""
    from beamwright.db import views

    with reader(folder) as conn:
        rows = views.datasets(conn)
        counted = [row | {"collections": len(_members(conn, row))} for row in rows]
    rows = [{key: value for key, value in row.items() if key != "id"} for row in counted]
    columns: Columns = {
        "dataset": "did",
        "version": "version",
        "state": "state",
        "collections": "collections",
        "query": "query",
    }
    write_rows(rows, columns, as_json)


@dataset.command("show")
@click.argument("name")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a dataset: its query and the collections that it holds."""
    from beamwright.db import views

    with reader(folder) as conn:
        found = pick(views.datasets(conn), "did", "dataset", name)
        members = _members(conn, found)
    document = {key: value for key, value in found.items() if key not in ("id", "collections")}
    write_document(document | {"collections": members}, as_json)


def _members(conn: Any, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is in a dataset: by its query while it is open, by its list afterwards."""
    from beamwright.catalog import datasets
    from beamwright.core.did import Did

    found = datasets.collections(conn, datasets.find(conn, Did.parse(row["did"]), row["version"]))
    return [{"name": str(c.did), "tier": c.tier, "stream": c.stream, "events": c.events} for c in found]
