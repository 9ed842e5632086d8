"""``beamwright job``: units of work and the attempts at them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from beamwright.cli.common import (
    Columns,
    dumps,
    open_workspace,
    pick,
    reader,
    reading,
    write_document,
    write_rows,
)

Row = dict[str, Any]


@click.group()
def job() -> None:
    """Jobs and their attempts."""


@job.command("ls")
@click.option("--state", help="Jobs in this state only.")
@click.option("--step", help="Jobs of this step only.")
@reading
def ls(state: str | None, step: str | None, folder: Path | None, as_json: bool) -> None:
    """List jobs."""
    from beamwright.report import text

    with reader(folder) as conn:
        rows = [r for r in _jobs(conn) if state in (None, r["state"]) and step in (None, r["step"])]
    columns: Columns = {
        "unit": lambda r: r["unit"][:12],
        "step": "step",
        "kind": "kind",
        "interval": lambda r: text.interval(r["interval"]),
        "state": "state",
        "failures": "failures",
        "reason": "reason",
    }
    write_rows(rows, columns, as_json)


@job.command("show")
@click.argument("unit")
@reading
def show(unit: str, folder: Path | None, as_json: bool) -> None:
    """Show a job, named by (the beginning of) its unit's key, with all attempts at it."""
    from beamwright.db import views

    with reader(folder) as conn:
        found = pick(_jobs(conn), "unit", "job", unit)
        tries = [_attempt(row) for row in views.attempts(conn, job_id=found["id"])]
        events = views.history_of(conn, "job", [str(found["id"])])
    kept = {key: value for key, value in found.items() if key != "id"}
    steps = [{key: event[key] for key in ("at", "source", "target", "actor", "reason")} for event in events]
    write_document(kept | {"attempts": tries, "history": steps}, as_json)


@job.command("log")
@click.argument("unit")
@click.option("--attempt", type=int, help="The number of the attempt [default: the last].")
@click.option("--where", is_flag=True, help="Write the path of the log only.")
@reading
def log(unit: str, attempt: int | None, where: bool, folder: Path | None, as_json: bool) -> None:
    """Write what an attempt at a job logged."""
    from beamwright.core.errors import UnknownNameError
    from beamwright.db import views
    from beamwright.durable import confined

    workspace = open_workspace(folder)
    with reader(folder) as conn:
        found = pick(_jobs(conn), "unit", "job", unit)
        tries = views.attempts(conn, job_id=found["id"])
    chosen = [row for row in tries if attempt in (None, row["number"])]
    if not chosen:
        raise UnknownNameError("attempt", str(attempt or 1), [str(row["number"]) for row in tries])
    directory = Path(chosen[-1]["directory"])
    if directory.is_absolute():
        directory = directory.relative_to(workspace.root)
    logs = sorted(confined(workspace.root, str(directory)).glob("log*"))
    lines = [str(path) for path in logs] if where else list(_text(logs))
    if as_json:
        click.echo(dumps({"unit": found["unit"], "attempt": chosen[-1]["number"], "lines": lines}))
        return
    for line in lines:
        click.echo(line)


def _text(logs: list[Path]) -> Iterator[str]:
    for path in logs:
        yield from path.read_text(errors="replace").splitlines()


def _jobs(conn: Any) -> list[Row]:
    from beamwright.db import views

    names = ("production", "step", "kind", "stream", "state", "failures", "reason", "resolved_hash")
    return [
        {"id": row["job_id"], "unit": row["key"], "interval": views.interval_of(row)}
        | {name: row[name] for name in names}
        for row in views.units(conn)
    ]


def _attempt(row: Row) -> Row:
    names = (
        "number",
        "nonce",
        "state",
        "farm",
        "host",
        "cpu_s",
        "wall_s",
        "max_rss_kb",
        "exit_code",
        "failure_class",
        "message",
        "directory",
    )
    return {name: row[name] for name in names}
