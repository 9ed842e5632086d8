"""``beamwright task``: the steps of productions."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import Columns, pick, reader, reading, write_document, write_rows


@click.group()
def task() -> None:
    """Tasks: steps of a production over their inputs."""


@task.command("ls")
@reading
def ls(folder: Path | None, as_json: bool) -> None:
    """List tasks with their jobs by state."""
    from beamwright.db import views

    with reader(folder) as conn:
        rows = [_named(row) for row in views.tasks(conn)]
    columns: Columns = {
        "task": "name",
        "kind": "kind",
        "state": "state",
        "version": "config_version",
        "jobs": "jobs",
    }
    write_rows(rows, columns, as_json)


@task.command("show")
@click.argument("name", metavar="PRODUCTION/STEP")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a task: its configuration, its ledger and its units."""
    from beamwright.db import views
    from beamwright.report.document import ledger, ledger_totals

    with reader(folder) as conn:
        found = pick([_named(row) for row in views.tasks(conn)], "name", "task", name)
        production = views.find_production(conn, str(found["production"]))
        lines = [line for line in ledger(conn, production["id"]) if line["step"] == found["step"]]
        names = ("kind", "stream", "key", "state", "failures", "reason")
        units = [
            {name: unit[name] for name in names}
            for unit in views.units(conn)
            if (unit["step"], unit["production"]) == (found["step"], found["production"])
        ]
    write_document(found | {"ledger": ledger_totals(lines), "units": units}, as_json)


def _named(row: dict[str, object]) -> dict[str, object]:
    kept = {key: value for key, value in row.items() if key not in ("id", "production_id")}
    return {"name": f"{row['production']}/{row['step']}"} | kept
