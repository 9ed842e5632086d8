"""The monitor: shows the histograms of runs while their jobs run, from what attempts leave as they beat."""

from __future__ import annotations

from dataclasses import dataclass, field

from beamwright.production import live
from beamwright.production.workspace import Workspace


@dataclass
class Monitor:
    """Merges the latest partial histograms of one production's attempts into one file."""

    workspace: Workspace
    production_id: int
    production: str
    name: str = "monitor"
    _next: float = 0.0
    _seen: dict[int, int] = field(default_factory=dict)

    def turn(self) -> int:
        """Look a few times in a heartbeat; what is shown is no work that keeps a production going."""
        now, pause = self.workspace.clock.now(), self.workspace.settings.limits.heartbeat_s / 2
        if self._next - pause < now < self._next:  # a clock that was set back does not stop it
            return 0
        self._next = now + pause
        with self.workspace.db.read() as conn:
            flights = live.flights(conn, self.production_id)
            seen = {flight.attempt_id: live.stamp(flight) for flight in flights}
            if seen == self._seen:
                return 0
            found = live.gather(conn, self.production_id) if any(seen.values()) else {}
        if found or any(self._seen.values()):
            live.show(self.workspace, self.production, found)
        self._seen = seen
        return 0
