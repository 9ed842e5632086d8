"""``beamwright report``: the report of a production, as HTML or as a document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import dumps, open_workspace, reading, say

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.production.workspace import Workspace


@click.command()
@click.argument("production", required=False)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the HTML."
)
@click.option(
    "--schema", is_flag=True, help="Write the JSON schema of the document, volatile members marked."
)
@reading
def report(
    production: str | None, output: Path | None, schema: bool, folder: Path | None, as_json: bool
) -> None:
    """Write the report of a production."""
    if schema:
        from beamwright.report.schema import schema as described

        click.echo(dumps(described()))
        return
    workspace = open_workspace(folder)
    document = compile_document(workspace, production)
    if output is not None or not as_json:
        path = write_html(workspace, document, output)
        say("report:") if as_json else None
        click.echo(path, err=as_json)
    if as_json:
        click.echo(dumps(document))


def compile_document(workspace: Workspace, production: str | None) -> dict[str, Any]:
    """Build the document of a production with the figures of its experiment."""
    from beamwright.db import views
    from beamwright.report import document

    with workspace.db.read() as conn:
        row = views.find_production(conn, production)
        figures = _figures(conn, row)
        told: dict[str, Any] = {"goals": workspace.settings.goals, "now": workspace.clock.now()}
        return document.build(conn, row, figures=figures, workspace=workspace.root, **told)


def _figures(conn: sa.Connection, production: dict[str, Any]) -> list[dict[str, Any]]:
    from beamwright.production import experiment as experiments
    from beamwright.production.access import Access
    from beamwright.production.figures import Figures
    from beamwright.quality import verdicts
    from beamwright.quality.references import load_references
    from beamwright.report.judged import add_judged

    experiment = experiments.load(production["experiment"])
    access = Access(conn, production["name"])
    made = experiment.figures(access) if experiment.figures else Figures()
    put = verdicts.references_of(conn, experiment.name)
    add_judged(made, access, put or load_references(experiment.references))
    return made.document()


def write_html(workspace: Workspace, document: dict[str, Any], output: Path | None = None) -> Path:
    """Write the HTML report, enter its path into the document and return it."""
    from beamwright.durable import replace
    from beamwright.report import html

    path = output or workspace.root / "reports" / f"{document['production']['name']}.html"
    document["report"] = str(path)
    replace(path, html.page(document).encode())
    return path
