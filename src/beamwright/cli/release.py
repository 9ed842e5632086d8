"""``beamwright release``: the software that runs here."""

from __future__ import annotations

import click

from beamwright.cli.common import json_option, write_document


@click.group()
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
