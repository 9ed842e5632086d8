"""The part of ``beamwright conditions`` that writes, and that looks into the past; as with git."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import (
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
from beamwright.core.errors import UsageError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.core.runs import Interval
    from beamwright.production.interventions import Why

FILE = click.Path(dir_okay=False, path_type=Path)
version_option = click.option("--version", type=click.IntRange(0), help="This version [default: the newest].")


def parse_interval(text: str) -> Interval:
    """Read ``SERIES/RUN`` or ``SERIES/FIRST..LAST``, in whole runs.

    Raises: UsageError.
    """
    from beamwright.core.runs import RUN_MAX, Interval

    series, _, runs = text.rpartition("/")
    first, dots, last = runs.partition("..")
    ends = [first, last] if dots else [first]
    if not series or not all(end.isdecimal() and len(end) < 20 and int(end) <= RUN_MAX for end in ends):
        hint = f"write SERIES/RUN or SERIES/FIRST..LAST; runs go up to {RUN_MAX}"
        raise UsageError(f"{text!r} is no interval", hint=hint)
    return Interval.runs(series, int(first), int(last or first))


def parse_date(text: str) -> float:
    """Read a date or a time, of UTC where no zone is given, as seconds.

    Raises: UsageError.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no date", hint="write 2026-05-01 or 2026-05-01T12:00:00") from error
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


@click.command("put")
@click.argument("tag", metavar="GLOBALTAG/ROLE")
@click.argument("file", type=FILE)
@click.option("--interval", "where", required=True, metavar="SERIES/FIRST..LAST", help="Where they hold.")
@click.option("--max-bad", type=click.IntRange(0), default=0, help="Bad channels that are allowed [0].")
@click.option("--force", is_flag=True, help="Replace what is there, and begin before the next run.")
@by_option
@reason_option
@dry_run_option
@reading
def put(
    tag: str, file: Path, where: str, max_bad: int, force: bool, by: str, reason: str, dry_run: bool,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Load constants by hand: a table of channels, or a JSON document.

    A table begins with a line that names its columns, `channel` first. They may not begin before the next run
    that a chain of the role calibrates.
    """
    from beamwright.conditions.loading import load_file
    from beamwright.production.loading import Loaded, load

    interval = parse_interval(where)

    def take(conn: sa.Connection, why: Why) -> Loaded:
        return load(conn, tag, interval, load_file(file, _before(conn, tag), max_bad), why, force)

    done = decided(folder, take, by=by, reason=reason, dry_run=dry_run)
    document = {"tag": tag, "interval": str(interval), "version": done.version, "payload": done.payload_id}
    stale = [f"{one.step} {one.interval}" for one in done.stale]
    write_document(document | {"stale": stale}, as_json)


def _before(conn: sa.Connection, tag: str) -> Any:
    """Return the newest constants of a tag, which say which channels there are."""
    from beamwright.conditions import tags
    from beamwright.core.errors import UnknownNameError

    try:
        held = tags.intervals(conn, tag)
    except UnknownNameError:
        return None
    return tags.get_payload(conn, held[-1].payload_id).unpack()[0] if held else None


@click.command("get")
@click.argument("global_tag", metavar="GLOBALTAG")
@click.argument("run", metavar="SERIES/RUN")
@click.option("--role", "roles", multiple=True, help="These roles only; may be repeated.")
@click.option("--as-of", metavar="DATE", help="What the global tag gave at this date.")
@version_option
@click.option("--values", is_flag=True, help="With the arrays in full.")
@reading
def get(
    global_tag: str, run: str, roles: tuple[str, ...], as_of: str | None, version: int | None, values: bool,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Say what constants a run has, now, at a version or at a past date; and what is not covered."""
    from beamwright.conditions import tags, versions
    from beamwright.conditions.snapshot import role_of

    interval = parse_interval(run)
    with reader(folder) as conn:
        if as_of is not None:
            version = versions.version_at(conn, global_tag, parse_date(as_of))
        wanted = roles or sorted(role_of(tag) for tag in tags.members(conn, global_tag, version))
        found = tags.resolve(conn, global_tag, wanted, interval, version)
        rows: list[dict[str, Any]] = [
            {"role": r, "interval": str(i), "payload": p} for r, i, p in found.pieces
        ]
        if values:
            rows = [row | {"values": _content(conn, row["payload"])} for row in rows]
    rows += [{"role": role, "interval": str(gap), "payload": None} for role, gap in found.gaps]
    columns = {"role": "role", "interval": "interval", "payload": "payload"}
    write_rows(rows, columns | ({"values": "values"} if values else {}), as_json)


def _content(conn: sa.Connection, payload_id: str) -> Any:
    from beamwright.conditions import tags

    arrays, document = tags.get_payload(conn, payload_id).unpack()
    return {name: array.tolist() for name, array in arrays.items()} or document


@click.command("log")
@click.argument("name")
@reading
def log(name: str, folder: Path | None, as_json: bool) -> None:
    """List the versions of a tag, or the sweeps of a global tag, the newest first."""
    from beamwright.conditions import versions
    from beamwright.db import views

    with reader(folder) as conn:
        is_global = any(row["name"] == name for row in views.global_tags(conn))
        rows = versions.global_log(conn, name) if is_global else _tag_log(conn, name)
    names = ("version", "at", "tags") if is_global else ("version", "at", "added", "removed", "reason")
    columns: Any = {key: key for key in names} | {"at": lambda row: _time(row["at"])}
    write_rows(rows, columns, as_json)


def _tag_log(conn: sa.Connection, name: str) -> list[dict[str, Any]]:
    from beamwright.conditions import tags, versions

    return versions.tag_log(conn, tags.tag_of(conn, name))


def _time(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


@click.command("diff")
@click.argument("old")
@click.argument("new")
@reading
def diff(old: str, new: str, folder: Path | None, as_json: bool) -> None:
    """Show where two versions of tags (TAG@VERSION) or of global tags give different constants."""
    from beamwright.conditions import versions

    with reader(folder) as conn:
        one, other = _sides(conn, old), _sides(conn, new)
        rows = [
            {"role": role} | row
            for role in sorted(one.keys() | other.keys())
            for row in versions.diff(one.get(role, []), other.get(role, []))
        ]
    write_rows(rows, {name: name for name in ("role", "interval", "old", "new")}, as_json)


def _sides(conn: sa.Connection, text: str) -> dict[str, Any]:
    """Return the intervals by role of TAG@VERSION or GLOBALTAG@VERSION."""
    from beamwright.conditions import tags
    from beamwright.conditions.snapshot import role_of
    from beamwright.db import views

    name, version = _versioned(text)
    if any(row["name"] == name for row in views.global_tags(conn)):
        held = tags.members(conn, name, version)
        return {role_of(tag): tags.intervals(conn, tag, v) for tag, v in held.items()}
    tag = tags.tag_of(conn, name)
    return {role_of(tag): tags.intervals(conn, tag, version)}


def _versioned(text: str) -> tuple[str, int | None]:
    """Read ``NAME@VERSION``, or ``NAME`` for the newest.

    Raises: UsageError.
    """
    name, at, number = text.partition("@")
    if at and not (number.isdecimal() and len(number) < 10):
        raise UsageError(f"{text!r} names no version", hint="write NAME@VERSION, or NAME for the newest")
    return name, int(number) if at else None


@click.command("tag")
@click.argument("name")
@click.option("--from", "source", metavar="GLOBALTAG[@VERSION]", help="Take the tags of this one.")
@by_option
@reason_option
@dry_run_option
@reading
def tag(
    name: str, source: str | None, by: str, reason: str, dry_run: bool, folder: Path | None, as_json: bool
) -> None:
    """Make an open global tag, empty or with the tags that another has."""
    from beamwright.conditions import tags

    def make(conn: sa.Connection, why: Why) -> dict[str, Any]:
        origin, version = _versioned(source or "")
        held = tags.members(conn, origin, version) if origin else {}
        tags.create_global_tag(conn, name, why.now, why.actor)
        return {"global_tag": name, "version": tags.sweep(conn, name, held, why.now), "tags": held}

    write_document(decided(folder, make, by=by, reason=reason, dry_run=dry_run), as_json)


@click.command("freeze")
@click.argument("global_tag", metavar="GLOBALTAG")
@click.option("--force", is_flag=True, help="Freeze although processed runs would resolve otherwise.")
@by_option
@reason_option
@dry_run_option
@reading
def freeze(
    global_tag: str, force: bool, by: str, reason: str, dry_run: bool, folder: Path | None, as_json: bool
) -> None:
    """Freeze a global tag for ever; refuse while processed runs would resolve otherwise, naming them.

    What was processed under other global tags and would get other constants under this one is listed: that is
    what a reprocessing with it changes.
    """
    from beamwright.production import loading

    with reader(folder) as conn:
        for one in loading.outdated(conn, global_tag):
            say(f"{one.step} {one.interval}: {one.reason}")
        others = loading.otherwise(conn, global_tag)
    for production, one in others:
        say(f"{production}/{one.step} {one.interval}: {one.reason}")

    def close(conn: sa.Connection, why: Why) -> str:
        return loading.freeze(conn, global_tag, why, force)

    merkle = decided(folder, close, by=by, reason=reason, dry_run=dry_run)
    document: dict[str, Any] = {"global_tag": global_tag, "state": "frozen", "merkle": merkle}
    told = [
        {"production": name, "step": one.step, "interval": str(one.interval), "reason": one.reason}
        for name, one in others
    ]
    write_document(document | ({"otherwise": told} if as_json else {}), as_json)


@click.command("check")
@click.argument("global_tag", metavar="GLOBALTAG")
@reading
def check(global_tag: str, folder: Path | None, as_json: bool) -> None:
    """Report gaps and overlaps in the tags of a global tag."""
    from beamwright.conditions import versions

    with reader(folder) as conn:
        rows = versions.report(conn, global_tag)
    write_rows(rows, {name: name for name in ("tag", "problem", "interval")}, as_json)


COMMANDS = (put, get, log, diff, tag, freeze, check)
