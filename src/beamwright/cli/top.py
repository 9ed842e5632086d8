"""``beamwright top``: what the farms are doing, live on a terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import can_overwrite, dumps, open_workspace, reading, turns

if TYPE_CHECKING:
    from rich.console import RenderableType

    from beamwright.production.workspace import Workspace

Row = dict[str, Any]


@click.command()
@click.option("--once", is_flag=True, help="Write it once, and end.")
@click.option(
    "--every", type=click.FloatRange(0.2), default=2.0, help="Seconds between two looks [default: 2]."
)
@reading
def top(once: bool, every: float, folder: Path | None, as_json: bool) -> None:
    """Show tasks and farms as they work: live on a terminal, once elsewhere."""
    workspace = open_workspace(folder)
    workspace.db.check()
    try:
        if once or as_json or not can_overwrite(sys.stdout):
            write(look(workspace), as_json)
        else:
            _live(workspace, every)
    finally:
        workspace.db.close()


def look(workspace: Workspace) -> Row:
    """Return tasks that are not closed, with their figures, and farms with their attempts."""
    from beamwright.production import counting

    with workspace.db.read() as conn:
        now = time.time()
        tasks = counting.open_tasks(conn, now)
        busy = counting.busy(conn)
    farms = [
        {"farm": name, "slots": farm.slots} | {s: busy.get((name, s), 0) for s in counting.FLYING}
        for name, farm in workspace.settings.farm.items()
    ]
    return {"at": now, "tasks": tasks, "farms": farms}


def write(found: Row, as_json: bool) -> None:
    """Write what was found, as JSON or as tables."""
    from beamwright.report import text

    if as_json:
        click.echo(dumps(found))
        return
    for title, names in _COLUMNS.items():
        cells = [[_shown(row, name) for name in names] for row in found[title]]
        click.echo("\n".join(text.table(list(names), cells)) if cells else f"no {title}")


_COLUMNS = {
    "tasks": ("task", "state", "ok", "running", "waiting", "failed", "jobs/s", "end in", "cpu"),
    "farms": ("farm", "slots", "leased", "submitted", "running"),
}


def _shown(row: Row, name: str) -> str:
    if "states" not in row or name in ("task", "state"):
        return str(row[name])
    states: dict[str, int] = row["states"]
    computed = {
        "ok": sum(states.get(s, 0) for s in ("ok", "excluded")),
        "running": states.get("running", 0) + states.get("submitted", 0),
        "waiting": sum(n for s, n in states.items() if s not in _ELSEWHERE),
        "failed": states.get("failed", 0),
        "jobs/s": f"{row['jobs_per_s']:.2f}",
        "end in": _duration(row["end_in_s"]),
        "cpu": "" if row["cpu_efficiency"] is None else f"{row['cpu_efficiency']:.0%}",
    }
    return str(computed[name])


_ELSEWHERE = ("ok", "excluded", "running", "submitted", "failed", "superseded", "cancelled", "split")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _live(workspace: Workspace, every: float) -> None:
    from rich.live import Live

    with Live(auto_refresh=False, screen=True) as live:
        for _ in turns(every, time.sleep):
            live.update(drawn(look(workspace)), refresh=True)


def drawn(found: Row) -> RenderableType:
    """Return what was found as rich tables."""
    from rich.console import Group
    from rich.table import Table

    tables = []
    for title, names in _COLUMNS.items():
        table = Table(title=title, title_justify="left", header_style="bold")
        for name in names:
            table.add_column(name, justify="left" if name in ("task", "farm", "state") else "right")
        for row in found[title]:
            table.add_row(*(_shown(row, name) for name in names))
        tables.append(table)
    return Group(*tables)
