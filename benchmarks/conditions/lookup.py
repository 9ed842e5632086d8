"""What it costs a job to know the constants of its events: to plan the changes and hand out payloads.

A job has runs of 1,000 events, four roles, and new constants of 100 channels of each role in each run. Beside
it: a bare look-up for every event, by bisection of the starts. CPU time; the goal: below 1 µs per event.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_right
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Figure, arguments, report, side_by_side

from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.runs import Interval
from beamwright.event.plan import ConditionsSource, pieces_of

BENCH = "conditions/lookup"
ROLES = ("Gain", "Noise", "Offset", "Slope")
PER_RUN = 1000


def snapshot_of(runs: int) -> bytes:
    """Return a snapshot with constants of each role for each run."""
    pieces, payloads = [], {}
    for run in range(runs):
        for number, role in enumerate(ROLES):
            payload = Payload.arrays({"value": np.full(100, 10.0 * run + number)})
            payloads[payload.id] = payload
            pieces.append((role, Interval.runs("A", run, run), payload.id))
    return Snapshot("g", pieces, payloads).to_bytes()


def in_job(data: bytes, runs: int) -> tuple[float, list[float]]:
    """Return the microseconds per event, reading the snapshot included, and the first constant by run."""
    start = time.process_time()
    snapshot = Snapshot.from_bytes(data)
    source, found = ConditionsSource(snapshot), []
    for piece in pieces_of(snapshot, ROLES, Interval.runs("A", 0, runs - 1)):
        constants = source(dict(piece.payloads))
        found.append(float(constants["Gain"].arrays["value"][0]))
    return 1e6 * (time.process_time() - start) / (runs * PER_RUN), found


def per_event(data: bytes, runs: int) -> tuple[float, list[float]]:
    """Return the microseconds per event of a look-up for each, and the first constant by run."""
    snapshot = Snapshot.from_bytes(data)
    starts = {role: [i.first[0] for r, i, _ in snapshot if r == role] for role in ROLES}
    held = {role: [snapshot.constants(p)[0]["value"] for r, _, p in snapshot if r == role] for role in ROLES}
    found = []
    start = time.process_time()
    for run in range(runs):
        for _ in range(PER_RUN):
            values = {role: held[role][bisect_right(starts[role], run) - 1] for role in ROLES}
        found.append(float(values["Gain"][0]))
    return 1e6 * (time.process_time() - start) / (runs * PER_RUN), found


def figure(events: int, repeat: int) -> Figure:
    """Look up both ways."""
    runs = events // PER_RUN
    data = snapshot_of(runs)
    same = in_job(data, runs)[1] == per_event(data, min(runs, 50))[1] + in_job(data, runs)[1][50:]
    sides = (lambda: in_job(data, runs)[0], lambda: per_event(data, min(runs, 50))[0])
    ours, peer = side_by_side(sides, repeat)
    work = f"constants of 4 roles, {runs} runs"
    return Figure(BENCH, work, events, ours, peer, "a bisection per event", "µs/event", peer / ours, same)


def main() -> None:
    """Look up at two sizes."""
    options = arguments(__doc__, events=1_000_000)
    report([figure(n, options.repeat) for n in (options.events // 10, options.events)], options.json)


if __name__ == "__main__":
    main()
