"""``beamwright production``: the productions of a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from beamwright.cli.common import (
    Columns,
    Noun,
    open_workspace,
    pick,
    reader,
    reading,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    from beamwright.production.projection import Projection


@click.group(cls=Noun)
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
@click.option("--deadline", metavar="DATE", help="Say whether it will be done by this date.")
@reading
def show(name: str, deadline: str | None, folder: Path | None, as_json: bool) -> None:
    """Show a production: its file, tasks and run × step grid, how long runs took, when it will be done."""
    from beamwright.cli.constants import parse_date
    from beamwright.db import views
    from beamwright.production import projection, tasks
    from beamwright.report import grid, latency, terminal

    by = None if deadline is None else parse_date(deadline)
    workspace = open_workspace(folder)
    try:
        workspace.db.check()
        with workspace.db.read() as conn:
            found = pick(views.productions(conn), "name", "production", name)
            shown = grid.grid(conn, found)
            goals, now = workspace.settings.goals, workspace.clock.now()
            reached = latency.reached(conn, found, shown, goals, now)
            rows = []
            if by is not None or found["finished"] is None:
                plan = tasks.plan(conn, found["id"])
                rows = projection.project(conn, plan, now, by)
    finally:
        workspace.db.close()
    document = {key: value for key, value in found.items() if key != "id"} | {"grid": shown}
    document["latency"] = reached
    document["projection"] = [row.document() for row in rows]
    if by is not None:
        document["in_time"] = None if any(r.late_s is None for r in rows) else all(_in_time(r) for r in rows)
    told = [*latency.summary_lines(reached), *(_line(row) for row in rows)]
    lines = [] if as_json else [*terminal.grid_lines(shown), "", *told]
    write_document(document, as_json, lines)


def _in_time(row: Projection) -> bool:
    return row.late_s is not None and row.late_s <= 0


def _line(row: Projection) -> str:
    """Say in words when a step will be done."""
    from beamwright.report import text

    told = f"{row.step}: {row.done} of {row.expected} runs"
    if row.done < row.expected:
        told += f", {row.rate_h:.3g} an hour" if row.rate_h else ", no rate yet"
    told += f", done at {text.time(row.finish)}" if row.finish is not None else ""
    if row.late_s is not None:
        hours = abs(row.late_s) / 3600
        told += f", {hours:.1f} h" if hours < 72 else f", {hours / 24:.1f} days"
        told += " late" if row.late_s > 0 else " before the deadline"
    return told
