"""``beamwright explain``: the causal chain of any object, in words."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import reader, reading, write_document


@click.command()
@click.argument("thing")
@reading
def explain(thing: str, folder: Path | None, as_json: bool) -> None:
    """Say what a thing is, where it came from and what comes next.

    THING is a run (series/number), a chunk (series/number/sequence), a task (production/step),
    a collection, file or dataset (scope:name), an event (series:run:section:event), a production, a tag,
    or the beginning of a hash.
    """
    from beamwright.production.explain import explain as explained

    with reader(folder) as conn:
        told = explained(conn, thing)
    write_document(told.document(), as_json, told.lines())
