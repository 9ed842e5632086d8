"""Which constants a unit of work applied, which units applied given constants, and who fitted them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.core.errors import BeamwrightError
from beamwright.core.runs import Interval
from beamwright.db import schema

Applied = dict[str, list[str]]

PAGE = 5000
_VERSIONS = 200


class Constants:
    """Answers from the tags as they were: the version of the global tag whose hash the unit wrote down."""

    def __init__(self, conn: sa.Connection) -> None:
        self.conn = conn

    def of(self, unit_ids: Iterable[int]) -> dict[int, Applied]:
        """Return the payloads that units applied, by role; nothing for a unit whose tags say otherwise."""
        wanted, table = list(unit_ids), schema.unit
        found: dict[int, Applied] = {}
        for start in range(0, len(wanted), PAGE):
            part = table.c.id.in_(wanted[start : start + PAGE])
            for row in self.conn.execute(sa.select(table).where(part)).all():
                found[row.id] = self._of_unit(row)
        return found

    def appliers(self, payload_id: str) -> list[int]:
        """Return the units that applied a payload, or started a fit from it."""
        found = {
            link.collect_unit_id
            for link in self._links
            if link.collect_unit_id is not None and payload_id in (link.start or {}).values()
        }
        candidates = [row for row in self._candidates(payload_id) if row.id not in found]
        found |= {
            row.id for row in candidates if any(payload_id in ids for ids in self._of_unit(row).values())
        }
        return sorted(found)

    def fitted_by(self, payload_id: str) -> list[int]:
        """Return the units whose fit gave a payload."""
        return sorted(
            {
                link.fit_unit_id
                for link in self._links
                if link.fit_unit_id is not None and payload_id in (link.result or {}).values()
            }
        )

    def given_by(self, unit_id: int) -> list[str]:
        """Return the payloads that a unit's fit gave."""
        found = {
            payload
            for link in self._links
            if link.fit_unit_id == unit_id
            for payload in (link.result or {}).values()
        }
        return sorted(str(payload) for payload in found)

    @cached_property
    def _links(self) -> list[Any]:
        table = schema.chain_link
        columns = (table.c.start, table.c.result, table.c.collect_unit_id, table.c.fit_unit_id)
        return list(self.conn.execute(sa.select(*columns)))

    def _of_unit(self, row: Any) -> Applied:
        reads, global_tag = row.definition.get("reads") or [], row.definition.get("global_tag")
        if not reads or not global_tag:
            return {}
        started = next((link.start for link in self._links if link.collect_unit_id == row.id), None) or {}
        others = [role for role in reads if role not in started]
        found: Applied = {role: [payload] for role, payload in started.items() if role in reads}
        for piece in self._resolved(row, global_tag, others, is_whole=not started):
            ids = found.setdefault(piece[0], [])
            if piece[2] not in ids:
                ids.append(piece[2])
        return found

    def _resolved(self, row: Any, global_tag: str, reads: list[str], is_whole: bool) -> list[Any]:
        """Return what the roles resolved to when the unit was made: as its hash says."""
        interval = _interval(row)
        try:
            newest = tags.resolve(self.conn, global_tag, reads, interval)
            if not is_whole or newest.hash == row.resolved_hash:
                return list(newest.pieces)
            for version in self._versions(global_tag):
                found = tags.resolve(self.conn, global_tag, reads, interval, version)
                if found.hash == row.resolved_hash:
                    return list(found.pieces)
        except BeamwrightError:
            return []  # the tags that it names are not here
        return []

    def _versions(self, global_tag: str) -> list[int]:
        table, member = schema.global_tag, schema.global_tag_member
        chosen = sa.select(member.c.version).join(table).where(table.c.name == global_tag).distinct()
        return list(self.conn.execute(chosen.order_by(member.c.version.desc()).limit(_VERSIONS)).scalars())

    def _candidates(self, payload_id: str) -> list[Any]:
        """Return the units in the intervals in which a payload holds or held, whose tag has it."""
        iov, tag, unit = schema.iov, schema.tag, schema.unit
        held = sa.select(iov, tag.c.name.label("tag")).join(tag, iov.c.tag_id == tag.c.id)
        found: dict[int, Any] = {}
        for row in self.conn.execute(held.where(iov.c.payload_id == payload_id)).all():
            mine = sa.select(unit).where(
                unit.c.series == row.series,
                unit.c.first_run <= row.last_run,
                unit.c.last_run >= row.first_run,
            )
            for one in self.conn.execute(mine):
                global_tag, _, role = row.tag.rpartition("/")
                names = one.definition.get("global_tag"), one.definition.get("reads") or []
                if names[0] == global_tag and role in names[1]:
                    found[one.id] = one
        return list(found.values())


def _interval(row: Any) -> Interval:
    first = (row.first_run, row.first_section, row.first_event)
    return Interval(row.series, first, (row.last_run, row.last_section, row.last_event))
