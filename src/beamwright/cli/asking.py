"""The options of lists that are asked for in the catalogue's language, and how their rows are written."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from beamwright.cli.common import Columns, Row, dumps, say, write_rows

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.catalog.asking import Question

F = TypeVar("F", bound=Callable[..., Any])
SHOWN = 1000

EXAMPLE = "\"tier == 'dst' and run in 10..20\""


def asking(subject: str) -> Callable[[F], F]:
    """Add the options of a list of this subject: which rows, as of when, how many, and how they are found."""
    options = (
        click.option(
            "--where",
            metavar="EXPRESSION",
            shell_complete=completer(subject),
            help=f"Those only for which this holds: {EXAMPLE}.",
        ),
        as_of_option,
        click.option("--limit", type=click.IntRange(min=1), help="At most so many."),
        click.option(
            "--seconds",
            type=float,
            default=30.0,
            show_default=True,
            help="Seconds that the database may take.",
        ),
        click.option(
            "--explain", is_flag=True, help="Show how the database finds them, and the time it takes."
        ),
    )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


as_of_option = click.option("--as-of", metavar="DATE", help="As the catalogue stood then (UTC).")


def question(subject: str, said: dict[str, Any]) -> Question:
    """Return the question that the options of ``asking`` put."""
    from beamwright.catalog.asking import Question

    return Question.of(subject, said["where"], said["as_of"], limit=said["limit"], seconds=said["seconds"])


def write_answer(
    conn: sa.Connection,
    asked: Question,
    rows: Generator[Row],
    columns: Columns,
    as_json: bool,
    **said: str | None,
) -> None:
    """Write rows as they come (JSON), or as a table of the first thousand unless a limit was given.

    Where there are none, tell which values of the question, or ``said`` of fields, nothing has.
    """
    with closing(rows):  # while the database is open still
        first = next(rows, None)
        if first is None:
            say_unknown(conn, asked, **said)
        found = rows if first is None else chain([first], rows)
        if as_json:
            for row in found:
                click.echo(dumps(row))
            return
        most = SHOWN if asked.limit is None else asked.limit
        write_rows(islice(found, most), columns, as_json)
        if asked.limit is None and next(rows, None) is not None:
            say(f"there are more than these {most}: give --limit, or --json for all")


def say_unknown(conn: sa.Connection, asked: Question, **said: str | None) -> None:
    """Say why an answer is empty: which values nothing has, and the nearest ones."""
    from beamwright.catalog.unknown import unknown

    for told in unknown(conn, asked, said):
        say(told)


def write_plan(conn: sa.Connection, asked: Question, as_json: bool, *further: Any) -> None:
    """Write how the database answers, and how long it took."""
    from beamwright.catalog.asking import explain

    found = explain(conn, asked, *further)
    if as_json:
        click.echo(dumps(found))
        return
    told = f"{found['rows']} rows in {1000 * found['seconds']:.1f} ms by {found['database']}"
    for line in chain([told], (f"  {line}" for line in found["plan"])):
        click.echo(line)


def completer(subject: str) -> Callable[..., list[CompletionItem]]:
    """Return what completes the last word of an expression to a name of the language."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from beamwright.catalog.query import completions

        return [
            CompletionItem(text)
            for text in completions(incomplete, _names(subject, ctx.params.get("folder")))
        ]

    return complete


def _names(subject: str, folder: Path | None) -> list[str]:
    """Return the names of the language, with declared metadata where there is a workspace."""
    from beamwright.catalog import asking as catalogue
    from beamwright.catalog.vocabulary import vocabulary
    from beamwright.cli.common import reader
    from beamwright.core.errors import BeamwrightError

    try:
        with reader(folder) as conn:
            return catalogue.words(conn, subject).names
    except BeamwrightError:
        return vocabulary(subject).names
