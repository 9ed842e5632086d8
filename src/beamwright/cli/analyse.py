"""``beamwright task analyse``: an analyst's own task, run to its end."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import (
    dry_run_option,
    open_workspace,
    reading,
    say,
    write_document,
    write_rows,
)


@click.command("analyse")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--release", default="", help="An installed release for its jobs [default: the one that runs].")
@dry_run_option
@reading
def analyse(files: tuple[Path, ...], release: str, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Run analysis files to their end: code of your own over a dataset, outputs in a scope of your own."""
    from beamwright.agents.analysing import prepare
    from beamwright.production import analyses, installing

    workspace = open_workspace(folder)
    try:
        if release:
            release = installing.find(workspace, release).release
        ready = [prepare(workspace, file, release) for file in files]
        if dry_run:
            for one in ready:
                step = one.spec.step[0]
                told = {"analysis": one.spec.name, "dataset": one.dataset, "code": one.sandbox["sha256"]}
                write_document(told | {"outputs": step.outputs, "runs": one.spec.dataset[0].runs}, as_json)
            return
        first, *others = ready
        first.beside = others
        first.run()
        for one in ready:
            rows = analyses.written(workspace, one.spec.name)
            names = ("file", "stream", "kind", "events", "path")
            write_rows(rows, {name: name for name in names}, as_json)
            say(f"{one.spec.name}: done")
    finally:
        workspace.db.close()
