"""``beamwright quality``: verdicts on runs."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import Columns, reader, reading, write_document, write_rows
from beamwright.cli.run import split


@click.group()
def quality() -> None:
    """Verdicts on runs."""


@quality.command("ls")
@reading
def ls(folder: Path | None, as_json: bool) -> None:
    """List the newest verdict on each run and subject."""
    from beamwright.db import views

    with reader(folder) as conn:
        rows = [
            {key: value for key, value in row.items() if key not in ("id", "unit_id")}
            for row in views.verdicts(conn)
        ]
    columns: Columns = {
        name: name for name in ("series", "run", "tier", "subject", "value", "version", "author", "reason")
    }
    write_rows(rows, columns, as_json)


@quality.command("show")
@click.argument("name", metavar="SERIES/NUMBER")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show the verdicts on a run with every check behind them."""
    from beamwright.core.errors import UnknownNameError
    from beamwright.db import views

    series, number = split(name)
    with reader(folder) as conn:
        verdicts = views.verdicts(conn)
    found = [v for v in verdicts if (v["series"], v["run"]) == (series, number)]
    if not found:
        raise UnknownNameError("run with a verdict", name, {f"{v['series']}/{v['run']}" for v in verdicts})
    names = ("tier", "subject", "value", "version", "author", "reason", "checks")
    rows = [{key: verdict[key] for key in names} for verdict in found]
    lines = None if as_json else _lines(rows)
    write_document({"run": name, "verdicts": rows}, as_json, lines)


def _lines(rows: list[dict[str, object]]) -> list[str]:
    from beamwright.report import text

    return [line for row in rows for line in [*text.pairs(row), ""]]
