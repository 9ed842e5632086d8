"""The importer: looks for the reports of attempts and takes them in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beamwright.production import importing, jobs
from beamwright.production.workspace import Workspace

ACTOR = importing.ACTOR
AT_ONCE = 200
LATE_S = 7 * 86400.0


@dataclass
class Importer:
    """Takes in what has been reported, also by attempts that were lost or killed in the last days."""

    workspace: Workspace
    name: str = ACTOR

    def turn(self) -> int:
        """Take in the reports that are there, a bounded number at a time; return how many were settled."""
        paths = self.decide()
        if not paths:
            return 0
        outcomes = importing.import_reports(self.workspace, paths)
        return sum(outcome.result != "waiting" for outcome in outcomes.values())

    def decide(self) -> list[Path]:
        """Return the reports to take in now, oldest attempt first."""
        since = self.workspace.clock.now() - LATE_S
        with self.workspace.db.read() as conn:
            rows = [row for row in jobs.unreported(conn, since) if row.job_state != "held"]
        places = (jobs.Places(self.workspace.farm(row.farm), row.unit_key, row.nonce) for row in rows)
        found = (place.report for place in places if place.has_report())
        return [path for path, _ in zip(found, range(AT_ONCE), strict=False)]
