"""Tallies: what each hook of each module took: calls, records, time and memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

HOOKS = ("prepare", "compile", "begin_run", "conditions_changed", "process", "end_run")
PREPARE, COMPILE, BEGIN_RUN, CONDITIONS_CHANGED, PROCESS, END_RUN = range(len(HOOKS))
_START_UP = (PREPARE, COMPILE)
_STATM = "/proc/self/statm"
_PAGE = 4096
_MOST_SAMPLES = 512


Call: TypeAlias = tuple[int, int, int, int, int]
"""One call of a hook: the numbers of its step, of the hook, of records, its ns, and the bytes by which the
process grew, -1 where that was not measured."""

_statm: dict[int, int] = {}


def resident_bytes() -> int:
    """Return the memory that this process occupies; 0 where the system does not tell."""
    pid = os.getpid()
    try:
        if pid not in _statm:
            _statm[pid] = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
        return int(os.pread(_statm[pid], 128, 0).split()[1]) * _PAGE
    except OSError:
        return 0


@dataclass
class _Hook:
    """All calls of one hook of one module; some of their times are kept."""

    calls: int = 0
    records: int = 0
    ns: int = 0
    longest: int = 0
    grown: int = 0
    samples: list[int] = field(default_factory=list)
    stride: int = 1

    def add(self, records: int, ns: int, grown: int, samples: bool) -> None:
        if samples and self.calls % self.stride == 0:
            self._keep(ns)
        self.calls += 1
        self.records += records
        self.ns += ns
        if ns > self.longest:
            self.longest = ns
        if grown > self.grown:
            self.grown = grown

    def _keep(self, ns: int) -> None:
        """Keep one time; where there are too many, every other one is dropped."""
        if len(self.samples) == _MOST_SAMPLES:
            self.samples = self.samples[::2]
            self.stride *= 2
        self.samples.append(ns)


class Tally:
    """The calls of all hooks of a path's modules; with ``samples``, single times for a profile."""

    def __init__(self, names: Sequence[str], samples: bool = False) -> None:
        self.names, self.samples = tuple(names), samples
        self._hooks: dict[tuple[int, int], _Hook] = {}

    def add(self, calls: Iterable[Call]) -> None:
        """Take account of calls."""
        for step, hook, records, ns, grown in calls:
            held = self._hooks.get((step, hook))
            if held is None:
                held = self._hooks[step, hook] = _Hook()
            held.add(records, ns, grown, self.samples)

    def modules(self) -> dict[str, dict[str, Any]]:
        """Return for each module its records, the seconds of its hooks, of its start-up, and its memory.

        ``memory`` is the largest growth of the process in one call that was measured, in bytes.
        """
        return {name: self._module(step) for step, name in enumerate(self.names)}

    def _module(self, step: int) -> dict[str, Any]:
        held = {hook: self._hooks.get((step, hook), _Hook()) for hook in range(len(HOOKS))}
        work = held[PROCESS]
        spent = {hook: one.ns * 1e-9 for hook, one in held.items()}
        return {
            "records": work.records, "calls": work.calls, "seconds": spent[PROCESS],
            "hooks_seconds": spent[BEGIN_RUN] + spent[CONDITIONS_CHANGED] + spent[END_RUN],
            "start_up_seconds": sum(spent[hook] for hook in _START_UP), "memory": work.grown,
        }  # fmt: skip

    def profile(self) -> list[dict[str, Any]]:
        """Return a row per module and hook that was called, with the distribution of its times."""
        return [self._row(step, hook, held) for (step, hook), held in sorted(self._hooks.items())]

    def _row(self, step: int, hook: int, held: _Hook) -> dict[str, Any]:
        middle, high = np.percentile(held.samples or [0], (50, 95)) * 1e-3
        return {
            "module": self.names[step], "hook": HOOKS[hook], "calls": held.calls, "records": held.records,
            "seconds": held.ns * 1e-9, "median_us": float(middle), "p95_us": float(high),
            "longest_us": held.longest * 1e-3, "memory": held.grown,
        }  # fmt: skip
