"""``beamwright demo``: an experiment's own production, on its sample data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from beamwright.cli.common import json_option, say
from beamwright.core.errors import UsageError, nearest

if TYPE_CHECKING:
    from beamwright.production.experiment import Delivery, Experiment
    from beamwright.production.spec import ProductionSpec
    from beamwright.production.workspace import Workspace

NAME = "demo"


@click.command()
@click.option(
    "-e", "--experiment", help="The experiment [default: the one installed that has a production `demo`]."
)
@click.option("--production", help="Which of the experiment's productions [default: demo, or the only one].")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes in each job [default: 1].")
@click.option(
    "--events", type=click.IntRange(1), help="Enlarge the volume to so many events by resampling; flagged."
)
@click.option(
    "-w",
    "--workspace",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("beamwright-demo"),
    help="The workspace; an earlier demo in it is taken up where it stands [default: beamwright-demo].",
)
@click.option("--open", "show", is_flag=True, help="Open the report in a browser where there is a display.")
@json_option
def demo(
    experiment: str | None,
    production: str | None,
    workers: int,
    events: int | None,
    folder: Path,
    show: bool,
    as_json: bool,
) -> None:
    """Run an experiment's demo production and report on it."""
    from beamwright.cli.produce import finish
    from beamwright.production import experiment as experiments
    from beamwright.production.spec import load_spec

    chosen = experiments.load(experiment) if experiment else _default()
    spec = load_spec(_production(chosen, production))
    workspace = _workspace(folder)
    say(f"{spec.title or spec.name}, in {workspace.root}")
    deliveries = list(chosen.deliveries(spec.deliveries)) if spec.deliveries else []
    if events is not None:
        spec, more = _enlarged(
            chosen, spec, events, sum(d.records.get("event", 0) for d in deliveries), workspace
        )
        deliveries += more
    document = finish(workspace, spec, chosen, workers=workers, deliveries=deliveries, as_json=as_json)
    if show:
        _open(document["report"])


def _enlarged(
    experiment: Experiment, spec: ProductionSpec, events: int, have: int, workspace: Workspace
) -> tuple[ProductionSpec, list[Delivery]]:
    """Add resampled events to the delivered ones until there are so many."""
    if experiment.enlarge is None:
        raise UsageError(
            f"experiment {experiment.name} cannot resample its events", hint="leave out --events"
        )
    if events <= have:
        say(f"{have} events are delivered anyway: none are resampled")
        return spec, []
    return experiment.enlarge(spec, events - have, workspace.root / "resampled")


def _default() -> Experiment:
    from beamwright.production import experiment as experiments

    known = sorted(experiments.installed())
    having = [found for found in map(experiments.load, known) if NAME in found.productions]
    if len(having) != 1:
        hint = (
            f"name one with --experiment: {', '.join(known)}"
            if known
            else "install an experiment; see docs/tutorials"
        )
        raise UsageError(
            f"{len(having)} of the installed experiments have a production called {NAME}", hint=hint
        )
    return having[0]


def _production(experiment: Experiment, name: str | None) -> Path:
    found = experiment.productions
    wanted = name or (NAME if NAME in found or len(found) != 1 else next(iter(found)))
    if wanted not in found:
        raise UsageError(
            f"experiment {experiment.name} has no production {wanted!r}", hint=nearest(wanted, found)
        )
    return found[wanted]


def _workspace(folder: Path) -> Workspace:
    from beamwright.production.workspace import SETTINGS_FILE, Workspace

    return Workspace.open(folder) if (folder / SETTINGS_FILE).exists() else Workspace.create(folder)


def _open(path: str) -> None:
    """Open the report where there is a display; its path was printed anyway."""
    import os
    import subprocess
    import sys
    from shutil import which

    opener = which("open") if sys.platform == "darwin" else which("xdg-open")
    if opener and (
        sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        subprocess.Popen(
            [opener, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
