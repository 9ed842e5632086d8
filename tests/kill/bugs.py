"""Bugs to plant: the harness must find each of them, or it proves nothing."""

from __future__ import annotations

from typing import Any

from beamwright.db import history, schema
from beamwright.production import failing, importing, registration


def plant(name: str) -> None:
    """Make this process do something wrong."""
    if name:
        {"early": _finish_early, "optimist": _take_vanished_for_done}[name]()


def _finish_early() -> None:
    """Register the outputs of accepted attempts in a second transaction."""
    register, import_reports = registration.register, importing.import_reports
    put_off: list[tuple[Any, ...]] = []

    def later(conn: Any, *arguments: Any) -> None:
        put_off.append(arguments)

    def in_two_steps(workspace: Any, paths: Any) -> Any:
        outcomes = import_reports(workspace, paths)
        with workspace.db.begin() as conn:
            while put_off:
                register(conn, *put_off.pop(0))
        return outcomes

    registration.register = later
    importing.import_reports = in_two_steps


def _take_vanished_for_done() -> None:
    """Take a job that vanished from the batch system for one that went well."""

    def lose(conn: Any, rows: Any, *_: Any, now: float, **__: Any) -> None:
        values: dict[str, Any] = {"actor": "bug", "at": now}
        for row in rows:
            history.move(conn, schema.attempt, row.id, row.state, "lost", ended=now, **values)
            history.move(conn, schema.job, row.job_id, row.job_state, "ok", **values)

    failing.lose = lose
