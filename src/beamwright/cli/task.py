"""``beamwright task``: the steps of productions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.analyse import analyse
from beamwright.cli.common import (
    Columns,
    F,
    Noun,
    by_option,
    decided,
    dry_run_option,
    reader,
    reading,
    reason_option,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.production.interventions import Why


@click.group(cls=Noun)
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
@click.option("--units", "with_units", is_flag=True, help="List its units as well.")
@reading
def show(name: str, with_units: bool, folder: Path | None, as_json: bool) -> None:
    """Show a task: its jobs by state, rate, end and failures, its configuration and its ledger."""
    import time

    from beamwright.catalog import ledger
    from beamwright.db import lookup, views
    from beamwright.production import counting

    with reader(folder) as conn:
        row = lookup.find_task(conn, name)
        found = _named(views.tasks(conn, task_id=row.id)[0])
        stands = counting.summary(conn, row, time.time())
        sums = ledger.totals(conn, row.id)
        units = _units(conn, row.id) if with_units else {}
    document = found | stands | {"ledger": sums} | units
    write_document(document, as_json, None if as_json else _lines(document))


def _lines(document: dict[str, Any]) -> list[str]:
    """Return what people ask of a task first; then how it is configured, as far as its file says anything."""
    from beamwright.cli.progress import duration
    from beamwright.production.spec import StepSpec
    from beamwright.report import text

    efficiency, rate, end = (document[name] for name in ("cpu_efficiency", "jobs_per_s", "end_in_s"))
    usual = {name: one.default for name, one in StepSpec.model_fields.items()} | {"kind": document["kind"]}
    step = document["config"].get("step", {}).items()
    said = {k: v for k, v in step if v and k != "name" and v != usual.get(k)}
    shown = {
        "task": document["name"],
        "kind": document["kind"],
        "state": document["state"],
        "jobs": {"all": sum(document["states"].values())} | document["states"],
        "attempts": document["attempts"],
        "rate": f"{rate:.3g} jobs/s" if rate else None,
        "left": f"{document['left']} jobs" + (f", done in {duration(end)}" if end else ""),
        "CPU": f"{document['cpu_s']:.1f} s"
        + (f", {100 * efficiency:.0f} % of the wall time" if efficiency else ""),
        "configuration": f"version {document['config_version']}, {document['config_hash'][:12]}",
    }
    width = max(map(len, shown))
    lines = [f"{name:{width}}  {text.shown(value)}" for name, value in shown.items()]
    rest = {name: document.get(name) for name in ("failures", "messages", "needs", "generated")}
    rest |= {"file": said} | {name: document.get(name) for name in ("composition", "ledger", "units")}
    return lines + text.pairs({name: value for name, value in rest.items() if value})


def _units(conn: Any, task_id: int) -> dict[str, Any]:
    from beamwright.production import listing

    names = ("kind", "stream", "state", "failures", "reason")
    rows = listing.jobs(conn, listing.Wanted((task_id,)))
    return {"units": [{"key": row["unit"]} | {name: row[name] for name in names} for row in rows]}


@task.command("failures")
@click.argument("name", metavar="[PRODUCTION/STEP]", required=False)
@click.option(
    "--by",
    type=click.Choice(["class", "farm", "node"]),
    default="class",
    show_default=True,
    help="What to count by.",
)
@reading
def failures(name: str | None, by: str, folder: Path | None, as_json: bool) -> None:
    """Count failed attempts by class, and as a share of all that ended; per task, farm and node."""
    from beamwright.db import lookup
    from beamwright.production import counting

    with reader(folder) as conn:
        task_id = int(lookup.find_task(conn, name).id) if name else None
        found, total = counting.failures(conn, task_id), counting.ended(conn, task_id)
    rows = _counted(found, by, total)
    columns: Columns = (
        {column: column for column in ("task", "farm", "node", "failure") if column in rows[0]}
        if rows
        else {}
    )
    share: Columns = {
        "attempts": "attempts",
        "share": lambda r: f"{100 * r['share']:.2f} %",
        "meaning": "meaning",
    }
    write_rows(rows, {**columns, **share}, as_json)


def _counted(found: list[dict[str, Any]], by: str, total: int) -> list[dict[str, Any]]:
    """Sum failed attempts over what is not asked for."""
    from beamwright.core.messages import FAILURES

    sums: dict[tuple[str, ...], int] = {}
    for row in found:
        place = (row["farm"],) if by == "farm" else (row["farm"], row["host"] or "?") if by == "node" else ()
        key = (f"{row['production']}/{row['step']}", *place, row["failure_class"])
        sums[key] = sums.get(key, 0) + row["attempts"]
    names = {
        "class": ("task", "failure"),
        "farm": ("task", "farm", "failure"),
        "node": ("task", "farm", "node", "failure"),
    }
    return [
        dict(zip(names[by], key, strict=True))
        | {"attempts": n, "share": n / total, "meaning": FAILURES.get(key[-1], "")}
        for key, n in sorted(sums.items())
    ]


# --- by hand -----------------------------------------------------------------------------------------------


def _handling(command: F) -> F:
    """Add what every command needs that moves a task or its jobs by a person's decision."""
    for option in (
        by_option,
        reason_option,
        click.argument("name", metavar="PRODUCTION/STEP"),
    ):
        command = option(command)
    return reading(dry_run_option(command))


def _of_class(command: F) -> F:
    text = "Jobs that failed in this class only."
    return click.option("--failure", default="", metavar="CLASS", help=text)(command)


@task.command("hold")
@_handling
def hold(**options: Any) -> None:
    """Stop a task: none of its jobs starts until it is released; what runs, runs on."""
    _move_task("hold", **options)


@task.command("release")
@_handling
def release(**options: Any) -> None:
    """Let a held task go on."""
    _move_task("release", **options)


@task.command("cancel")
@_of_class
@_handling
def cancel(**options: Any) -> None:
    """Give up all jobs of a task that are not done."""
    _move_jobs("cancel", **options)


@task.command("retry")
@_of_class
@_handling
def retry(**options: Any) -> None:
    """Give the failed jobs of a task all their tries anew; plan its cancelled ones again."""
    _move_jobs("retry", **options)


@task.command("ignore")
@_of_class
@_handling
def ignore(**options: Any) -> None:
    """Leave the failed jobs of a task out for good, approved by whoever is named."""
    _move_jobs("ignore", **options)


@task.command("redo")
@click.option("--run", "runs", multiple=True, metavar="SERIES/NUMBER", help="This run; may be repeated.")
@_handling
def redo(
    name: str, runs: tuple[str, ...], by: str, reason: str, dry_run: bool, folder: Path | None, as_json: bool
) -> None:
    """Do finished work of a task anew: what another configuration made or, with --run, all of a run.

    What was made from it is done anew, too. The outputs stay on disk, superseded; the next `produce` makes
    the new ones.
    """
    from beamwright.core.errors import UsageError
    from beamwright.db import lookup
    from beamwright.production import handling

    wanted = []
    for run in runs:
        series, slash, number = run.rpartition("/")
        if not slash or not number.isdigit():
            raise UsageError(f"{run!r} is no run", hint="write SERIES/NUMBER, as `beamwright run ls` does")
        wanted.append((series, int(number)))

    def again(conn: sa.Connection, why: Why) -> tuple[list[Any], list[Any]]:
        found = lookup.find_task(conn, name)
        rows = handling.outdated(conn, found, wanted)
        return rows, handling.redo(conn, found, rows, why) if rows else []

    rows, after = decided(folder, again, by=by, reason=reason, dry_run=dry_run)
    shown = [{"unit": row.key, "task": name, "run": f"{row.series}/{row.first_run}"} for row in rows]
    shown += [
        {
            "unit": "",
            "task": f"{name.partition('/')[0]}/{one.step}",
            "run": f"{one.interval.series}/{one.interval.first[0]}",
        }
        for one in after
    ]
    write_rows(shown, {"unit": lambda r: r["unit"][:12], "task": "task", "run": "run"}, as_json)


def _move_task(
    verb: Any, name: str, by: str, reason: str, dry_run: bool, folder: Path | None, as_json: bool
) -> None:
    from beamwright.db import lookup
    from beamwright.production import handling

    def move(conn: sa.Connection, why: Why) -> str:
        found = lookup.find_task(conn, name)
        handling.move_task(conn, found, verb, why)
        return str(found.state)

    was = decided(folder, move, by=by, reason=reason, dry_run=dry_run)
    write_document({"task": name, "was": was, "is": "held" if verb == "hold" else "active"}, as_json)


def _move_jobs(
    verb: Any,
    name: str,
    failure: str,
    by: str,
    reason: str,
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    from beamwright.cli.job import write_moved
    from beamwright.core.errors import UnknownNameError
    from beamwright.core.messages import FAILURES
    from beamwright.db import lookup
    from beamwright.production import handling

    if failure and failure not in FAILURES:
        raise UnknownNameError("failure class", failure, FAILURES)

    def move(conn: sa.Connection, why: Why) -> list[Any]:
        rows = handling.of_task(conn, int(lookup.find_task(conn, name).id), verb, failure)
        return handling.move_jobs(conn, verb, rows, why)

    write_moved(verb, decided(folder, move, by=by, reason=reason, dry_run=dry_run), "", as_json)


def _named(row: dict[str, object]) -> dict[str, object]:
    kept = {key: value for key, value in row.items() if key not in ("id", "production_id")}
    return {"name": f"{row['production']}/{row['step']}"} | kept


task.add_command(analyse)
