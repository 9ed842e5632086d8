"""A run with many monitored quantities: read its histograms, judge each against its reference, publish.

The peer does the checks of shapes alone, with the functions of scipy.stats that one would call in a notebook,
histogram by histogram; both must come to the same probabilities. Both sides are one process: CPU time counts,
which does not depend on what else the machine does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

sys.path[:0] = [str(Path(__file__).parents[1])]

from harness import Figure, arguments, report, side_by_side  # noqa: E402

from beamwright.core.histogram import Axis, Histogram, HistogramSet  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402
from beamwright.quality import verdicts  # noqa: E402
from beamwright.quality.checks import Judgement, Reported, judge  # noqa: E402
from beamwright.quality.references import HistogramLimits, References  # noqa: E402

BINS, ENTRIES, EACH = 50, 5000, 7  # quantities checked of each histogram
SHARE = 50  # the peer does one histogram in so many, and is scaled


def expected() -> np.ndarray:
    edges = stats.norm.cdf(np.linspace(-4, 4, BINS + 1))
    return np.diff(edges) / (edges[-1] - edges[0])


def sample(number: int, seed: int) -> HistogramSet:
    """Return histograms of one run."""
    random, axis = np.random.default_rng(seed), Axis(BINS, -4.0, 4.0, "x")
    counts = random.multinomial(ENTRIES, expected(), size=number)
    flow = np.ones((number, 1), np.int64)
    found = HistogramSet()
    for i, row in enumerate(np.hstack([flow, counts, flow])):
        found[f"channel{i}"] = Histogram(f"channel{i}", (axis,), "", row)
    return found


def references(run: HistogramSet) -> References:
    limits = [
        HistogramLimits(
            name=name, subject=f"crate{i // 1000}", entries=100, mean=(-0.2, 0.2), width=(0.8, 1.2),
            outside=0.01, dead=0.9, hot=0.9, p_value=1e-7, kolmogorov=1e-7,
            reference=tuple(h.values.tolist()),
        )
        for i, (name, h) in enumerate(run.items())
    ]  # fmt: skip
    return References(version=1, histogram=tuple(limits))


class Run:
    """A run whose histograms lie in a file, and a database that takes the verdicts."""

    def __init__(self, quantities: int, folder: Path) -> None:
        self.number = -(-quantities // EACH)
        self.file, self.references = folder / f"run{quantities}.bwb", references(sample(self.number, 1))
        self.run = sample(self.number, 2)
        self.file.write_bytes(self.run.to_bytes())
        self.db = Database(folder / f"{quantities}.db")
        self.db.migrate()
        self.judged: list[Judgement] = []
        self.times = 0

    def judge(self) -> None:
        """Do all that the inspector does for a run."""
        self.times += 1
        histograms = HistogramSet.from_bytes(self.file.read_bytes())
        self.judged = judge(self.references, {"reco": Reported(histograms, {})})
        with self.db.begin() as conn:
            verdicts.publish(conn, "A", self.times, "dst", self.judged, "algorithm v1", 1.0)

    def peer(self) -> dict[str, tuple[float, float]]:
        found = {}
        for limits in self.references.histogram[::SHARE]:
            values, reference = self.run[limits.name].values, np.array(limits.reference)
            whole = values + reference >= 20
            centres = np.arange(BINS)
            samples = [np.repeat(centres, part) for part in (values, reference)]
            with np.errstate(all="ignore"):
                chi2 = stats.chi2_contingency(np.stack([values, reference])[:, whole], correction=False)
            found[limits.name] = (float(chi2.pvalue), float(stats.ks_2samp(*samples, method="asymp").pvalue))
        return found

    def is_equal(self) -> bool:
        """Compare Kolmogorov's probabilities; the peer joins no bins for the other test."""
        checks = {(c.name, c.quantity): c.value for one in self.judged for c in one.checks}
        assert sum(len(one.checks) for one in self.judged) == EACH * self.number
        ours = [checks[name, "kolmogorov"] or 0.0 for name in self.peer()]
        theirs = [p for _, p in self.peer().values()]
        return bool(np.allclose(ours, theirs, atol=0.02))


def cpu(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does the work and tells the CPU seconds it took."""

    def timed() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return timed


def main() -> None:
    options = arguments(__doc__, 120_000)
    figures = []
    for n in (options.events, 10 * options.events):
        with tempfile.TemporaryDirectory() as folder:
            run = Run(n, Path(folder))
            repeat = options.repeat if n == options.events else 1
            ours, share = side_by_side([cpu(run.judge), cpu(run.peer)], repeat)
            peer, equal = share * SHARE, run.is_equal()
            work = "read, judge and publish one run"
            figures.append(
                Figure("quality/check", work, n, ours, peer, "scipy.stats", "s", peer / ours, equal)
            )
            run.db.close()
    report(figures, options.json)


if __name__ == "__main__":
    main()
