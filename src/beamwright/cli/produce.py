"""``beamwright produce``: a production file, run to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import (
    Columns,
    dry_run_option,
    dumps,
    open_workspace,
    reading,
    say,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    from beamwright.agents.loop import Produce
    from beamwright.production.experiment import Experiment
    from beamwright.production.spec import ProductionSpec
    from beamwright.production.tasks import Facts
    from beamwright.production.workspace import Workspace


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes in each job [default: 1].")
@click.option("--release", default="", help="An installed release for its jobs [default: the one that runs].")
@click.option(
    "--beside",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Another production of the experiment to run at the same time; may be repeated.",
)
@dry_run_option
@reading
def produce(
    file: Path, workers: int, release: str, beside: tuple[Path, ...], dry_run: bool,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a production file to its end.

    Stop it in any way and run it again: what was accepted stays, the rest is done.
    """
    from beamwright.production import experiment as experiments
    from beamwright.production.facts import production_facts
    from beamwright.production.spec import load_spec

    spec = load_spec(file)
    experiment = experiments.load(spec.experiment)
    if dry_run:
        facts = production_facts(experiment, spec)
        plan = {name: sorted(found.streams) for name, found in facts.items()}
        document = {"production": spec.name, "experiment": spec.experiment, "steps": plan}
        jobs = _jobs(folder, spec, experiment, facts, release)
        write_document(document | ({"jobs": jobs} if as_json else {}), as_json)
        if not as_json:
            tell_jobs(
                jobs, "no job can be made yet: runs are missing, or wait for constants or for earlier steps"
            )
            if any(step.kind == "calibrate" for step in spec.step):
                say("jobs of calibrate steps are not listed: they are made run by run")
        return
    workspace = open_workspace(folder)
    if release:
        from beamwright.production import installing

        release = installing.find(workspace, release).release
    others = [load_spec(path) for path in beside]
    finish(workspace, spec, experiment, workers=workers, release=release, beside=others, as_json=as_json)


def tell_jobs(jobs: list[dict[str, Any]], without: str) -> None:
    """Print the jobs that would be made, or why there are none."""
    names = ("step", "kind", "interval", "records")
    columns: Columns = {**{name: name for name in names}, "inputs": lambda r: len(r["inputs"])}
    if any(row["kind"] == "generate" for row in jobs):
        columns = {**columns, "seed": lambda r: r["seed"] if r["kind"] == "generate" else ""}
    if jobs:
        write_rows(jobs, columns, as_json=False)
    else:
        say(without)


def _jobs(
    folder: Path | None, spec: ProductionSpec, experiment: Experiment, facts: Mapping[str, Facts],
    release: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the jobs that would be made now in the workspace, if there is one."""
    from beamwright.agents.preview import preview
    from beamwright.core.errors import ConfigError
    from beamwright.production import installing
    from beamwright.production import release as releases

    try:
        workspace = open_workspace(folder)
    except ConfigError:
        return []
    try:
        workspace.db.check()
        here = releases.current(experiment.distributions)
        current = installing.find(workspace, release).release if release else here
        installing.check_farms(workspace, spec, current, here)
        if current != here and (
            said := installing.check_agents(workspace, spec, experiment.distributions, current, here)
        ):
            say(said)
        return preview(workspace, spec, experiment, facts, current)
    finally:
        workspace.db.close()


def _beside(
    workspace: Workspace, spec: ProductionSpec, first: ProductionSpec, experiment: Experiment, workers: int,
    release: str,
) -> Produce:  # fmt: skip
    from beamwright.agents.loop import Produce
    from beamwright.core.errors import UsageError

    if spec.experiment != first.experiment or spec.name == first.name:
        message = f"production {spec.name} of {spec.experiment} cannot run beside {first.name}"
        raise UsageError(message, hint="name another production of the same experiment")
    given = experiment.deliveries(spec.deliveries) if spec.deliveries else []
    return Produce(workspace, spec, experiment, workers, list(given), release=release, tell=say)


def finish(
    workspace: Workspace,
    spec: ProductionSpec,
    experiment: Experiment,
    *,
    workers: int = 1,
    release: str = "",
    deliveries: list[Any] | None = None,
    beside: Sequence[ProductionSpec] = (),
    as_json: bool = False,
) -> dict[str, Any]:
    """Run a production to its end, write its report and print the account of it; return the document."""
    from beamwright.agents.loop import Produce
    from beamwright.cli.live import Watch
    from beamwright.cli.report import compile_document, write_html
    from beamwright.report import terminal

    given = (
        experiment.deliveries(spec.deliveries) if deliveries is None and spec.deliveries else deliveries or []
    )
    try:
        with Watch(workspace.db, spec.name) as watch:
            others = [_beside(workspace, one, spec, experiment, workers, release) for one in beside]
            made = Produce(
                workspace, spec, experiment, workers, list(given), watch.turn, release=release, tell=say
            )
            replace(made, beside=others).run()
        watch.show()
        document = compile_document(workspace, spec.name)
        path = write_html(workspace, document)
    finally:
        workspace.db.close()
    if as_json:
        click.echo(dumps(document))
    else:
        for line in terminal.lines(document):
            click.echo(line)
        click.echo(f"\nreport  {path}")
    summary = document["summary"]
    counts = f"{summary['units_ok']} units, {summary['collections']} collections"
    say(f"{spec.name}: {counts}, {summary['wall_s']:.1f} s")
    return document
