"""``beamwright quality``: verdicts on runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import (
    Columns,
    Noun,
    by_option,
    decided,
    dry_run_option,
    reader,
    reading,
    reason_option,
    say,
    write_document,
    write_rows,
)
from beamwright.cli.run import split

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.production.interventions import Why

VALUES = click.Choice(["good", "bad", "unknown"])
TIER = click.option("--tier", default="dst", show_default=True, help="The tier that the verdict is on.")


@click.group(cls=Noun)
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
    from beamwright.db import schema, views

    series, number = split(name)
    verdict = schema.verdict.c
    with reader(folder) as conn:
        found = views.verdicts(conn, verdict.series == series, verdict.run == number)
        known = set() if found else {f"{v['series']}/{v['run']}" for v in views.verdicts(conn)}
    if not found:
        raise UnknownNameError("run with a verdict", name, known)
    names = ("tier", "subject", "value", "version", "author", "reason", "checks")
    rows = [{key: verdict[key] for key in names} for verdict in found]
    lines = None if as_json else _lines(rows)
    write_document({"run": name, "verdicts": rows}, as_json, lines)


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the verdicts as a table, and the checks behind them as another."""
    from beamwright.report import text

    heads = ("tier", "subject", "value", "version", "author", "reason")
    verdicts = text.table(heads, [[row[name] for name in heads] for row in rows])
    names = ("name", "quantity", "outcome", "value", "low", "high")
    checks = [
        [row["tier"], row["subject"], *(check.get(name) for name in names)]
        for row in rows
        for check in row["checks"]
    ]
    columns = ("tier", "subject", "check", "quantity", "outcome", "value", "low", "high")
    return [*verdicts, *(["", *text.table(columns, checks)] if checks else [])]


@quality.command("set")
@click.argument("run", metavar="SERIES/NUMBER")
@click.argument("subject")
@click.argument("value", type=VALUES)
@TIER
@by_option
@reason_option
@click.option("--new", "is_new", is_flag=True, help="Judge a subject, or a tier, that was never judged.")
@dry_run_option
@reading
def set_(
    run: str, subject: str, value: str, tier: str, by: str, reason: str, is_new: bool, dry_run: bool,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Decide on a run, over what the algorithms found: a new version, which they leave alone."""
    from beamwright.quality import verdicts

    place = (*split(run), tier, subject)

    def judge(conn: sa.Connection, why: Why) -> Any:
        verdicts.check_place(conn, *place, is_new)
        return verdicts.override(conn, *place, value, author=why.actor, reason=why.reason, now=why.now)

    found = decided(folder, judge, by=by, reason=reason, dry_run=dry_run)
    names = ("subject", "tier", "version", "value", "author", "reason")
    write_document({"run": run} | {name: getattr(found, name) for name in names}, as_json)


@quality.command("history")
@click.argument("run", metavar="SERIES/NUMBER")
@click.argument("subject")
@TIER
@reading
def history(run: str, subject: str, tier: str, folder: Path | None, as_json: bool) -> None:
    """List all versions of a verdict, oldest first."""
    from beamwright.cli.constants import _time
    from beamwright.core.errors import UnknownNameError
    from beamwright.db import views
    from beamwright.quality import verdicts

    series, number = split(run)
    with reader(folder) as conn:
        found = [vars(v) for v in verdicts.history_of(conn, series, number, tier, subject)]
        if not found:
            known = {
                f"{v['series']}/{v['run']} {v['subject']} --tier {v['tier']}" for v in views.verdicts(conn)
            }
            raise UnknownNameError("verdict", f"{run} {subject} --tier {tier}", known)
    columns: Columns = {name: name for name in ("version", "value", "author", "reason")}
    write_rows(found, {"at": lambda row: _time(row["created"]), **columns}, as_json)


@quality.command("good")
@click.argument("subject")
@TIER
@click.option("--as-of", metavar="DATE", help="Those that were good at this date.")
@reading
def good(subject: str, tier: str, as_of: str | None, folder: Path | None, as_json: bool) -> None:
    """List the runs that are, or at a date were, good for a subject."""
    from beamwright.cli.constants import parse_date
    from beamwright.quality import verdicts

    at = None if as_of is None else parse_date(as_of)
    with reader(folder) as conn:
        runs = verdicts.good_runs(conn, subject, tier, at)
    rows = [{"series": series, "run": number} for series, number in runs]
    write_rows(rows, {"series": "series", "run": "run"}, as_json)


@quality.command("watch")
@click.argument("production", required=False)
@click.option("--every", type=float, metavar="SECONDS", help="Look again so often, until interrupted.")
@reading
def watch(production: str | None, every: float | None, folder: Path | None, as_json: bool) -> None:
    """Show the histograms of runs while their jobs run.

    Those of accepted units are final; of the others it is what the attempt under way has filled so far.
    """
    import time

    from beamwright.cli.common import open_workspace, turns
    from beamwright.db import views
    from beamwright.production import live

    workspace = open_workspace(folder)
    with workspace.db.read() as conn:
        name = views.find_production(conn, production)["name"]
    workspace.db.close()
    for _ in [None] if every is None else turns(every, time.sleep):
        rows = live.shown(workspace, name)
        found = live.plain(rows) if as_json else [line for row in rows for line in _drawn(row)]
        if found or as_json:
            write_rows(found, {} if as_json else {key: key for key in _DRAWN}, as_json)
        else:
            say(f"production {name} has no run under way with histograms; see `beamwright quality ls`")


_DRAWN = ("step", "run", "units", "histogram", "entries", "mean", "shape")
_WIDTH = 40


def _drawn(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line for each histogram of a run, with its shape in bars."""
    import numpy as np

    from beamwright.conditions.trends import sparkline
    from beamwright.quality.checks import moments

    units = f"{row['final']}+{row['partial']} of {row['units']}"
    lines = []
    for name, histogram in sorted(row["histograms"].items()):
        is_line = len(histogram.axes) == 1 and histogram.values.sum() > 0
        counts = histogram.values.ravel()
        parts = [float(part.sum()) for part in np.array_split(counts, min(_WIDTH, counts.size))]
        mean = f"{moments(histogram)[0]:.4g}" if is_line else "–"
        place = {"step": row["step"], "run": f"{row['series']}/{row['run']}", "units": units}
        shape = {"histogram": name, "entries": histogram.entries, "mean": mean, "shape": sparkline(parts)}
        lines.append(place | shape)
    return lines


@quality.group("references", cls=Noun)
def references() -> None:
    """What runs should look like, put beside the code."""


@references.command("put")
@click.argument("experiment")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@by_option
@reason_option
@dry_run_option
@reading
def put(
    experiment: str, file: Path, by: str, reason: str, dry_run: bool, folder: Path | None, as_json: bool
) -> None:
    """Let a file of references stand for an experiment, instead of those that its code brings."""
    from beamwright.core.settings import decoded
    from beamwright.production.experiment import load
    from beamwright.quality import verdicts

    name = load(experiment).name
    said = (name, decoded(file.read_bytes(), str(file)), str(file))

    def take(conn: sa.Connection, why: Why) -> Any:
        return verdicts.put_references(conn, *said, author=why.actor, reason=why.reason, now=why.now)

    found = decided(folder, take, by=by, reason=reason, dry_run=dry_run)
    document = {"experiment": name, "version": found.version, "hash": found.hash}
    write_document(document | {"subjects": list(found.subjects())}, as_json)


@references.command("ls")
@reading
def references_ls(folder: Path | None, as_json: bool) -> None:
    """List the versions of references that were put."""
    from beamwright.cli.constants import _time
    from beamwright.quality import verdicts

    with reader(folder) as conn:
        rows = verdicts.reference_log(conn)
    names: Columns = {name: name for name in ("experiment", "version", "author", "reason")}
    write_rows(rows, {**names, "at": lambda row: _time(row["created"])}, as_json)


@references.command("show")
@click.argument("experiment")
@click.option("--version", type=click.IntRange(1), help="This version [default: the newest].")
@reading
def references_show(experiment: str, version: int | None, folder: Path | None, as_json: bool) -> None:
    """Show the references that stand: those that were put, else those of the experiment's code."""
    from beamwright.core.errors import UnknownNameError
    from beamwright.quality import verdicts

    with reader(folder) as conn:
        rows = verdicts.reference_log(conn, experiment)
    rows = rows or _brought(experiment)
    found = [row for row in rows if version in (None, row["version"])]
    if not found:
        known = {str(row["version"]) for row in rows}
        raise UnknownNameError(f"version of the references of {experiment}", str(version or ""), known)
    write_document(found[0], as_json, None if as_json else found[0]["text"].splitlines())


def _brought(experiment: str) -> list[dict[str, Any]]:
    """Return the references that the code of an experiment brings, which stand until others are put."""
    from beamwright.production.experiment import load
    from beamwright.quality.references import load_references

    paths = load(experiment).references
    found = load_references(paths) if paths else None
    text = "\n".join(path.read_text() for path in paths)
    return (
        [{"experiment": experiment, "version": found.version, "text": text, "hash": found.hash}]
        if found
        else []
    )
