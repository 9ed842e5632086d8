"""Hypothesis strategies for keys, intervals and payloads (needs the package ``hypothesis``).

Positions come from a few edges, so that intervals touch, overlap and nest often; ``probes`` lists positions
around all edges: two sets of such intervals that agree on every probe agree everywhere that tests look.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import strategies as st

from beamwright.conditions.payload import Payload
from beamwright.core.runs import EVENT_MAX, SECTION_MAX, EventKey, Interval, Position

_SECTIONS = (0, 1, 2, SECTION_MAX)
_EVENTS = (0, 1, 2, EVENT_MAX)


def positions(runs: int = 4) -> st.SearchStrategy[Position]:
    """Return positions of the first ``runs`` runs, at the edges of sections and events."""
    return st.tuples(st.integers(0, runs - 1), st.sampled_from(_SECTIONS), st.sampled_from(_EVENTS))


def keys(series: str = "A", runs: int = 4) -> st.SearchStrategy[EventKey]:
    """Return event keys of a series."""
    return positions(runs).map(lambda p: EventKey(series, *p))


def intervals(series: str = "A", runs: int = 4) -> st.SearchStrategy[Interval]:
    """Return closed intervals of a series: whole runs, whole sections, or any."""
    ends = st.tuples(positions(runs), positions(runs)).map(sorted)
    anything = ends.map(lambda e: Interval(series, e[0], e[1]))
    numbers = st.tuples(st.integers(0, runs - 1), st.integers(0, runs - 1)).map(sorted)
    return st.one_of(anything, numbers.map(lambda n: Interval.runs(series, n[0], n[1])))


def payloads(most: int = 4) -> st.SearchStrategy[Payload]:
    """Return one of a few payloads of kind ``arrays``, so that equal ones meet."""
    return st.integers(0, most - 1).map(lambda n: Payload.arrays({"value": np.array([float(n)])}))


def probes(runs: int = 4) -> list[Position]:
    """Return the positions at, just before and just after every edge."""
    sections = (0, 1, 2, 3, SECTION_MAX - 1, SECTION_MAX)
    events = (0, 1, 2, 3, EVENT_MAX - 1, EVENT_MAX)
    return list(product(range(runs), sections, events))
