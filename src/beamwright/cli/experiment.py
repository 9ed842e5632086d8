"""``beamwright experiment``: the plug-ins that are installed."""

from __future__ import annotations

import click

from beamwright.cli.common import Noun, json_option, write_document, write_rows


@click.group(cls=Noun)
def experiment() -> None:
    """Experiments that are installed."""


@experiment.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List experiments."""
    from beamwright.production import experiment as experiments

    rows = [{"name": name} for name in sorted(experiments.installed())]
    write_rows(rows, {"experiment": "name"}, as_json)


@experiment.command("show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what an experiment brings: banks, readers, paths, calibrations, productions."""
    from beamwright.production import experiment as experiments

    found = experiments.load(name)
    document = {
        "name": found.name,
        "distributions": list(found.distributions),
        "banks": sorted(found.banks),
        "readers": sorted(found.readers),
        "paths": sorted(found.paths),
        "calibrations": sorted(found.calibrations),
        "productions": {key: str(path) for key, path in sorted(found.productions.items())},
    }
    write_document(document, as_json)
