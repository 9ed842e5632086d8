"""``beamwright explain``: the causal chain of any object, in words."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import open_workspace, reading, write_document


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

    workspace = open_workspace(folder)
    try:
        with workspace.db.read() as conn:
            told = explained(conn, thing, workspace)
    finally:
        workspace.db.close()
    write_document(told.document(), as_json, told.lines())
