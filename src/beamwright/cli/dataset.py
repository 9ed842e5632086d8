"""``beamwright dataset``: named sets of collections, asked for, fixed, compared, cited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.asking import as_of_option, completer
from beamwright.cli.common import (
    Columns,
    Noun,
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

    from beamwright.catalog.datasets import Dataset
    from beamwright.catalog.worth import Measure
    from beamwright.production.interventions import Why

NAME = click.argument("name", metavar="SCOPE:NAME[@VERSION]")


@click.group(cls=Noun)
def dataset() -> None:
    """Datasets: sets of collections."""


@dataset.command("ls")
@click.argument("expression", required=False, shell_complete=completer("collection"))
@as_of_option
@click.option(
    "--seconds", type=float, default=30.0, show_default=True, help="Seconds that the database may take."
)
@click.option("--explain", is_flag=True, help="Show how the database finds the collections, and the time.")
@reading
def ls(
    expression: str | None,
    as_of: str | None,
    seconds: float,
    explain: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """List datasets; with an expression those that hold collections for which it holds, and how many.

    "tier == 'dst' and run in 5000..5200 and quality.good('calo') and release ~ '24.*'"
    """
    from beamwright.catalog.asking import Question
    from beamwright.catalog.finding import find_datasets
    from beamwright.cli.asking import say_unknown, write_plan

    asked = Question.of("collection", expression, as_of, seconds=seconds)
    columns: Columns = {
        "dataset": "did",
        "version": "version",
        "state": "state",
        "collections": "collections",
        "events": "events",
        "query": "query",
    }
    with reader(folder) as conn:
        if explain:
            write_plan(conn, asked, as_json)
            return
        found = find_datasets(conn, asked)
        if not found:
            say_unknown(conn, asked)
        write_rows(found, columns, as_json)


@dataset.command("show")
@NAME
@as_of_option
@click.option(
    "--luminosity", "measure", flag_value="luminosity", help="What its runs are worth, and what is lost."
)
@click.option("--livetime", "measure", flag_value="livetime", help="The same in time.")
@reading
def show(name: str, as_of: str | None, measure: Measure | None, folder: Path | None, as_json: bool) -> None:
    """Show a dataset: its query and the collections that it holds, or what it is worth."""
    from beamwright.catalog import datasets, metadata
    from beamwright.catalog.worth import worth
    from beamwright.core.clock import seconds_of

    moment = None if as_of is None else seconds_of(as_of, "--as-of")
    with reader(folder) as conn:
        found = datasets.cited(conn, name)
        members = datasets.collections(conn, found, moment)
        told = _document(found) | metadata.of(conn, "dataset", [found.id])[found.id]
        if measure is not None:
            told |= worth(conn, members, measure, moment).document()
    names = ("tier", "stream", "events", "release")
    rows = [{"name": str(c.did)} | {n: getattr(c, n) for n in names} for c in members]
    mixed = datasets.mixture(members)
    told |= {"mixed": mixed} if mixed else {}
    write_document(told if measure else told | {"collections": rows}, as_json)


@dataset.command("define")
@NAME
@click.option("--where", metavar="EXPRESSION", shell_complete=completer("collection"), help="What it holds.")
@click.option("--tier", multiple=True, help="Of this tier; may be repeated, like all of these.")
@click.option("--stream", multiple=True, help="Of this stream.")
@click.option("--series", multiple=True, help="Of this series.")
@click.option("--production", multiple=True, help="Of this production.")
@click.option("--step", multiple=True, help="Of this step.")
@dry_run_option
@reading
def define(
    name: str, where: str | None, dry_run: bool, folder: Path | None, as_json: bool, **said: tuple[str, ...]
) -> None:
    """Define a dataset by a query; after a frozen version, its next one."""
    from beamwright.catalog import datasets
    from beamwright.core.did import Did
    from beamwright.core.errors import UsageError

    criteria: dict[str, Any] = {n: v[0] if len(v) == 1 else list(v) for n, v in said.items() if v}
    criteria |= {} if where is None else {"where": where}
    if not criteria:
        raise UsageError(f"nothing says what {name} holds", hint="give --where, --tier, --stream …")

    def define(conn: sa.Connection, why: Why) -> tuple[Dataset, list[Any]]:
        found = datasets.create(conn, Did.parse(name), criteria, why.now, why.actor)
        return found, datasets.collections(conn, found)

    found, members = decided(folder, define, dry_run=dry_run)
    told = {"collections": len(members), "events": sum(c.events for c in members)}
    write_document(_document(found) | told, as_json)


@dataset.command("freeze")
@NAME
@as_of_option
@click.option("--allow-mixed", is_flag=True, help="Even where releases, constants or simulation differ.")
@click.option("--reason", default="", help="Why; needed with --allow-mixed.")
@dry_run_option
@reading
def freeze(
    name: str,
    as_of: str | None,
    allow_mixed: bool,
    reason: str,
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Fix what a dataset holds, as it is or was at a time, under a hash by which it is cited."""
    from beamwright.catalog import datasets
    from beamwright.core.clock import seconds_of
    from beamwright.core.did import Did
    from beamwright.core.errors import UsageError

    if allow_mixed and not reason.strip():
        raise UsageError("--allow-mixed needs a --reason", hint="say why what differs belongs together")
    moment = None if as_of is None else seconds_of(as_of, "--as-of")

    def fix(conn: sa.Connection, why: Why) -> Dataset:
        by, did = (why.now, why.actor, why.reason), Did.parse(name)
        datasets.freeze(conn, did, *by, allow_mixed=allow_mixed, as_of=moment)
        return datasets.find(conn, did)

    write_document(_document(decided(folder, fix, reason=reason, dry_run=dry_run)), as_json)


@dataset.command("diff")
@click.argument("one", metavar="ONE")
@click.argument("other", metavar="OTHER")
@reading
def diff(one: str, other: str, folder: Path | None, as_json: bool) -> None:
    """Show how one dataset, or version, differs from another: added, removed, replaced."""
    from beamwright.catalog import collections, datasets

    with reader(folder) as conn:
        sets = [datasets.collections(conn, datasets.cited(conn, name)) for name in (one, other)]
        found = collections.compare(conn, *sets)
    told = {"from": one, "to": other}
    write_document(told | found.document(), as_json, None if as_json else _changes(told, found.document()))


@dataset.command("since")
@NAME
@click.argument("since", metavar="DATE|VERSION")
@reading
def since(name: str, since: str, folder: Path | None, as_json: bool) -> None:
    """Show what was added to a dataset, removed or replaced since a date, or since a version of it."""
    from beamwright.catalog import collections, datasets
    from beamwright.core.clock import seconds_of

    with reader(folder) as conn:
        found = datasets.cited(conn, name)
        if since.isdigit() and len(since) < 8:
            earlier = datasets.find(conn, found.did, int(since))
            sets = [datasets.collections(conn, one) for one in (earlier, found)]
            told = collections.compare(conn, *sets)
        else:
            told = collections.since(conn, found, seconds_of(since, "the date"))
    heads = {"dataset": found.citation, "since": since}
    write_document(heads | told.document(), as_json, None if as_json else _changes(heads, told.document()))


def _changes(heads: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return what has changed, with a line per collection: + added, - removed, ~ replaced by another."""
    from beamwright.report import text

    names = ("added", "removed", "replaced")
    lines = text.pairs(heads | {name: len(found[name]) for name in names} | {"kept": found["kept"]})
    lines.append(f"{found['events']:+,} events")
    lines += [f"+ {name}" for name in found["added"]] + [f"- {name}" for name in found["removed"]]
    return lines + [f"~ {pair['old']} → {pair['new']}" for pair in found["replaced"]]


@dataset.command("withdraw")
@NAME
@reason_option
@dry_run_option
@reading
def withdraw(name: str, reason: str, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Say that a frozen dataset must not be used any more; it can still be looked up."""
    from beamwright.catalog import datasets

    def give_up(conn: sa.Connection, why: Why) -> Dataset:
        datasets.withdraw(conn, datasets.cited(conn, name), why.reason, why.now, why.actor)
        return datasets.cited(conn, name)

    write_document(_document(decided(folder, give_up, reason=reason, dry_run=dry_run)), as_json)


def _document(found: Dataset) -> dict[str, Any]:
    return {
        "dataset": str(found.did),
        "version": found.version,
        "state": found.state,
        "citation": found.citation + (f" #{found.content_hash[:12]}" if found.content_hash else ""),
        "query": found.query,
        "content_hash": found.content_hash,
        "created": found.created,
        "frozen": found.frozen,
    }
