"""``beamwright dataset``: sets of collections."""

from __future__ import annotations

from pathlib import Path

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
        rows = [{key: value for key, value in row.items() if key != "id"} for row in views.datasets(conn)]
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
        members = views.dataset_members(conn, found["id"])
    document = {key: value for key, value in found.items() if key not in ("id", "collections")}
    write_document(document | {"collections": members}, as_json)
