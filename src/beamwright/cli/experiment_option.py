"""The option that names an experiment, and which one is meant without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from beamwright.production.experiment import Experiment

experiment_option = click.option(
    "-e", "--experiment", help="The experiment, or module:attribute [default: the only one installed]."
)


def chosen(name: str | None) -> Experiment:
    """Return the experiment of this name, or the only one that is installed.

    Raises: UsageError, UnknownNameError.
    """
    from beamwright.core.errors import UsageError
    from beamwright.production import experiment as experiments

    if name is not None:
        return experiments.load(name)
    known = sorted(experiments.installed())
    if len(known) != 1:
        hint = (
            f"name one with --experiment: {', '.join(known)}"
            if known
            else "install the package of an experiment"
        )
        raise UsageError(f"{len(known)} experiments are installed", hint=hint)
    return experiments.load(known[0])
