"""Trivial jobs with the full protocol on the local scheduler, results synced, beside peers.

Each job writes one small file, by a shell command; warm runners, by a function. Ours: lease, job directory,
wrapper, validation, checksums, signed report, import, every result durable; ``equal`` says also that a run
that was killed as a whole lost no finished job. Peers: two workers. Ours, Parsl, dask and law without their
start, Snakemake with it; the CPU time is with ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "jobs")]

import _trivial  # noqa: E402
import overhead  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402

from beamwright.production.workspace import Workspace  # noqa: E402
from kill import production  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "beamwright-bench"
PEERS = {"parsl": "parsl", "dask": "distributed", "snakemake": "snakemake", "law": "law"}
MEMORY = Path("/dev/shm")


def make(root: Path, jobs: int) -> Workspace:
    """Make a workspace with so many prepared jobs that read nothing and write one file."""
    production.enlarge(jobs, overhead.SLOTS)
    workspace = Workspace.create(root, production.SETTINGS)
    rows = []
    for number in range(jobs):
        interval = (1, number, 0), (1, number, 1)
        row = production.unit_row("pass", "process", interval, [], (_trivial.STREAM,))
        row["definition"]["streams"][_trivial.STREAM]["file"] = _trivial.FILE
        rows.append(row)
    with workspace.db.begin() as conn:
        production.insert_production(conn)
        production.add_units(conn, "pass", rows)
    return workspace


def ours(place: Path, jobs: int, is_fresh: bool) -> tuple[float, float, bool]:
    """Return jobs per second, the CPU seconds of one, and whether all went well, also when all was killed."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        commands = {"process": ["/bin/sh", "-c", _trivial.SHELL, "sh"], "validate": _trivial.VALIDATE}
        wall, spent, is_well = overhead.run(Path(folder) / "workspace", jobs, is_fresh, make, commands)
        is_well = is_well and not overhead.survives(Path(folder), jobs // 4, is_fresh)
        return jobs / wall, sum(s for name, s in spent.items() if "CPU" in name), is_well


def peer(name: str, jobs: int) -> tuple[float, bool] | None:
    """Return a peer's jobs per second and whether all were done, or None where it cannot be installed."""
    python = _environment(name)
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        argv = [str(python), str(Path(__file__).with_name("_peers.py")), name, str(jobs), folder]
        given = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=given, timeout=900)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        print(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return jobs / float(lines[0][1]), int(lines[0][2]) == jobs


def _environment(name: str) -> Path | None:
    """Return the interpreter of a peer's own environment, made on first use."""
    folder = CACHE / f"jobs-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        argv = [str(python), "-m", "pip", "install", "--quiet", PEERS[name]]
        if subprocess.run(argv, check=False, stderr=subprocess.DEVNULL).returncode:
            print(f"{name} cannot be installed", file=sys.stderr)
            return None
        (folder / "ready").touch()
    return python


def system(folder: Path) -> str:
    """Return the kind of file system of a folder."""
    argv = ["stat", "-f", "-c", "%T", str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def main() -> None:
    options = arguments(__doc__, 1000)
    jobs, figures = options.events, []
    found = {name: peer(name, jobs) for name in PEERS}
    peers = {name: figure for name, figure in found.items() if figure is not None}
    for place in (Path(tempfile.gettempdir()), *([MEMORY] if MEMORY.is_dir() else [])):
        for way, is_fresh in (("warm runners", False), ("a process per job", True)):
            rate, cpu, is_well = ours(place, jobs, is_fresh)
            work = f"{way}, {system(place)}"
            figures.append(_alone(f"{work}: CPU", jobs, 1e3 * cpu, "ms", is_well))
            for name, (theirs, is_theirs) in peers.items():
                common = ("jobs/local", work, jobs, rate, theirs, name, "jobs/s")
                figures.append(Figure(*common, rate / theirs, is_well and is_theirs))
            if not peers:
                figures.append(_alone(work, jobs, rate, "jobs/s", is_well))
    report(figures, options.json)


def _alone(work: str, jobs: int, ours: float, unit: str, is_well: bool) -> Figure:
    return Figure("jobs/local", work, jobs, ours, None, "", unit, None, is_well)


if __name__ == "__main__":
    main()
