"""``beamwright run``: what the detector delivered."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.asking import asking, question, write_answer, write_plan
from beamwright.cli.common import Columns, Noun, Row, open_workspace, reader, reading, write_document
from beamwright.cli.registering import register_command
from beamwright.core.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from beamwright.production.workspace import Workspace


@click.group(cls=Noun)
def run() -> None:
    """Runs and their chunks."""


@run.command("ls")
@click.option("--series", help="Runs of this series only.")
@asking("run")
@reading
def ls(series: str | None, folder: Path | None, as_json: bool, explain: bool, **asked: Any) -> None:
    """List runs."""
    from beamwright.catalog import runs
    from beamwright.catalog.asking import ask
    from beamwright.db import schema

    of_series = [schema.run.c.series == series] if series else []
    names = (
        "series",
        "number",
        "tier",
        "state",
        "version",
        "expected",
        "end_marker",
        "is_mc",
        "luminosity",
        "livetime",
        "created",
    )
    columns: Columns = {
        "series": "series",
        "run": "number",
        "tier": "tier",
        "state": "state",
        "version": "version",
        "chunks": "chunks",
        "simulated": lambda row: bool(row["is_mc"]),
        "expected": "expected",
    }
    with reader(folder) as conn:
        wanted = question("run", asked)
        if explain:
            write_plan(conn, wanted, as_json, *of_series)
            return
        rows = (
            {name: row[name] for name in (*names, "chunks")}
            for row in ask(conn, wanted, *of_series, columns=(runs.number_of_chunks(),))
        )
        write_answer(conn, wanted, rows, columns, as_json, series=series)


run.add_command(register_command("run"))


@run.command("show")
@click.argument("name", metavar="SERIES/NUMBER")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a run: its chunks, how far each step is, how long it took, its verdicts."""
    series, number = split(name)
    workspace = open_workspace(folder)
    with closing(workspace.db), workspace.db.read() as conn:
        document = _document(conn, workspace, series, number)
    write_document(document, as_json)


def _document(conn: Any, workspace: Workspace, series: str, number: int) -> Row:
    from beamwright.core.runs import MEASURES

    rows, grids = _versions(conn, series, number), _grids(conn, series, number)
    said = _said(conn, rows)
    names = ("tier", "state", "version", "expected", "is_mc", *MEASURES)
    return {
        "series": series,
        "number": number,
        "versions": [{key: row[key] for key in names} for row in rows],
        **({"metadata": said} if said else {}),
        "chunks": _chunks(conn, rows),
        "steps": _cells(grids),
        "latency": _latency(conn, grids, workspace, series, number),
        "processing": _processing(conn, series, number),
        "verdicts": _verdicts(conn, series, number),
    }


def _versions(conn: Any, series: str, number: int) -> list[Row]:
    """Return the run as it came, raw and otherwise.

    Raises: UnknownNameError.
    """
    from beamwright.db import schema, views

    runs = schema.run.c
    rows = views.runs(conn, runs.series == series, runs.number == number)
    if not rows:
        known = views.runs(conn, runs.series == series)
        raise UnknownNameError("run", f"{series}/{number}", [f"{series}/{row['number']}" for row in known])
    return rows


def _said(conn: Any, rows: list[Row]) -> Row:
    """Return the metadata of a run, of all its versions together."""
    from beamwright.catalog import metadata

    of_versions = metadata.of(conn, "run", [row["id"] for row in rows])
    return {kind: keys for found in of_versions.values() for kind, keys in found.items()}


def _verdicts(conn: Any, series: str, number: int) -> list[Row]:
    from beamwright.db import schema, views

    names = ("tier", "subject", "value", "reason", "author")
    found = views.verdicts(conn, schema.verdict.c.series == series, schema.verdict.c.run == number)
    return [{name: row[name] for name in names} for row in found]


def _processing(conn: Any, series: str, number: int) -> list[dict[str, Any]]:
    """Which farm, release and constants, and when."""
    from beamwright.catalog.processing import processing

    names = ("production", "step", "unit", "farm", "host", "release", "started", "ended", "constants")
    return [{name: row[name] for name in names} for row in processing(conn, series, number)]


def split(name: str) -> tuple[str, int]:
    """Read ``SERIES/NUMBER``."""
    series, slash, number = name.rpartition("/")
    if not slash or not series or not number.isdigit():
        raise UsageError(f"{name!r} is no run", hint="write SERIES/NUMBER; `beamwright run ls` lists them")
    return series, int(number)


def _chunks(conn: Any, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from beamwright.db import schema, views

    wanted = {row["id"] for row in runs}
    files: dict[int, list[str]] = {}
    chunks = views.chunks(conn, schema.chunk.c.run_id.in_(wanted))
    mine = schema.chunk_file.c.chunk_id.in_([chunk["id"] for chunk in chunks])
    for row in views.chunk_files(conn, mine):
        files.setdefault(row["chunk_id"], []).append(row["name"])
    names = ("tier", "sequence", "first_section", "last_section", "records", "reader")
    return [{name: chunk[name] for name in names} | {"files": files.get(chunk["id"], [])} for chunk in chunks]


def _grids(conn: Any, series: str, number: int) -> list[tuple[Row, Row]]:
    """Return each production with the rows of its grid that are of one run."""
    from beamwright.db import views
    from beamwright.report.grid import grid

    found = [(production, grid(conn, production)) for production in views.productions(conn)]
    return [
        (production, one | {"rows": [r for r in one["rows"] if (r["series"], r["run"]) == (series, number)]})
        for production, one in found
    ]


def _cells(grids: list[tuple[Row, Row]]) -> list[Row]:
    return [
        {
            "production": production["name"],
            "chunk": row["sequence"],
            "step": step,
            "state": cell["state"],
            "units": cell["total"],
        }
        for production, grid in grids
        for row in grid["rows"]
        for step, cell in row["cells"].items()
    ]


def _latency(
    conn: Any, grids: list[tuple[Row, Row]], workspace: Workspace, series: str, number: int
) -> list[Row]:
    """Say how long the run took, or has taken so far, in each production."""
    from beamwright.catalog.processing import times
    from beamwright.report.latency import latencies

    names = ("goal", "goal_h", "hours", "is_done", "in_time")
    goals, now = workspace.settings.goals, workspace.clock.now()
    return [
        {"production": production["name"]} | {name: row[name] for name in names}
        for production, grid in grids
        for row in latencies(grid, times(conn, production["id"], series, number), goals, now)
    ]
