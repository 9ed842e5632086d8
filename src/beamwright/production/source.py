"""A source of deliveries: stands for the detector and drops what it takes into the inbox, each when its
time has come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from beamwright import durable
from beamwright.core.canonical import canonical_json
from beamwright.core.errors import ConfigError
from beamwright.production.chain import has_started
from beamwright.production.experiment import Delivery
from beamwright.production.inputs import delivered
from beamwright.production.tasks import Plan


@dataclass
class Source:
    """Delivers a list of chunks in order; one with ``after`` (``step@series:run:sequence``) waits until
    that step has started on that chunk.
    """

    inbox: Path
    deliveries: list[Delivery]
    name: str = "source"
    _sent: set[tuple[str, str, int, int]] = field(default_factory=set)

    def pending(self, conn: sa.Connection) -> list[Delivery]:
        """Return what is not registered yet and was not dropped by this source."""
        left = [d for d in self.deliveries if _identity(d) not in self._sent]
        return [d for d in left if not delivered(conn, d.series, d.run, d.tier, d.sequence)]

    def turn(self, conn: sa.Connection, plan: Plan) -> int:
        """Drop what is due; return how many deliveries that were."""
        due = [d for d in self.pending(conn) if not d.after or _is_due(conn, plan, d.after)]
        for delivery in due:
            drop(self.inbox, delivery)
            self._sent.add(_identity(delivery))
        return len(due)


def drop(inbox: Path, delivery: Delivery) -> Path:
    """Put a delivery into an inbox, atomically; the same delivery twice is one."""
    name = f"{delivery.series}-{delivery.run:08d}-{delivery.tier}-{delivery.sequence:04d}.json"
    durable.replace(inbox / name, canonical_json(delivery.document()))
    return inbox / name


def _identity(delivery: Delivery) -> tuple[str, str, int, int]:
    return delivery.series, delivery.tier, delivery.run, delivery.sequence


def _is_due(conn: sa.Connection, plan: Plan, after: str) -> bool:
    try:
        step, place = after.split("@")
        series, run, sequence = place.split(":")
        task = plan.tasks[step]
        return has_started(conn, task.id, series, int(run), int(sequence))
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"a delivery waits for {after!r}",
            hint="write step@series:run:sequence, the step being a calibrate step",
        ) from error
