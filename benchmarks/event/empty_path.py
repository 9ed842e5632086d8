"""Modules that do nothing: what the loop takes for each call of a module, timing and error fences on."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from _memory import RUN, MemoryReader, cpu_seconds
from harness import Figure, arguments, report

from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.loop import run_path
from beamwright.event.module import Module
from beamwright.event.path import Path as Steps

BENCH = "event/empty_path"
MODULES = 20


class Empty(Module):
    """Does nothing."""

    def process(self, batch: Batch) -> None: ...


def passed(n: int, batch_events: int, modules: int) -> float:
    """Return the CPU seconds of one pass, from the first to the last batch."""
    reader = MemoryReader(n)
    steps = Steps("empty", "event", [Empty() for _ in range(modules)], [])
    return cpu_seconds(
        lambda: run_path(steps, reader, RUN, banks=BankSet(), batch_events=batch_events, batch_bytes=1 << 30)
    )


def per_call(batches: int, batch_events: int, repeat: int) -> Figure:
    """Return the microseconds by which a pass grows with each call of a module."""
    n = batches * batch_events
    passed(n, batch_events, MODULES)
    grown = [passed(n, batch_events, MODULES) - passed(n, batch_events, 0) for _ in range(repeat)]
    ours = statistics.median(grown) / batches / MODULES * 1e6
    return Figure(BENCH, f"call of a module, {batch_events} events", n, ours, None, "", "µs", None, None)


def main() -> None:
    """Measure at N and 10 N batches."""
    options = arguments(__doc__, 100)
    figures = [
        per_call(batches, size, options.repeat)
        for batches in (options.events, 10 * options.events)
        for size in (1_000, 20_000)
    ]
    report(figures, options.json)


if __name__ == "__main__":
    main()
