"""The run × step grid while it grows: live on a terminal, one line per news elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from beamwright.db import views
from beamwright.report import grid as grids
from beamwright.report.terminal import cell_text, chunk_name

if TYPE_CHECKING:
    from rich.console import RenderableType

    from beamwright.db.engine import Database

Row = dict[str, Any]
COLOURS = {
    "ok": "green",
    "accepted": "green",
    "carried": "yellow",
    "fitted": "cyan",
    "accumulating": "cyan",
    "collecting": "cyan",
    "running": "cyan",
    "submitted": "blue",
    "prepared": "blue",
    "waiting": "bright_black",
    "failed": "bold red",
    "rejected": "bold red",
    "held": "bold yellow",
    "cancelled": "red",
    "excluded": "yellow",
    "superseded": "yellow",
}
SECONDS = 0.2


class Watch:
    """Follows a production by its database, and shows the grid on standard error."""

    def __init__(self, database: Database, production: str, *, quiet: bool = False) -> None:
        self.database, self.production, self.quiet = database, production, quiet
        self._next = 0.0
        self._cells: dict[tuple[str, str], str] = {}
        self._live: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def turn(self, done: int) -> None:
        """Look again, a few times a second at most."""
        now = time.monotonic()
        if self.quiet or now < self._next:
            return
        self.show()
        # A large production costs more to look at: never more than a tenth of the time.
        self._next = now + max(SECONDS, 10 * (time.monotonic() - now))

    def show(self) -> None:
        """Show the grid as it is now."""
        with self.database.read() as conn:
            grid = grids.grid(conn, views.find_production(conn, self.production))
        if self._live is None:
            self._tell(grid)
        else:
            self._live.update(drawn(grid, self.production), refresh=True)

    def _tell(self, grid: Row) -> None:
        """Write a line for each cell that is settled since the last look."""
        for row in grid["rows"]:
            for step, cell in row["cells"].items():
                key, text = (chunk_name(row), step), cell_text(cell)
                settled = (cell["done"] == cell["total"] and cell["total"]) or grids.is_bad(cell)
                if settled and self._cells.get(key) != text:
                    self._cells[key] = text
                    click.echo(f"{step} {chunk_name(row)}: {text}", err=True)


def drawn(grid: Row, title: str) -> RenderableType:
    """Return the grid as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    table.add_column("run", no_wrap=True)
    for column in grid["columns"]:
        table.add_column(column["step"], justify="center")
    for row in grid["rows"]:
        cells = [row["cells"].get(column["step"]) for column in grid["columns"]]
        shown = [Text(cell_text(c).strip(), style=COLOURS.get(c["state"], "") if c else "") for c in cells]
        table.add_row(chunk_name(row), *shown)
    return table
