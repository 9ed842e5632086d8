"""``beamwright lineage`` and ``beamwright impact``: what a thing was made from, and what was made from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from beamwright.cli.common import reader, reading, say, write_document

if TYPE_CHECKING:
    from beamwright.catalog.lineage import Direction, Graph

F = TypeVar("F", bound=Callable[..., Any])


def _tracing(command: F) -> F:
    for option in (
        reading,
        click.option(
            "--most",
            type=click.IntRange(min=1),
            default=5000,
            show_default=True,
            help="Stop after so many things.",
        ),
        click.option(
            "--svg",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Draw it into a file.",
        ),
        click.argument("thing"),
    ):
        command = option(command)
    return command


@click.command()
@_tracing
def lineage(thing: str, **options: Any) -> None:
    """Show what a thing was made from, up to the runs.

    THING is what `explain` takes: a collection, dataset, file or run, or the beginning of a hash.
    """
    _trace(thing, "ancestors", **options)


@click.command()
@_tracing
def impact(thing: str, **options: Any) -> None:
    """Show everything that was made from a thing.

    THING is a run, a file, a collection, constants: what `explain` takes, or a release (sha256:… or dev+…).
    """
    _trace(thing, "descendants", **options)


def _trace(
    thing: str, direction: Direction, svg: Path | None, most: int, folder: Path | None, as_json: bool
) -> None:
    from beamwright.catalog.lineage import trace
    from beamwright.production.explain import resolve

    with reader(folder) as conn:
        found = resolve(conn, thing)
        graph = trace(conn, (found.kind, found.id), direction, most)
    if svg is not None:
        from beamwright.durable import replace
        from beamwright.report.graph import picture

        replace(svg, picture(graph).encode())
        say(f"drawn in {svg}")
    write_document(graph.document(), as_json, None if as_json else _lines(graph))


def _lines(graph: Graph) -> list[str]:
    """Write a lineage as text: generation by generation."""
    word = "made from" if graph.direction == "ancestors" else "went into"
    start = graph.nodes[graph.start]
    lines = [click.style(f"{start.kind} {start.name}", bold=True) + (f"  {start.note}" if start.note else "")]
    last = 0
    for node in graph.ordered()[1:]:
        distance = graph.distance[node.key]
        if distance != last:
            lines.append(click.style(f"{word}, {distance} step{'s' * (distance > 1)} away", dim=True))
            last = distance
        lines.append(f"  {node.kind:<10}  {node.name}" + (f"  {node.note}" if node.note else ""))
    counted = ", ".join(f"{number} {kind}{'s' * (number > 1)}" for kind, number in graph.counts().items())
    lines.append(f"{counted or 'nothing'}" + (" and more: give --most" if graph.is_cut else ""))
    return lines
