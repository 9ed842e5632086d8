"""``beamwright init``: make a workspace."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import dry_run_option, json_option, say, write_document


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
@dry_run_option
@json_option
def init(folder: Path, dry_run: bool, as_json: bool) -> None:
    """Make a workspace."""
    from beamwright.core.errors import ConflictError
    from beamwright.production.workspace import SETTINGS_FILE, Workspace

    if dry_run:
        if (folder / SETTINGS_FILE).exists():
            raise ConflictError(
                f"{folder} is a workspace already", hint="use it as it is, or choose another folder"
            )
        say(f"would make a workspace in {folder.absolute()}")
        return
    workspace = Workspace.create(folder)
    workspace.db.close()
    document = {"workspace": str(workspace.root), "farms": sorted(workspace.settings.farm)}
    settings = workspace.root / SETTINGS_FILE
    lines = [
        f"made a workspace in {workspace.root}",
        f"its settings are in {settings}",
        "next: beamwright produce FILE",
    ]
    write_document(document, as_json, lines)
