"""The run × step grid while it grows: live on a terminal, one line per news elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from beamwright.cli.common import can_overwrite
from beamwright.db import views
from beamwright.report import grid as grids
from beamwright.report.terminal import cell_text, chunk_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

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
        if can_overwrite(sys.stderr) and not self.quiet:
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
            self._live.update(Drawn(grid, self.production), refresh=True)

    def _tell(self, grid: Row) -> None:
        """Write a line for each cell that is settled since the last look."""
        for row in grid["rows"]:
            for step, cell in row["cells"].items():
                key, text = (chunk_name(row), step), cell_text(cell)
                settled = (cell["done"] == cell["total"] and cell["total"]) or grids.is_bad(cell)
                if settled and self._cells.get(key) != text:
                    self._cells[key] = text
                    click.echo(f"{step} {chunk_name(row)}: {text}", err=True)


class Drawn:
    """The grid as rich draws it: as wide and as high as the terminal is."""

    def __init__(self, grid: Row, title: str) -> None:
        self.grid, self.title = grid, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = _chosen(self.grid["rows"], max(1, options.size.height - _FRAME))
        forms = (cell_text, _short, _shortest)
        tables = [self._table(rows, form) for form in forms]
        wide = options.update(max_width=_ANY)
        yield next(
            (t for t in tables if console.measure(t, options=wide).maximum <= options.max_width), tables[-1]
        )
        if left := len(self.grid["rows"]) - len(rows):
            done = sum(_is_done(row) for row in self.grid["rows"])
            yield f"and {left} more; {done} of {len(self.grid['rows'])} are done"

    def _table(self, rows: list[Row], shown: Callable[[Row | None], str]) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=self.title, title_justify="left", title_style="bold", header_style="bold",
            box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0),
        )  # fmt: skip
        table.add_column("run", no_wrap=True)
        steps = [column["step"] for column in self.grid["columns"]]
        for step in steps:
            table.add_column(step, overflow="fold")
        for row in rows:
            cells = [row["cells"].get(step) for step in steps]
            drawn = [Text(shown(c).strip(), COLOURS.get(c["state"], "") if c else "") for c in cells]
            table.add_row(chunk_name(row), *drawn)
        return table


_FRAME, _ANY = 6, 10_000  # lines around the rows; a width that nothing reaches
_SHORT = {"accepted": "acc", "running": "run", "submitted": "sub", "waiting": "·", "failed": "FAIL"}


def _short(cell: Row | None) -> str:
    state = cell["state"] if cell else ""
    return cell_text(cell).replace(state, _SHORT.get(state, state[:4]), 1)


def _shortest(cell: Row | None) -> str:
    """Return how many units are done where there are several: colours tell the state."""
    return _short(cell).rsplit(" ", 1)[-1]


def _is_done(row: Row) -> bool:
    return all(cell["state"] in grids.DONE for cell in row["cells"].values())


def _chosen(rows: list[Row], room: int) -> list[Row]:
    """Return so many rows, in their order: first of all those at work, then those that wait."""

    def rank(row: Row) -> int:
        waits = all(cell["state"] in (*grids.DONE, "waiting") for cell in row["cells"].values())
        return 2 if _is_done(row) else 1 if waits else 0

    chosen = sorted(sorted(range(len(rows)), key=lambda number: rank(rows[number]))[:room])
    return [rows[number] for number in chosen]
