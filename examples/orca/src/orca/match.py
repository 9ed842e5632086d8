"""Find the triggered events that the software trigger has found too: same frame, overlapping hit times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orca.jagged import Array, Ints, Table

SLACK_NS = 500.0


@dataclass(frozen=True)
class Spans:
    """When and where events are: series and run in one number per run, frame, first and last hit (ns)."""

    run: Array
    frame: Array
    first: Array
    last: Array

    def __len__(self) -> int:
        return len(self.frame)


def spans(run: Array, frame: Array, hits: Table) -> Spans:
    """Take the time spans of events from their hits (column t, or tdc)."""
    time = hits.columns.get("t", hits.columns.get("tdc"))
    first, last = np.full(len(hits), np.inf), np.full(len(hits), -np.inf)
    values = np.asarray(time, np.float64)
    np.minimum.at(first, hits.owner, values)
    np.maximum.at(last, hits.owner, values)
    return Spans(run, frame, first, last)


def matches(found: Spans, daq: Spans, slack: float = SLACK_NS) -> tuple[Ints, Ints]:
    """Give the pairs (index in found, index in daq) of events that overlap in time within the slack."""
    same = (found.run[:, None] == daq.run) & (found.frame[:, None] == daq.frame)
    overlap = (found.first[:, None] - slack <= daq.last) & (found.last[:, None] + slack >= daq.first)
    i, j = np.nonzero(same & overlap)
    return i, j
