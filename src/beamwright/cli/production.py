"""``beamwright production``: the productions of a workspace."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import Columns, pick, reader, reading, write_document, write_rows


@click.group()
def production() -> None:
    """Productions of this workspace."""


@production.command("ls")
@reading
def ls(folder: Path | None, as_json: bool) -> None:
    """List productions."""
    from beamwright.db import views
    from beamwright.report import text

    with reader(folder) as conn:
        rows = [
            {key: value for key, value in row.items() if key not in ("id", "spec")}
            for row in views.productions(conn)
        ]
    columns: Columns = {
        "production": "name",
        "experiment": "experiment",
        "release": lambda r: r["release"][:19],
        "created": lambda r: text.time(r["created"]),
        "finished": lambda r: text.time(r["finished"]),
    }
    write_rows(rows, columns, as_json)


@production.command("show")
@click.argument("name")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a production: its file as it was read, its tasks and its run × step grid."""
    from beamwright.db import views
    from beamwright.report import grid, terminal

    with reader(folder) as conn:
        found = pick(views.productions(conn), "name", "production", name)
        shown = grid.grid(conn, found)
    document = {key: value for key, value in found.items() if key != "id"} | {"grid": shown}
    write_document(document, as_json, None if as_json else terminal.grid_lines(shown))
