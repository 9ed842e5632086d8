"""Merge files without recompression: ours against ROOT's hadd, in CPU seconds of whole processes."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import Figure, arguments, child_cpu, report, side_by_side
from rntuple_io import read, sample, write

from beamwright.event.rntuple import verify

BENCH = "event/merge"
FILES, TINY, TINY_EVENTS = 20, 1000, 25
START = "import beamwright.event.rntuple"
MERGE = (
    "import sys\n"
    "from pathlib import Path\n"
    "from beamwright.event.rntuple import merge_files\n"
    "with open(sys.argv[1], 'xb', buffering=0) as out:\n"
    "    merge_files(sorted(map(str, Path(sys.argv[2]).iterdir())), out, {})\n"
)
OWN = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as the command `beamwright merge` sets it


def fresh(path: Path, run):
    """Return a side that writes into a new file: truncating an old one would cost its removal."""

    def side() -> float:
        path.unlink(missing_ok=True)
        return run()

    return side


def peers() -> tuple[list[str], dict[str, str]] | None:
    """Return the command of hadd and its environment."""
    root = importlib.util.find_spec("ROOT")
    if root is None or root.origin is None:
        return None
    home = Path(root.origin).parent
    return [str(home / "bin" / "hadd"), "-f"], os.environ | {
        "ROOTSYS": str(home),
        "LD_LIBRARY_PATH": str(home / "lib"),
    }


def merging(folder: Path, files: int, events: int, repeat: int, modes: dict[str, list[str]]) -> list[Figure]:
    """Compare one merge of so many files of so many events with hadd in these modes.

    hadd may open all files at once: else it merges in rounds, and reads its own output again in each.
    """
    parts, ours, theirs = folder / "in", folder / "ours.root", folder / "hadd.root"
    parts.mkdir()
    for number in range(files):
        write(parts / f"{number:04}.root", sample(events, number))
    names = [str(path) for path in sorted(parts.iterdir())]
    sides = [
        fresh(ours, child_cpu([sys.executable, "-c", MERGE, str(ours), str(parts)], OWN)),
        child_cpu([sys.executable, "-c", START], OWN),
    ]
    found = peers()
    chosen = modes if found else {}
    if found:
        command, environment = found
        for mode in chosen.values():
            whole = [*command, *mode, "-n", str(files + 10), str(theirs), *names]
            sides.append(fresh(theirs, child_cpu(whole, environment)))
    spent, start, *others = side_by_side(sides, repeat)
    n, work = files * events, f"merge {files} files, CPU with start-up"
    figures = [Figure(BENCH, "start-up of ours alone, CPU", n, start, None, "", "s", None, None)]
    if not found:
        return [*figures, Figure(BENCH, work, n, spent, None, "hadd absent", "s", None, verify(ours).ok)]
    pairs = zip(read(ours).values(), read(theirs).values(), strict=True)
    equal = verify(ours).ok and all(np.array_equal(a, b) for a, b in pairs)
    for name, peer in zip(chosen, others, strict=True):
        figures.append(Figure(BENCH, work, n, spent, peer, name, "s", peer / spent, equal))
    return figures


def main() -> None:
    """Merge 20 files of 25,000 events each by default, of a tenth of it, and 1,000 tiny ones."""
    options = arguments(__doc__, 50_000)
    both, fast = {"hadd -ff": ["-ff"], "hadd": []}, {"hadd -ff": ["-ff"]}
    figures = []
    cases = [(FILES, options.events // FILES, both), (FILES, 10 * options.events // FILES, both)]
    cases += [(TINY // 10, TINY_EVENTS, fast), (TINY, TINY_EVENTS, fast)]
    for files, events, modes in cases:
        with tempfile.TemporaryDirectory() as name:
            repeat = options.repeat if files < TINY else 1  # hadd takes a minute for it
            figures += merging(Path(name), files, events, repeat, modes)
    report(figures, options.json)


if __name__ == "__main__":
    main()
