"""The time of `beamwright process` on files of ours, from its start to the first event."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import Figure, arguments, report

from dimuon import CACHE, sample

BENCH = "event/start_up"
STEERING = """
import time
from pathlib import Path as File
from beamwright.event.module import Module
from beamwright.event.path import Path

class First(Module):
    reads = ("Muon",)
    def process(self, batch):
        if not File("first").exists():
            File("first").write_text(repr(time.time()))

path = Path("first", "event", [First()], [])
"""


def first_event(file: Path, folder: Path, options: list[str]) -> float:
    """Return the seconds from starting the command to the first call of the module."""
    (folder / "first").unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "beamwright.cli.main",
        "process",
        "steering.py",
        "-i",
        str(file),
        *options,
    ]
    begun = time.time()
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, env=os.environ | {"PYTHONSAFEPATH": "1"}
    )
    return float((folder / "first").read_text()) - begun


def main() -> None:
    """Measure on files of N and 10 N events, with one worker and two."""
    options = arguments(__doc__, 100_000)
    CACHE.mkdir(parents=True, exist_ok=True)
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "steering.py").write_text(STEERING)
        for n in (options.events, 10 * options.events):
            file = sample(CACHE / f"dimuon-{n}.root", n)
            for workers in ("1", "2"):
                rounds = [first_event(file, folder, ["--workers", workers]) for _ in range(options.repeat)]
                what = f"to the first event, --workers {workers}"
                figures.append(Figure(BENCH, what, n, statistics.median(rounds), None, "", "s", None, None))
    report(figures, options.json)


if __name__ == "__main__":
    main()
