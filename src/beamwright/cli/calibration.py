"""``beamwright calibration``: chains of rolling constants, and what a person does to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
    say,
    write_rows,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.production.interventions import Place, Why


@click.group(cls=Noun)
def calibration() -> None:
    """Chains of rolling calibrations."""


def _judging(command: F) -> F:
    """Add what every command needs that moves a run of a chain by a person's decision."""
    for option in (
        click.option("--production", default="", help="The production, where several have the run."),
        click.option("--step", default="", help="The calibrating step, where several have the run."),
        by_option,
        reason_option,
        click.argument("run", metavar="SERIES/NUMBER"),
    ):
        command = option(command)
    return reading(dry_run_option(command))


@calibration.command("show")
@click.argument("step", required=False)
@click.option("--series", help="The chain of this series only.")
@click.option("--values", "role", help="Show the constants of this role instead, with a sparkline of each.")
@click.option(
    "--figures", is_flag=True, help="Show what each fit says of itself, with a sparkline of each figure."
)
@reading
def show(
    step: str | None, series: str | None, role: str | None, figures: bool, folder: Path | None, as_json: bool
) -> None:
    """Show chains run by run: what each run started from, what it gave, and why; and how the values move."""
    if role is not None:
        _show_values(role, series, folder, as_json)
        return
    from beamwright.core.errors import UnknownNameError
    from beamwright.report.document import links

    with reader(folder) as conn:
        found = links(conn)
        steps = {row["step"] for row in found}
        if step is not None and step not in steps:
            raise UnknownNameError("calibration step", step, steps)
        rows = [row for row in found if step in (None, row["step"]) and series in (None, row["series"])]
        _add_values(conn, rows)
    if as_json or not rows:
        write_rows(rows, {}, as_json)
        return
    from beamwright.report import chains

    shown = chains.figure_lines(rows) if figures else chains.chain_lines(rows)
    for line in shown:
        click.echo(line)
    if not shown:
        say("no fit has said anything yet")


@calibration.command("skip-back")
@_judging
def skip_back(**options: Any) -> None:
    """Calibrate anew from a run on: withdraw its constants and those after it, in a new generation.

    What is frozen and what is before the run stays. `produce` rolls the chain again; `calibration stale`
    lists the outputs that do not stand any more, `calibration redo` lets them be done again.
    """

    def act(conn: sa.Connection, place: Place, why: Why) -> list[dict[str, Any]]:
        from beamwright.production import interventions, redoing

        links = interventions.skip_back(conn, place, why)
        stale_ones = sum(len(one.collections) for one in redoing.stale(conn, place.plan))
        say(f"{_many(len(links), 'link')} invalidated; {_many(stale_ones, 'output')} stale")
        return [_link(link, "invalidated") for link in links]

    _intervene(act, **options)


@calibration.command("hold")
@_judging
def hold(**options: Any) -> None:
    """Stop a chain before a run that it has not begun."""

    def act(conn: sa.Connection, place: Place, why: Why) -> list[dict[str, Any]]:
        from beamwright.production import interventions

        return [_link(link, "held") for link in interventions.hold(conn, place, why)]

    _intervene(act, **options)


@calibration.command("accept")
@_judging
def accept(**options: Any) -> None:
    """Take the constants that a held run's fit proposed; let a run that was held before it began go on."""

    def act(conn: sa.Connection, place: Place, why: Why) -> list[dict[str, Any]]:
        from beamwright.production import interventions

        links = interventions.accept(conn, place, why)
        return [_link(li, "accepted" if li.fit_unit_id is not None else "waiting") for li in links]

    _intervene(act, **options)


@calibration.command("reject")
@_judging
def reject(**options: Any) -> None:
    """Carry the previous constants through a held run."""

    def act(conn: sa.Connection, place: Place, why: Why) -> list[dict[str, Any]]:
        from beamwright.production import experiment, interventions

        brought = experiment.load(place.plan.spec.experiment)
        return [_link(link, "carried") for link in interventions.reject(conn, place, brought, why)]

    _intervene(act, **options)


@calibration.command("stale")
@click.argument("production")
@reading
def stale(production: str, folder: Path | None, as_json: bool) -> None:
    """List the outputs of a production that do not stand any more, and why."""
    from beamwright.production import redoing, tasks

    with reader(folder) as conn:
        found = redoing.stale(conn, tasks.plan(conn, tasks.find(conn, production)))
        _write_stale(found, as_json)


@calibration.command("redo")
@click.argument("production")
@by_option
@click.option(
    "--reason",
    default="their constants changed",
    show_default=True,
    help="Why; kept in the history for ever.",
)
@dry_run_option
@reading
def redo(production: str, by: str, reason: str, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Supersede the stale outputs of a production; its next `produce` makes them again.

    They stay on disk. Run it after the chain has rolled again: then only what really changed is done again.
    """
    from beamwright.production import redoing, tasks

    def again(conn: sa.Connection, why: Why) -> list[redoing.Stale]:
        return redoing.redo(conn, tasks.plan(conn, tasks.find(conn, production)), why)

    _write_stale(decided(folder, again, by=by, reason=reason, dry_run=dry_run), as_json)


def _intervene(
    act: Callable[[sa.Connection, Place, Why], list[dict[str, Any]]],
    *,
    run: str,
    production: str,
    step: str,
    by: str,
    reason: str,
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Do something to a run's place in a chain, in one transaction, and list the links that moved."""
    from beamwright.cli.run import split
    from beamwright.db import views
    from beamwright.production.interventions import locate

    series, number = split(run)

    def move(conn: sa.Connection, why: Why) -> list[dict[str, Any]]:
        place = locate(conn, series, number, production, step)
        steps = {row["id"]: row["step"] for row in views.links(conn, place.plan.id)}
        return [{"step": steps[row.pop("link")]} | row for row in act(conn, place, why)]

    rows = decided(folder, move, by=by, reason=reason, dry_run=dry_run)
    columns: Columns = {name: name for name in ("step", "interval", "was", "is")}
    write_rows(rows, columns, as_json)


def _show_values(role: str, series: str | None, folder: Path | None, as_json: bool) -> None:
    from beamwright.conditions.trends import sparkline, trends

    with reader(folder) as conn:
        found = trends(conn, role, series)
    names = sorted({name for row in found for name in row["values"]})
    columns: dict[str, str | Callable[[dict[str, Any]], Any]] = {"interval": "interval", "origin": "origin"}
    write_rows(found, columns | {name: _value(name) for name in names}, as_json)
    for name in [] if as_json else names:
        click.echo(f"{name}  {sparkline([row['values'].get(name) for row in found])}")


def _write_stale(found: Any, as_json: bool) -> None:
    rows = [
        {
            "step": one.step,
            "interval": str(one.interval),
            "state": one.state,
            "reason": one.reason,
            "outputs": list(one.collections),
        }
        for one in found
    ]
    columns: Columns = {name: name for name in ("step", "interval", "state", "outputs", "reason")}
    write_rows(rows, columns, as_json)


def _many(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def _link(link: Any, now: str) -> dict[str, Any]:
    return {"link": link.id, "interval": str(link.interval), "was": link.state, "is": now}


def _add_values(conn: sa.Connection, rows: list[dict[str, Any]]) -> None:
    """Give each link mean and rms of the constants that it gave, by role and array."""
    from beamwright.conditions.trends import summaries

    found = summaries(conn, [payload for row in rows for payload in (row["result"] or {}).values()])
    for row in rows:
        given = row["result"] or {}
        row["values"] = {role: found[payload] for role, payload in given.items() if payload in found}


def _value(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row["values"].get(name)
