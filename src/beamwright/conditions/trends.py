"""Constants over intervals: one number per array of a payload, and a line that shows how they move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.errors import UsageError
from beamwright.db.engine import batched

BARS = "▁▂▃▄▅▆▇█"
MISSING = "·"


def trends(conn: sa.Connection, role: str, series: str | None = None) -> list[dict[str, Any]]:
    """Return the newest intervals of a tag (or the role of one) in key order, with the mean of each array.

    Raises: UnknownNameError, ConditionsError where several tags have the role.
    """
    name = tags.tag_of(conn, role)
    held = [v for v in tags.intervals(conn, name) if series in (None, v.interval.series)]
    means = {payload_id: _means(conn, payload_id) for payload_id in {v.payload_id for v in held}}
    return [
        {
            "tag": name, "interval": str(v.interval), "origin": v.origin, "payload": v.payload_id,
            "reason": v.reason, "values": means[v.payload_id],
        }
        for v in held
    ]  # fmt: skip


def summaries(conn: sa.Connection, payload_ids: Iterable[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean and rms of each numeric array, by payload; payloads of other kinds are left out."""
    kinds = tags.kinds_of(conn, payload_ids)
    ids = [one for one, kind in kinds.items() if kind == "arrays"]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for some in batched(ids):
        for one, payload in tags.get_payloads(conn, some).items():
            found[one] = {
                name: {
                    "mean": float(values.mean()),
                    "rms": float(np.sqrt(np.mean(np.square(values, dtype=float)))),
                }
                for name, values in _finite(payload).items()
            }
    return found


def sparkline(values: Sequence[float | None]) -> str:
    """Draw numbers as a line of bars between the smallest and the largest; what is missing is a dot."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known:
        return MISSING * len(values)
    low, width = min(known), max(known) - min(known)
    return "".join(_bar(value, low, width) for value in values)


def _bar(value: float | None, low: float, width: float) -> str:
    if value is None or not np.isfinite(value):
        return MISSING
    return BARS[round((value - low) / width * (len(BARS) - 1)) if width else len(BARS) // 2]


def _means(conn: sa.Connection, payload_id: str) -> dict[str, float]:
    """Return the mean over what is finite in each numeric array."""
    payload = tags.get_payload(conn, payload_id)
    if payload.kind != "arrays":
        raise UsageError(
            f"payload {payload_id[:12]} is of kind {payload.kind}",
            hint="only constants in arrays have values",
        )
    return {name: float(values.mean()) for name, values in _finite(payload).items()}


def _finite(payload: Payload) -> dict[str, Any]:
    """Return what is finite in each numeric array that has anything finite."""
    numbers = {name: array for name, array in payload.unpack()[0].items() if array.dtype.kind in "iuf"}
    finite = {name: array[np.isfinite(array)] for name, array in numbers.items()}
    return {name: values for name, values in finite.items() if values.size}
