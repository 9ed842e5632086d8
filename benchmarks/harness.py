"""What the benchmarks share: side-by-side timing, and one table or one JSON line per figure."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One figure; ``ratio`` above 1 means that ours is better, whatever the unit."""

    bench: str
    work: str
    n: int
    ours: float
    peer: float | None
    peer_name: str
    unit: str
    ratio: float | None
    equal: bool | None


def arguments(doc: str | None, events: int) -> argparse.Namespace:
    """Read the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--events", type=int, default=events, help="size of the work")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each side; the median counts")
    parser.add_argument("--json", action="store_true", help="one JSON line per figure")
    return parser.parse_args()


def side_by_side(sides: Sequence[Callable[[], float]], repeat: int) -> list[float]:
    """Return the median of each side's own figure, the sides taking turns."""
    rounds = [[side() for side in sides] for _ in range(repeat)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does the work and tells the seconds it took."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return timed


def cpu_seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does the work and tells the CPU seconds that this process spent on it."""

    def timed() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return timed


def child_cpu(command: Sequence[str], environment: dict[str, str]) -> Callable[[], float]:
    """Return a function that runs a command and tells the CPU seconds it used."""

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, env=environment, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


def report(figures: Sequence[Figure], as_json: bool) -> None:
    """Print the figures."""
    if as_json:
        for figure in figures:
            print(json.dumps(asdict(figure)))
        return
    print(f"{'work':44} {'n':>9} {'ours':>10} {'peer':>10} {'unit':8} {'ratio':>6} {'equal':6} peer")
    for f in figures:
        peer = f"{f.peer:10.2f}" if f.peer is not None else f"{'-':>10}"
        ratio = f"{f.ratio:6.2f}" if f.ratio is not None else f"{'-':>6}"
        equal = {True: "yes", False: "NO", None: "-"}[f.equal]
        print(f"{f.work:44} {f.n:9} {f.ours:10.2f} {peer} {f.unit:8} {ratio} {equal:6} {f.peer_name}")
