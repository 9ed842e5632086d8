"""``beamwright fsck``: the invariants, checked read-only."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import Columns, open_workspace, reading, say, write_rows


@click.command()
@click.option("--deep", is_flag=True, help="Read and hash every file as well.")
@reading
def fsck(deep: bool, folder: Path | None, as_json: bool) -> int:
    """Check the invariants on database and storage, read-only."""
    from functools import partial

    from beamwright import fsck as checker
    from beamwright.cli.progress import each
    from beamwright.core.errors import IntegrityError

    workspace = open_workspace(folder)
    found = checker.run(workspace.db, workspace.root, deep=deep, each=partial(each, unit="files"))
    rows = [violation.document() for violation in found]
    if rows or as_json:
        columns: Columns = {"invariant": "invariant", "object": "object", "what is wrong": "message"}
        write_rows(rows, columns, as_json)
    say(f"{len(rows)} violations" if rows else "every invariant holds")
    return IntegrityError.exit_code if rows else 0
