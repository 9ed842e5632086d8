"""What runs look like while their jobs run: final histograms of accepted units, partial ones of the others.

Of an attempt only the latest histograms count, of a unit only one attempt's: the accepted one, or the one
that is under way. What was lost, killed or superseded never counts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright import durable
from beamwright.core import bundle
from beamwright.core.errors import FormatError
from beamwright.core.histogram import Histogram, HistogramSet
from beamwright.core.messages import HISTOGRAMS, PARTIAL_FILE
from beamwright.db import schema
from beamwright.production.jobs import IN_FLIGHT
from beamwright.production.workspace import Workspace

Key = tuple[str, str, int]  # step, series, run
FOLDER = "live"


@dataclass(frozen=True)
class Flight:
    """An attempt under way with the directory in which it beats."""

    attempt_id: int
    key: Key
    directory: Path


@dataclass
class Live:
    """A run in a step that is not done: its histograms so far, and of how many units they are."""

    histograms: HistogramSet = field(default_factory=HistogramSet)
    final: int = 0
    partial: int = 0
    units: int = 0

    def document(self) -> dict[str, int]:
        return {"final": self.final, "partial": self.partial, "units": self.units}


def flights(conn: sa.Connection, production_id: int) -> list[Flight]:
    """Return the attempts under way; of each unit the newest one."""
    attempt, job, unit, task = schema.attempt, schema.job, schema.unit, schema.task
    query = (
        sa.select(
            attempt.c.id, attempt.c.job_id, attempt.c.directory, task.c.step, unit.c.series, unit.c.first_run
        )
        .select_from(attempt.join(job, attempt.c.job_id == job.c.id))
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .where(task.c.production_id == production_id, unit.c.kind.in_(("process", "collect")))
        .where(attempt.c.state.in_((*IN_FLIGHT, "reported")), job.c.state.in_(("submitted", "running")))
        .order_by(attempt.c.number, attempt.c.id)
    )
    newest = {row.job_id: row for row in conn.execute(query)}
    found = [Flight(r.id, (r.step, r.series, r.first_run), Path(r.directory)) for r in newest.values()]
    return sorted(found, key=lambda one: (one.key, one.attempt_id))


def stamp(flight: Flight) -> int:
    """Return when an attempt last showed histograms, in ns; 0 for not yet."""
    try:
        return (flight.directory / PARTIAL_FILE).stat().st_mtime_ns
    except OSError:
        return 0


def read_partial(flight: Flight) -> HistogramSet:
    """Return what an attempt shows; nothing where it shows nothing, or not what was agreed."""
    path = flight.directory / PARTIAL_FILE
    try:
        return HistogramSet.from_bytes(path.read_bytes(), str(path))
    except (OSError, FormatError, KeyError, TypeError, ValueError):
        return HistogramSet()


def gather(conn: sa.Connection, production_id: int) -> dict[Key, Live]:
    """Return the runs that jobs are at work on, by step, with all that is known of them."""
    under_way: dict[Key, list[Flight]] = defaultdict(list)
    for flight in flights(conn, production_id):
        under_way[flight.key].append(flight)
    found = {}
    for key, ones in under_way.items():
        live = _finals(conn, production_id, key)
        for flight in ones:
            shown = read_partial(flight)
            live.partial += bool(shown)
            live.histograms.add(shown)
        found[key] = live
    return found


def _finals(conn: sa.Connection, production_id: int, key: Key) -> Live:
    """Add up the validated histograms of a run's accepted units."""
    unit, job, task = schema.unit, schema.job, schema.task
    file, output, replica = schema.file, schema.output, schema.replica
    mine = (
        task.c.production_id == production_id, task.c.step == key[0], unit.c.series == key[1],
        unit.c.first_run == key[2], unit.c.kind.in_(("process", "collect")),
    )  # fmt: skip
    states = sa.select(job.c.state, sa.func.count()).select_from(job.join(unit, job.c.unit_id == unit.c.id))
    states = states.join(task, unit.c.task_id == task.c.id).where(*mine).group_by(job.c.state)
    counts: dict[str, int] = {row[0]: row[1] for row in conn.execute(states)}
    gone = ("superseded", "cancelled", "split", "excluded")
    live = Live(units=sum(number for state, number in counts.items() if state not in gone))
    query = (
        sa.select(replica.c.path)
        .select_from(output.join(unit, output.c.unit_id == unit.c.id))
        .join(job, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(file, output.c.file_id == file.c.id)
        .join(replica, replica.c.file_id == file.c.id)
        .where(*mine, job.c.state == "ok", output.c.stream == HISTOGRAMS)
        .where(replica.c.state.in_(("present", "verified")))
        .order_by(unit.c.id, replica.c.id)
    )
    for path in conn.execute(query).scalars():
        live.histograms.add(HistogramSet.from_bytes(Path(path).read_bytes(), path))
        live.final += 1
    return live


# --- the file that shows it all


def live_file(workspace: Workspace, production: str) -> Path:
    """Return where the histograms of a production under way are shown."""
    return durable.confined(workspace.root / FOLDER, f"{production}.bwb")


def show(workspace: Workspace, production: str, found: dict[Key, Live]) -> None:
    """Write the histograms of runs under way, as one file that is whole at any moment."""
    whole, runs = HistogramSet(), []
    for number, (key, live) in enumerate(sorted(found.items())):
        names = {}
        for name, histogram in live.histograms.items():
            names[name] = f"{number}/{name}"
            whole[names[name]] = Histogram(names[name], histogram.axes, histogram.title, histogram.counts)
        step, series, run = key
        row = {"step": step, "series": series, "run": run, "histograms": names}
        runs.append(row | live.document())
    path = live_file(workspace, production)
    durable.make_directory(path.parent)
    arrays, document = bundle.unpack(whole.to_bytes())
    durable.replace(path, bundle.pack(arrays, document | {"runs": runs}), durable=False)


def hide(workspace: Workspace, production: str) -> None:
    """Show nothing any more: what is final are validated outputs."""
    live_file(workspace, production).unlink(missing_ok=True)


def shown(workspace: Workspace, production: str) -> list[dict[str, Any]]:
    """Return what is shown of a production under way: by step and run, counts of units and histograms."""
    path = live_file(workspace, production)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    histograms = HistogramSet.from_bytes(data, str(path))
    runs: list[dict[str, Any]] = bundle.unpack(data, str(path))[1]["runs"]
    return [
        row | {"histograms": {name: histograms[key] for name, key in row["histograms"].items()}}
        for row in runs
    ]


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is shown as JSON holds it: each histogram with its axes, counts and moments."""
    return [
        row | {"histograms": {name: _plain(histogram) for name, histogram in row["histograms"].items()}}
        for row in rows
    ]


def _plain(histogram: Histogram) -> dict[str, Any]:
    from beamwright.quality.checks import moments

    axes = [{"bins": a.bins, "low": a.low, "high": a.high, "label": a.label} for a in histogram.axes]
    row: dict[str, Any] = {"title": histogram.title, "entries": histogram.entries, "axes": axes}
    row["counts"] = histogram.values.tolist()
    if len(axes) == 1 and histogram.values.sum():
        row["mean"], row["width"] = moments(histogram)
    return row
