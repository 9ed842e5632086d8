"""``beamwright task analyse``: an analyst's own task, run to its end."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import (
    dry_run_option,
    open_workspace,
    reading,
    say,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    from beamwright.production.workspace import Workspace


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
        if dry_run:
            for file in files:
                _tell(workspace, file, release, as_json)
            return
        first, *others = ready = [prepare(workspace, file, release) for file in files]
        first.beside = others
        first.run()
        for one in ready:
            rows = analyses.written(workspace, one.spec.name)
            names = ("file", "stream", "kind", "events", "path")
            write_rows(rows, {name: name for name in names}, as_json)
            say(f"{one.spec.name}: done")
    finally:
        workspace.db.close()


def _tell(workspace: Workspace, file: Path, release: str, as_json: bool) -> None:
    """Say what an analysis would read and write, and the jobs that it would have now."""
    from beamwright.agents.analysing import prepare
    from beamwright.cli.produce import tell_jobs

    with TemporaryDirectory() as folder:
        one = prepare(workspace, file, release, Path(folder))
        jobs = one.preview()
    told: dict[str, Any] = {"analysis": one.spec.name, "dataset": one.dataset, "code": one.sandbox["sha256"]}
    told |= {"outputs": one.spec.step[0].outputs, "runs": one.spec.dataset[0].runs}
    write_document(told | ({"jobs": jobs} if as_json else {}), as_json)
    if not as_json:
        tell_jobs(jobs, "nothing is left to be done: all that its dataset holds was read by this code")
