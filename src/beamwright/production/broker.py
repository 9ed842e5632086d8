"""Which farm gets which job: a pure decision over free slots and power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from beamwright.core.settings import Farm


@dataclass(frozen=True)
class Candidate:
    """A prepared job; ``farms`` empty means any."""

    job_id: int
    farms: tuple[str, ...] = ()


def assign(
    jobs: Sequence[Candidate], farms: Mapping[str, Farm], busy: Mapping[str, int]
) -> list[tuple[int, str]]:
    """Return (job, farm) pairs: jobs in the given order, each to the farm with the most free power that may
    take it.
    """
    free = {name: farm.room - busy.get(name, 0) for name, farm in farms.items()}
    pairs = []
    for job in jobs:
        able = [name for name in sorted(free) if free[name] > 0 and (not job.farms or name in job.farms)]
        if not able:
            continue
        best = max(able, key=lambda name: free[name] * farms[name].power)
        free[best] -= 1
        pairs.append((job.job_id, best))
    return pairs
