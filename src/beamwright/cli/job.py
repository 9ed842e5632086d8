"""``beamwright job``: units of work and the attempts at them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.asking import SHOWN
from beamwright.cli.common import (
    Columns,
    F,
    Noun,
    by_option,
    decided,
    dry_run_option,
    dumps,
    open_workspace,
    pick,
    reader,
    reading,
    reason_option,
    say,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.production.interventions import Why
    from beamwright.production.listing import Wanted

Row = dict[str, Any]


@click.group(cls=Noun)
def job() -> None:
    """Jobs and their attempts."""


@job.command("ls")
@click.option("--state", "states", multiple=True, help="Jobs in this state only; may be repeated.")
@click.option("--step", default="", help="Jobs of this step only.")
@click.option("--task", default="", metavar="PRODUCTION/STEP", help="Jobs of this task only.")
@click.option("--failure", default="", metavar="CLASS", help="Jobs of which an attempt failed in this class.")
@click.option("--farm", default="", help="Jobs of which an attempt was made at this farm.")
@click.option("--since", metavar="DATE", help="Jobs of which an attempt began or ended since then (UTC).")
@click.option("--after", default="", metavar="UNIT", help="Jobs that were made after this one.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@reading
def ls(folder: Path | None, as_json: bool, limit: int | None, **asked: Any) -> None:
    """List jobs, in the order in which they were made."""
    from beamwright.production import listing

    with reader(folder) as conn:
        wanted = _wanted(conn, **asked)
        if as_json:
            write_rows(listing.jobs(conn, wanted, limit), {}, as_json)
            return
        most = SHOWN if limit is None else limit
        rows = list(listing.jobs(conn, wanted, most))
        left = listing.number(conn, wanted) - len(rows) if len(rows) == most else 0
    _write_jobs(rows, left)


def _wanted(
    conn: sa.Connection,
    states: tuple[str, ...],
    step: str,
    task: str,
    since: str | None,
    after: str,
    **said: str,
) -> Wanted:
    """Return which jobs the options ask for.

    Raises: UnknownNameError, FormatError.
    """
    from beamwright.core.clock import seconds_of
    from beamwright.production import listing

    moment = None if since is None else seconds_of(since, "--since")
    last = int(find(conn, after)["id"]) if after else 0
    wanted = listing.Wanted(listing.tasks(conn, step, task), states, since=moment, after=last, **said)
    listing.check(conn, wanted)
    return wanted


def _write_jobs(rows: list[Row], left: int) -> None:
    """Write jobs as a table, and how many more there are."""
    from beamwright.report import text

    columns: Columns = {
        "unit": lambda r: r["unit"][:12],
        "step": "step",
        "kind": "kind",
        "interval": lambda r: text.interval(r["interval"]),
        "state": "state",
        "failures": "failures",
        "reason": "reason",
    }
    write_rows(rows, columns, False)
    if left:
        say(f"and {left} more: give --limit, or --after {rows[-1]['unit'][:12]} to go on")


@job.command("show")
@click.argument("unit")
@reading
def show(unit: str, folder: Path | None, as_json: bool) -> None:
    """Show a job, named by (the beginning of) its unit's key, with all attempts at it."""
    from beamwright.db import views

    with reader(folder) as conn:
        found = find(conn, unit)
        tries = [_attempt(row) for row in views.attempts(conn, job_id=found["id"])]
        events = views.history_of(conn, "job", [str(found["id"])])
    kept = {key: value for key, value in found.items() if key not in ("id", "unit_id", "definition", "label")}
    steps = [{key: event[key] for key in ("at", "source", "target", "actor", "reason")} for event in events]
    write_document(kept | {"attempts": tries, "history": steps}, as_json)


@job.command("files")
@click.argument("unit")
@reading
def files(unit: str, folder: Path | None, as_json: bool) -> None:
    """List what a job reads, what it wrote, and what lies in the directories of its attempts."""
    from beamwright.db import lookup, schema, views

    with reader(folder) as conn:
        found = find(conn, unit)
        outputs = lookup.where(conn, schema.output, unit_id=found["unit_id"])
        ids = [output["file_id"] for output in outputs]
        written = views.files(conn, schema.file.c.id.in_(ids))
        tries = views.attempts(conn, job_id=found["id"])
    rows: list[Row] = [_read(item) for item in found["definition"]["inputs"]]
    rows += [{"role": "output", "name": f["did"], "size": f["size"], "path": f["path"]} for f in written]
    rows += [row for attempt in tries for row in _lying(attempt)]
    write_rows(rows, {"role": "role", "name": "name", "bytes": "size", "path": "path"}, as_json)


def _read(item: Row) -> Row:
    return {"role": "input", "name": item["name"], "size": item["size"], "path": item["path"]}


def _lying(attempt: Row) -> Iterator[Row]:
    directory = Path(attempt["directory"])
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.name != "ticket":  # it is nobody's but the worker's
            role = f"attempt {attempt['number']}"
            yield {"role": role, "name": path.name, "size": path.stat().st_size, "path": str(path)}


@job.command("rerun")
@click.argument("unit")
@click.option("--attempt", type=int, help="The number of the attempt [default: the last].")
@click.option(
    "--here",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A new folder for what it writes [default: rerun-UNIT-NUMBER].",
)
@click.option("--shell", is_flag=True, help="Open a shell there instead, and say what to run.")
@reading
def rerun(
    unit: str, attempt: int | None, here: Path | None, shell: bool, folder: Path | None, as_json: bool
) -> int:
    """Do an attempt's work again on this terminal, in its own environment; nothing of it is registered.

    What it writes is compared, byte by byte, with what the attempt reported.
    """
    import shlex
    import subprocess

    from beamwright.production import rerun as reruns

    workspace = open_workspace(folder)
    with reader(folder) as conn:
        found, chosen = _chosen(conn, unit, attempt)
    place = (here or Path(f"rerun-{found['unit'][:12]}-{chosen['number']}")).absolute()
    farm = workspace.settings.farm.get(chosen["farm"])
    again = reruns.prepare(workspace.root / chosen["directory"], farm, place)
    if shell:
        say("\n".join(shlex.join(argv) for argv in (again.process, again.validate)))
        return subprocess.run(again.shell, cwd=place, env=again.environment, check=False).returncode
    done = subprocess.run(again.process, cwd=place, env=again.environment, check=False)
    valid = None
    if done.returncode == 0:
        checked = subprocess.run(
            again.validate, cwd=place, env=again.environment, check=False, stdout=subprocess.DEVNULL
        )
        valid = checked.returncode == 0
    document = {"unit": found["unit"], "attempt": chosen["number"], "folder": str(place)}
    document |= {"exit_code": done.returncode, "valid": valid, "outputs": again.compare()}
    write_document(document, as_json)
    return done.returncode


@job.command("log")
@click.argument("unit")
@click.option("--attempt", type=int, help="The number of the attempt [default: the last].")
@click.option("--where", is_flag=True, help="Write the path of the log only.")
@reading
def log(unit: str, attempt: int | None, where: bool, folder: Path | None, as_json: bool) -> None:
    """Write what an attempt at a job logged."""
    from beamwright.durable import confined

    workspace = open_workspace(folder)
    with reader(folder) as conn:
        found, chosen = _chosen(conn, unit, attempt)
    directory = Path(chosen["directory"])
    if directory.is_absolute():
        directory = directory.relative_to(workspace.root)
    logs = sorted(confined(workspace.root, str(directory)).glob("log*"))
    lines = [str(path) for path in logs] if where else list(_text(logs))
    if as_json:
        click.echo(dumps({"unit": found["unit"], "attempt": chosen["number"], "lines": lines}))
        return
    for line in lines:
        click.echo(line)


def find(conn: Any, unit: str) -> Row:
    """Return the job whose unit's key begins so."""
    from beamwright.production import counting, listing

    near = counting.find_jobs(conn, unit) or listing.page(conn, listing.Wanted(), SHOWN)
    return pick(near, "unit", "job", unit)


def _chosen(conn: Any, unit: str, number: int | None) -> tuple[Row, Row]:
    """Return a job and one attempt at it."""
    from beamwright.core.errors import UnknownNameError
    from beamwright.db import views

    found = find(conn, unit)
    tries = views.attempts(conn, job_id=found["id"])
    chosen = [row for row in tries if number in (None, row["number"])]
    if not chosen:
        raise UnknownNameError("attempt", str(number or 1), [str(row["number"]) for row in tries])
    return found, chosen[-1]


def _text(logs: list[Path]) -> Iterator[str]:
    for path in logs:
        yield from path.read_text(errors="replace").splitlines()


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


# --- by hand -----------------------------------------------------------------------------------------------


def _handling(command: F) -> F:
    """Add what every command needs that moves jobs by a person's decision."""
    text = "A state of its own that the task file declares for where this leads."
    for option in (
        by_option,
        reason_option,
        click.option("--as", "label", default="", metavar="NAME", help=text),
        click.argument("units", metavar="UNIT", nargs=-1, required=True),
    ):
        command = option(command)
    return reading(dry_run_option(command))


@job.command("hold")
@_handling
def hold(**options: Any) -> None:
    """Stop jobs: nothing of them starts, and what runs is ended."""
    _move("hold", **options)


@job.command("release")
@_handling
def release(**options: Any) -> None:
    """Let held jobs go on."""
    _move("release", **options)


@job.command("cancel")
@_handling
def cancel(**options: Any) -> None:
    """Give jobs up. Their task cannot close until they are retried, or their records are given up too."""
    _move("cancel", **options)


@job.command("retry")
@_handling
def retry(**options: Any) -> None:
    """Give failed jobs all their tries anew; plan cancelled ones again."""
    _move("retry", **options)


@job.command("ignore")
@_handling
def ignore(**options: Any) -> None:
    """Leave failed jobs out for good, approved by whoever is named: their records count as quarantined."""
    _move("ignore", **options)


def _move(
    verb: Any,
    label: str,
    units: tuple[str, ...],
    by: str,
    reason: str,
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    from beamwright.production import handling

    def move(conn: sa.Connection, why: Why) -> list[Any]:
        ids = sorted({int(find(conn, unit)["unit_id"]) for unit in units})
        return handling.move_jobs(conn, verb, handling.of_units(conn, ids), why, label)

    write_moved(verb, decided(folder, move, by=by, reason=reason, dry_run=dry_run), label, as_json)


def write_moved(verb: Any, rows: list[Any], label: str, as_json: bool) -> None:
    """Write what became of jobs that a person moved."""
    from beamwright.production.handling import MOVES

    found = [
        {"unit": r.key, "was": r.state, "is": label or MOVES[verb][r.state], "why": r.reason} for r in rows
    ]
    columns: Columns = {"unit": lambda r: r["unit"][:12], "was": "was", "is": "is", "it had": "why"}
    write_rows(found, columns, as_json)
