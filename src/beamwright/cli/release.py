"""``beamwright release``: the software that runs here, and releases that are installed at farms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import (
    Noun,
    dry_run_option,
    json_option,
    open_workspace,
    reader,
    reading,
    say,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    from beamwright.production.workspace import Workspace


@click.group(cls=Noun)
def release() -> None:
    """The software that runs here."""


@release.command("show")
@click.option("-e", "--experiment", help="The experiment whose release it is.")
@json_option
def show(experiment: str | None, as_json: bool) -> None:
    """Show the identity of the installed software: what workers recompute before the first event."""
    from importlib import metadata

    from beamwright.production import experiment as experiments
    from beamwright.production import release as releases

    distributions = list(experiments.load(experiment).distributions) if experiment else ["beamwright"]
    versions = {name: metadata.version(name) for name in distributions}
    document = {
        "release": releases.current(distributions),
        "experiment": experiment,
        "distributions": versions,
    }
    write_document(document, as_json)


@release.command("make")
@click.argument("lock", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("wheels", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-e", "--experiment", default="", help="The experiment that it is for.")
@dry_run_option
@reading
def make(
    lock: Path, wheels: Path, experiment: str, dry_run: bool, folder: Path | None, as_json: bool
) -> None:
    """Make a release from a lock file with hashes and a folder of wheels; nothing is fetched.

    The wheels that the lock file does not know are beamwright's and the experiment's own.
    """
    from beamwright.production import installing

    workspace = open_workspace(folder)
    if dry_run:
        chosen, own = installing.choose(lock, wheels)
        write_document({"wheels": [path.name for path in chosen], "own": list(own)}, as_json)
        return
    made = installing.make(workspace, lock, wheels, experiment)
    _record(workspace, made.release, "made", f"for {experiment}" if experiment else "")
    write_document(_row(made, []), as_json)


@release.command("ls")
@reading
def ls(folder: Path | None, as_json: bool) -> None:
    """List the releases that were made here, with the farms that have them and the productions they serve."""
    from beamwright.db import views
    from beamwright.production import installing

    workspace = open_workspace(folder)
    farms = installing.installed(workspace)
    with reader(folder) as conn:
        serves = [(row["release"], row["name"]) for row in views.productions(conn)]
    rows = [
        _row(made, farms.get(made.release, []))
        | {"productions": sorted(name for used, name in serves if used == made.release)}
        for made in installing.made(workspace)
    ]
    columns: dict[str, str | Callable[[dict[str, Any]], Any]] = {
        "release": lambda r: r["release"][:19],
        "experiment": "experiment",
        "own": lambda r: ", ".join(r["own"]),
        "wheels": "wheels",
        "farms": lambda r: ", ".join(r["farms"]),
        "productions": lambda r: ", ".join(r["productions"]),
    }
    write_rows(rows, columns, as_json)


@release.command("install")
@click.argument("farm")
@click.argument("name", metavar="RELEASE")
@dry_run_option
@reading
def install(farm: str, name: str, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Install a release at a farm, beside the others; its jobs there run in it and see nothing else."""
    from beamwright.production import installing

    workspace = open_workspace(folder)
    made = installing.find(workspace, name)
    where = installing.place(workspace, farm, made.release)
    document = {"release": made.release, "farm": farm, "folder": str(where)}
    if dry_run:
        write_document(document | {"is_installed": where.exists()}, as_json)
        return
    is_new = not where.exists()
    installing.install(workspace, farm, made)
    if is_new:
        _record(workspace, made.release, "installed", f"farm {farm}")
    write_document(document, as_json)


@release.command("verify")
@click.argument("name", metavar="RELEASE", default="")
@click.option("--farm", default="", help="At this farm only.")
@reading
def verify(name: str, farm: str, folder: Path | None, as_json: bool) -> None:
    """Read every file of releases, as made and as installed, and compare it with its hash.

    The exit code is 7 when something is wrong.
    """
    from beamwright.core.errors import ReleaseError
    from beamwright.production import installing

    workspace = open_workspace(folder)
    chosen = [installing.find(workspace, name)] if name else installing.made(workspace)
    farms = installing.installed(workspace)
    rows: list[dict[str, Any]] = []
    for made in chosen:
        if not farm:
            problems = installing.verify_made(workspace.root / installing.FOLDER / made.name)
            rows.append({"release": made.release, "where": "as made", "problems": problems})
        for one in farms.get(made.release, []):
            if farm in ("", one):
                problems = installing.verify(installing.place(workspace, one, made.release))
                rows.append({"release": made.release, "where": one, "problems": problems})
    write_rows(
        rows,
        {
            "release": lambda r: r["release"][:19],
            "where": "where",
            "verdict": lambda r: "; ".join(r["problems"]) or "as it was made",
        },
        as_json,
    )
    wrong = [row for row in rows if row["problems"]]
    if wrong:
        message = f"{len(wrong)} of {len(rows)} installations are not what they should be"
        raise ReleaseError(message, hint="remove the folder, and install the release again")
    say(f"{len(rows)} verified")


def _row(made: Any, farms: list[str]) -> dict[str, Any]:
    return {
        "release": made.release,
        "experiment": made.experiment,
        "own": list(made.own),
        "python": made.python,
        "wheels": len(made.wheels),
        "farms": farms,
    }


def _record(workspace: Workspace, release: str, what: str, reason: str) -> None:
    import getpass

    from beamwright.db import history

    at = workspace.clock.now()
    with workspace.db.begin() as conn:
        history.record(conn, "release", release, what, actor=getpass.getuser(), reason=reason, at=at)
    workspace.db.close()
