"""Ten modules that work event by event and do nothing, against a bare loop that calls ten functions."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from _memory import RUN, MemoryReader, cpu_seconds
from harness import Figure, arguments, report

from beamwright.event.banks import BankSet
from beamwright.event.loop import run_path
from beamwright.event.path import Path as Steps
from beamwright.event.perevent import Event, EventModule

BENCH = "event/adaptor"
MODULES = 10


class Empty(EventModule):
    """Does nothing with each event."""

    def event(self, event: Event) -> None: ...


def ours(n: int) -> float:
    """Return the CPU seconds of a pass of ten modules."""
    steps = Steps("empty", "event", [Empty() for _ in range(MODULES)], [])
    reader = MemoryReader(n)
    return cpu_seconds(lambda: run_path(steps, reader, RUN, banks=BankSet()))


def bare(n: int) -> float:
    """Return the CPU seconds of ten calls per event in a plain loop."""
    calls = [Empty().event for _ in range(MODULES)]

    def loop() -> None:
        for number in range(n):
            for call in calls:
                call(number)  # type: ignore[arg-type]

    return cpu_seconds(loop)


def main() -> None:
    """Measure at N and 10 N."""
    options = arguments(__doc__, 100_000)
    figures = []
    for n in (options.events, 10 * options.events):
        rounds = [(ours(n), bare(n)) for _ in range(options.repeat)]
        own, peer = (n / statistics.median(column) / 1e6 for column in zip(*rounds, strict=True))
        figures.append(
            Figure(BENCH, "ten empty modules", n, own, peer, "bare Python loop", "M ev/s", own / peer, None)
        )
    report(figures, options.json)


if __name__ == "__main__":
    main()
