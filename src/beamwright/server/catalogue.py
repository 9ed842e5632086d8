"""The catalogue over HTTP, in the language of the command line; read-only."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from beamwright.catalog import asking
from beamwright.catalog.asking import Question
from beamwright.catalog.finding import find_datasets
from beamwright.catalog.lineage import Direction, trace
from beamwright.catalog.unknown import unknown
from beamwright.core.errors import UnknownNameError
from beamwright.production.explain import resolve
from beamwright.production.workspace import Workspace

Row = dict[str, Any]
LIMIT, SECONDS, MOST = 10_000, 10.0, 2000
SUBJECTS = {"runs": "run", "files": "file", "collections": "collection", "datasets": "collection"}
DIRECTIONS: dict[str, Direction] = {"ancestors": "ancestors", "descendants": "descendants"}


def add_pages(app: FastAPI, workspace: Workspace) -> None:
    """Add the pages that ask the catalogue."""

    @app.get("/catalogue/{subject}.json")
    def catalogue(
        subject: str,
        where: str | None = None,
        as_of: str | None = None,
        limit: int = LIMIT,
        explain: bool = False,
    ) -> JSONResponse:
        """List runs, files, collections or datasets; with ``explain`` say how the database finds them."""
        return JSONResponse(_asked(workspace, subject, where, as_of, limit, explain))

    @app.get("/lineage/{direction}/{thing:path}")
    def lineage(direction: str, thing: str) -> JSONResponse:
        """Show what a thing was made from (``ancestors``), or what was made from it (``descendants``)."""
        if direction not in DIRECTIONS:
            raise UnknownNameError("direction", direction, DIRECTIONS)
        with workspace.db.read() as conn:
            found = resolve(conn, thing)
            graph = trace(conn, (found.kind, found.id), DIRECTIONS[direction], MOST)
            return JSONResponse(graph.document())


def _asked(
    workspace: Workspace, subject: str, where: str | None, as_of: str | None, limit: int, explain: bool
) -> Row:
    if subject not in SUBJECTS:
        raise UnknownNameError("list", subject, SUBJECTS)
    most = max(1, min(limit, LIMIT))
    question = Question.of(SUBJECTS[subject], where, as_of, limit=most, seconds=SECONDS)
    with workspace.db.read() as conn:
        if explain:
            return asking.explain(conn, question)
        is_dataset = subject == "datasets"
        rows = find_datasets(conn, question) if is_dataset else list(asking.ask(conn, question))
        told = [] if rows else unknown(conn, question)
        return {subject: rows, "unknown": told} if told else {subject: rows}
