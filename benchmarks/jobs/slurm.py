"""Jobs through a Slurm of its own: `true` under the wrapper against bare array elements that run `true`.

Packed: ten units in each element, each with its own attempt, nonce and report. Also the wrapper's own CPU.
Needs Slurm's programs; a sub-second payload makes Slurm itself the limit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks"), str(ROOT / "benchmarks/jobs")]

from _true import DONE  # noqa: E402
from harness import Figure, arguments, child_cpu, report  # noqa: E402

from beamwright.batch.cluster import Access  # noqa: E402
from beamwright.batch.scheduler import JobSpec  # noqa: E402
from beamwright.batch.script import WRAPPER  # noqa: E402
from beamwright.batch.slurm import Slurm, SlurmCluster  # noqa: E402
from support.slurm import missing, running  # noqa: E402

PACK = 10
SHELL = ["/bin/sh", "-c", f"printf '{DONE}' >payload.json; exec true", "true"]
SERVED = [sys.executable, "-I", "-S", str(ROOT / "benchmarks/jobs/_true.py"), "process"]


def make(folder: Path, count: int, process: list[str]) -> list[Path]:
    """Write job directories without inputs and outputs."""
    directories = []
    for number in range(count):
        nonce = f"{number:06d}"
        directory = folder / "jobs" / nonce
        directory.mkdir(parents=True)
        job = {
            "kind": "process", "experiment": "none", "release": "", "config": {}, "inputs": [], "streams": {},
            "attempt": {"unit": nonce, "number": 1, "nonce": nonce, "farm": "slurm"},
            "limits": {"wall_s": 300, "memory_mb": 1000, "heartbeat_s": 30},
            "output_directory": str(folder / "store" / nonce), "scratch": str(folder / "scratch" / nonce),
            "commands": {"process": process, "validate": ["false"]},
        }  # fmt: skip
        (directory / "ticket").write_text(bytes(32).hex())
        (directory / "job.json").write_text(json.dumps(job))
        directories.append(directory)
    return directories


def bare(folder: Path, count: int) -> Callable[[], tuple[float, bool]]:
    """Return a run of array elements that are `true`, and nothing else."""
    script = folder / "bare.sh"
    script.write_text("#!/bin/sh\nexec true\n")

    def run() -> tuple[float, bool]:
        start = time.perf_counter()
        argv = ["sbatch", "--parsable", "--output=/dev/null", f"--array=0-{count - 1}", str(script)]
        number = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        while True:
            argv = ["squeue", "-h", "-r", "-t", "all", "-j", number, "-O", "State:.24"]
            states = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
            if len(states) == count and set(states) <= {"COMPLETED", "FAILED"}:
                return time.perf_counter() - start, set(states) == {"COMPLETED"}
            time.sleep(0.2)

    return run


def ours(folder: Path, count: int, pack: int) -> Callable[[], tuple[float, bool]]:
    """Return a run of jobs under the wrapper."""
    made: list[int] = []

    def run() -> tuple[float, bool]:
        made.append(0)
        root = folder / f"pack{pack}-{len(made)}"
        directories = make(root, count, SHELL if pack == 1 else SERVED)
        cluster = SlurmCluster(Slurm(), Access("bwbench", root, array=5000, pack=pack, poll_s=0.2))
        start = time.perf_counter()
        ids = cluster.submit([JobSpec(directory) for directory in directories])
        while True:
            polled = cluster.poll()
            if all(batch_id in polled and polled[batch_id].state == "finished" for batch_id in ids):
                break
            time.sleep(0.05)
        spent = time.perf_counter() - start
        reports = [json.loads(path.read_bytes()) for path in root.glob("store/*/report.json")]
        nonces = {one["attempt"]["nonce"] for one in reports if one["status"] == "ok"}
        return spent, len(nonces) == count

    return run


def wrapper_ms(folder: Path, repeat: int) -> float:
    """Return the CPU milliseconds of a wrapper with its payload, less those of the payload alone."""
    directories = iter(make(folder / "wrapper", repeat, SHELL))
    (folder / "bare").mkdir()
    both, alone = [], []
    for _ in range(repeat):
        both.append(child_cpu([*WRAPPER, str(next(directories))], {})())
        alone.append(child_cpu(["/bin/sh", "-c", f"cd {folder}/bare; {SHELL[2]}"], {})())
    return 1000 * (statistics.median(both) - statistics.median(alone))


def main() -> None:
    options = arguments(__doc__, 200)
    if absent := missing():
        print(f"Slurm is not installed: no {', '.join(absent)}", file=sys.stderr)
        return
    count, figures = options.events, []
    with tempfile.TemporaryDirectory() as name, running(Path(name) / "slurm"):
        folder = Path(name)
        sides = [bare(folder, count), ours(folder, count, 1), ours(folder, count, PACK)]
        rounds = [[side() for side in sides] for _ in range(min(options.repeat, 3))]
        rates = [count / statistics.median(row[n][0] for row in rounds) for n in range(3)]
        well = [all(row[n][1] for row in rounds) for n in range(3)]
        for number, work in ((1, "`true` under the wrapper"), (2, f"{PACK} units in each element")):
            more = ("bare array", "units/s", rates[number] / rates[0], well[0] and well[number])
            figures.append(Figure("jobs/slurm", work, count, rates[number], rates[0], *more))
        cpu = wrapper_ms(folder, 20)
        figures.append(
            Figure("jobs/slurm", "CPU of the wrapper", 20, cpu, 60.0, "goal", "ms", 60 / cpu, None)
        )
    report(figures, options.json)


if __name__ == "__main__":
    main()
