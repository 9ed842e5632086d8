"""A software trigger: find events in time slices by local coincidences that are causally connected.

A coincidence is two or more PMTs of a DOM hit within 10 ns. An event is at least five DOMs with coincidences
within 800 ns, each pair of them close enough in time for light of one muon to have reached both. Overlapping
events are one. Each slice is searched by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from orca.jagged import Array, Floats, Ints, Table, offsets_of
from orca.trackfit import LIGHT, N_GROUP

COINCIDENCE_NS = 10.0
SPAN_NS = 800.0
MIN_DOMS = 5
MARGIN_NS = 20.0
"""Slack of the causality condition."""
SNAPSHOT_NS = 500.0
"""Hits this long before the first and after the last coincidence go with the event."""


@dataclass(frozen=True)
class Found:
    """Events found: slice and number within it, rows of the hits that made them and of all hits near."""

    slice: Ints
    number: Ints
    triggered: Table
    """column row: into the hits given"""
    snapshot: Table
    """column row"""

    def __len__(self) -> int:
        return len(self.slice)


class Coincidences(NamedTuple):
    """Coincidences of one slice in time order; the hits of each are rows[first : first + size]."""

    time: Floats
    position: Floats
    dom: Ints
    first: Ints
    size: Ints
    rows: Ints


def find_events(hits: Table) -> Found:
    """Search slices for events; columns dom (row number), channel, x, y, z (m), t (ns)."""
    slices, numbers, triggered, snapshot = [], [], [], []
    for index in range(len(hits)):
        start = int(hits.offsets[index])
        hit = hits.event(index)
        coincident = coincidences(hit)
        for number, members in enumerate(_search(coincident)):
            rows = np.sort(np.concatenate([_rows(coincident, m) for m in members]))
            slices.append(index)
            numbers.append(number)
            triggered.append(start + rows)
            snapshot.append(start + _near(hit["t"], rows))
    return Found(np.array(slices, np.int64), np.array(numbers, np.int64), _table(triggered), _table(snapshot))


def coincidences(hit: dict[str, Array]) -> Coincidences:
    """Find the local coincidences among the hits of one slice."""
    order = np.lexsort((hit["channel"], hit["t"], hit["dom"]))
    time, dom, channel = hit["t"][order], hit["dom"][order], hit["channel"][order]
    joined = (np.diff(time) <= COINCIDENCE_NS) & (np.diff(dom) == 0)
    first = np.flatnonzero(np.concatenate([[True], ~joined])[: len(order)])
    size = np.diff(first, append=len(order))
    changes = offsets_of(np.append(joined & (np.diff(channel) != 0), False)[: len(order)].astype(np.int64))
    several = changes[first + size - 1] > changes[first]
    first, size = first[several], size[several]
    by_time = np.lexsort((dom[first], time[first]))
    first, size = first[by_time], size[by_time]
    rows = order[first]
    position = np.stack([hit[name][rows] for name in ("x", "y", "z")], axis=1)
    return Coincidences(time[first], position, dom[first], first, size, order)


def _search(found: Coincidences) -> list[Ints]:
    """Find causally connected groups of coincidences; groups that share a member become one."""
    reach = np.searchsorted(found.time, found.time + SPAN_NS, side="right")
    events: list[set[int]] = []
    for seed in np.flatnonzero(reach - np.arange(len(reach)) >= MIN_DOMS):
        group = _connected(found, int(seed), int(reach[seed]))
        if len(np.unique(found.dom[group])) < MIN_DOMS:
            continue
        if events and events[-1].intersection(group):
            events[-1].update(group)
        else:
            events.append(set(group))
    return [np.array(sorted(event), np.int64) for event in events]


def _connected(found: Coincidences, seed: int, end: int) -> list[int]:
    """Collect from a seed on, in time order, what is causally connected to all collected before."""
    group = [seed]
    for candidate in range(seed + 1, end):
        gap = found.time[candidate] - found.time[group]
        apart = np.linalg.norm(found.position[candidate] - found.position[group], axis=1)
        if np.all(gap <= apart * N_GROUP / LIGHT + MARGIN_NS):
            group.append(candidate)
    return group


def _rows(found: Coincidences, member: int) -> Ints:
    return found.rows[found.first[member] : found.first[member] + found.size[member]]


def _near(time: Floats, rows: Ints) -> Ints:
    low, high = time[rows].min() - SNAPSHOT_NS, time[rows].max() + SNAPSHOT_NS
    return np.flatnonzero((time >= low) & (time <= high))


def _table(parts: list[Ints]) -> Table:
    rows = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return Table({"row": rows}, offsets_of(np.array([len(part) for part in parts], np.int64)))
