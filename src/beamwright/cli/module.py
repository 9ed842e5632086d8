"""``beamwright module``: modules, and the paths that they stand in."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import Columns, Noun, json_option, write_document, write_rows
from beamwright.cli.experiment_option import chosen, experiment_option
from beamwright.core.errors import UnknownNameError

if TYPE_CHECKING:
    from beamwright.event.module import Module

Row = dict[str, Any]
steering_option = click.option(
    "--steering",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The modules of the path in this steering file, with the values it gives them.",
)


@click.group(cls=Noun)
def module() -> None:
    """Modules and the paths that they stand in."""


@module.command("ls")
@experiment_option
@steering_option
@json_option
def ls(experiment: str | None, steering: Path | None, as_json: bool) -> None:
    """List the modules of an experiment's paths, or of a steering file, in their order."""
    columns: Columns = {
        "path": "path", "module": "name", "reads": "reads", "writes": "writes", "parameters": _settings,
        "what": "doc",
    }  # fmt: skip
    write_rows(_modules(experiment, steering), columns, as_json)


@module.command("show")
@click.argument("name")
@experiment_option
@steering_option
@json_option
def show(name: str, experiment: str | None, steering: Path | None, as_json: bool) -> None:
    """Show a module: the banks and conditions it reads, what it writes, its parameters with their values."""
    rows = _modules(experiment, steering)
    found = [row for row in rows if row["name"] == name]
    if not found:
        raise UnknownNameError("module", name, {row["name"] for row in rows})
    document = {key: value for key, value in found[0].items() if key != "path"}
    write_document(document | {"paths": sorted({row["path"] for row in found})}, as_json)


def _modules(experiment: str | None, steering: Path | None) -> list[Row]:
    if steering is None:
        paths = {name: make() for name, make in sorted(chosen(experiment).paths.items())}
    else:
        from beamwright.cli.steering import load_path

        path = load_path(steering)
        paths = {path.name: path}
    return [
        {"path": name} | _module(step.name, step.module)
        for name, path in paths.items()
        for step in path.steps
    ]


def _settings(row: Row) -> list[str]:
    return [f"{p['name']}={p['value']} {p['unit']}".strip() for p in row["parameters"]]


def _module(name: str, found: Module) -> Row:
    parameters = [
        {
            "name": key, "default": parameter.default, "value": getattr(found, key), "unit": parameter.unit,
            "doc": parameter.doc,
        }
        for key, parameter in found.parameters().items()
    ]  # fmt: skip
    doc = (inspect.getdoc(type(found)) or "").partition("\n")[0]
    banks = {"reads": list(found.reads), "writes": list(found.writes)}
    return {"name": name, "doc": doc} | banks | {"parameters": parameters}
