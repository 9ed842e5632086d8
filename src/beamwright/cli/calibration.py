"""``beamwright calibration``: chains of rolling constants."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import Columns, reader, reading, write_rows


@click.group()
def calibration() -> None:
    """Chains of rolling calibrations."""


@calibration.command("show")
@click.argument("step", required=False)
@click.option("--series", help="The chain of this series only.")
@reading
def show(step: str | None, series: str | None, folder: Path | None, as_json: bool) -> None:
    """Show chains link by link: what each run started from, what it gave, and why."""
    from beamwright.core.errors import UnknownNameError
    from beamwright.report import text
    from beamwright.report.document import links

    with reader(folder) as conn:
        found = links(conn)
    steps = {row["step"] for row in found}
    if step is not None and step not in steps:
        raise UnknownNameError("calibration step", step, steps)
    rows = [row for row in found if step in (None, row["step"]) and series in (None, row["series"])]
    columns: Columns = {
        "step": "step",
        "series": "series",
        "run": "run",
        "interval": lambda r: text.interval(r["interval"]),
        "state": "state",
        "starts from": lambda r: _short(r["start"]),
        "gives": lambda r: _short(r["result"]),
        "figures": "figures",
        "reason": "reason",
    }
    write_rows(rows, columns, as_json)


def _short(constants: object) -> object:
    return (
        {name: str(value)[:10] for name, value in constants.items()}
        if isinstance(constants, dict)
        else constants
    )
