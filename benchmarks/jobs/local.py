"""Trivial jobs with the full protocol on the local scheduler, every sync on, beside peers.

Ours: lease, job directory, wrapper, two children, checksums, signed report, import, all durable, with the
start of the runners. Peers (Parsl, dask, Snakemake, law): a shell command per job, two workers, without their
start. Everything of ours is also killed once at a random moment: no job that was ok may be lost. On the file
system of the temporary folder, and in memory.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "jobs")]

import sqlalchemy as sa  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402

from beamwright.db import schema  # noqa: E402
from beamwright.production.workspace import Workspace  # noqa: E402
from kill import production  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "beamwright-bench"
PEERS = {"parsl": "parsl", "dask": "distributed", "snakemake": "snakemake", "law": "law"}
MEMORY = Path("/dev/shm")


def ours(root: Path, jobs: int, is_fresh: bool) -> tuple[float, bool]:
    """Return jobs per second, and whether every job is ok."""
    inner = subprocess.run(_inner(root, jobs, is_fresh), check=True, capture_output=True, text=True)
    told = json.loads(inner.stdout.splitlines()[-1])
    return jobs / told["wall"], told["ok"] == jobs


def _inner(root: Path, jobs: int, is_fresh: bool) -> list[str]:
    return [sys.executable, __file__, "inner", str(root), str(jobs), "fresh" if is_fresh else "warm"]


def inner(root: Path, jobs: int, is_fresh: bool) -> None:
    """Run all jobs of a workspace that are not done; make it when it is new."""
    from beamwright.agents.importer import Importer
    from beamwright.agents.submitter import Submitter
    from beamwright.agents.tracker import Tracker
    from beamwright.batch.local import LocalScheduler

    is_new = not (root / "beamwright.toml").exists()
    production.SECTIONS = jobs * production.UNIT
    workspace = production.make(root) if is_new else Workspace.open(root)
    names = list(workspace.settings.farm)
    farms = {name: LocalScheduler(1, log=root / "logs" / name, fresh=is_fresh) for name in names}
    submitter = Submitter(workspace, farms, production.COMMANDS)
    agents = [submitter, Tracker(workspace, farms), Importer(workspace)]
    start = time.perf_counter()
    while _count(workspace, "ok") < jobs:
        if not sum(agent.turn() for agent in agents):
            farms[names[0]].wait(0.002)
    wall = time.perf_counter() - start
    for farm in farms.values():
        farm.close()
    print(json.dumps({"wall": wall, "ok": _count(workspace, "ok")}))


def _count(workspace: Workspace, state: str) -> int:
    with workspace.db.read() as conn:
        query = sa.select(sa.func.count()).select_from(schema.job).where(schema.job.c.state == state)
        return int(conn.execute(query).scalar_one())


def survives(root: Path, jobs: int, seconds: float) -> bool:
    """Kill all processes at a random moment, go on, and tell whether nothing that was ok is lost or twice."""
    argv = _inner(root, jobs, False)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
    time.sleep(random.uniform(0.2, 0.8) * seconds)
    children = [int(pid) for pid in _descendants(process.pid)]
    for pid in (process.pid, *children):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    before = _accepted(root)
    subprocess.run(argv, check=True, capture_output=True)
    after = _accepted(root)
    kept = before.items() <= after.items()
    return kept and len(after) == jobs and all(len(nonces) == 1 for nonces in after.values())


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _accepted(root: Path) -> dict[int, tuple[str, ...]]:
    """Return the accepted attempts of each job that is ok."""
    if not (root / "beamwright.db").exists():
        return {}
    workspace = Workspace.open(root)
    job, attempt = schema.job, schema.attempt
    query = sa.select(job.c.id, attempt.c.nonce).join(attempt, attempt.c.job_id == job.c.id)
    found: dict[int, tuple[str, ...]] = {}
    with workspace.db.read() as conn:
        for row in conn.execute(query.where(job.c.state == "ok", attempt.c.state == "accepted")):
            found[row.id] = (*found.get(row.id, ()), row.nonce)
    workspace.db.close()
    return found


def peer(name: str, jobs: int) -> tuple[float, bool] | None:
    """Return a peer's jobs per second and whether all were done, or None where it cannot be installed."""
    python = _environment(name)
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        argv = [str(python), str(Path(__file__).with_name("_peers.py")), name, str(jobs), folder]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        print(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return jobs / float(lines[0][1]), int(lines[0][2]) == jobs


def _environment(name: str) -> Path | None:
    folder = CACHE / f"jobs-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        argv = [str(python), "-m", "pip", "install", "--quiet", PEERS[name]]
        if subprocess.run(argv, check=False).returncode:
            return None
        (folder / "ready").touch()
    return python


def system(folder: Path) -> str:
    """Return the kind of file system of a folder."""
    argv = ["stat", "-f", "-c", "%T", str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def main() -> None:
    if sys.argv[1:2] == ["inner"]:
        inner(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "fresh")
        return
    options = arguments(__doc__, 300)
    jobs, figures = options.events, []
    peers = {name: peer(name, jobs) for name in PEERS}
    for place in (Path(tempfile.gettempdir()), *([MEMORY] if MEMORY.is_dir() else [])):
        for way, is_fresh in (("warm", False), ("new process", True)):
            with tempfile.TemporaryDirectory(dir=place) as folder:
                rate, is_well = ours(Path(folder) / "workspace", jobs, is_fresh)
            if not is_fresh:
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    is_well &= survives(Path(folder) / "workspace", jobs, jobs / rate)
            work = f"{way}, {system(place)}"
            beside = {n: f for n, f in peers.items() if f is not None and not is_fresh}
            for name, (theirs, is_theirs) in beside.items():
                common = ("jobs/local", work, jobs, rate, theirs, name, "jobs/s")
                figures.append(Figure(*common, rate / theirs, is_well and is_theirs))
            if not beside:
                figures.append(Figure("jobs/local", work, jobs, rate, None, "", "jobs/s", None, is_well))
    report(figures, options.json)


if __name__ == "__main__":
    main()
