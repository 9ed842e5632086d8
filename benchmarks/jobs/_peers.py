"""Trivial jobs as peers run them; local.py runs one side per process: ``_peers.py SIDE COUNT FOLDER``.

Each job is a command that writes one small file. Prints the seconds of all jobs, after the peer has started
(Snakemake: with its start).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

WORKERS = 2


def command(path: Path) -> str:
    """Return the shell command of a job."""
    return f"printf done > {path}"


def parsl_bash(paths: list[Path], folder: Path) -> float:
    """Run bash apps on Parsl's high-throughput executor."""
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="local", max_workers_per_node=WORKERS, address="127.0.0.1", encrypted=False,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )  # fmt: skip
    os.chdir(folder)
    with parsl.load(Config(executors=[executor], run_dir=str(folder / "runinfo"))):
        app = parsl.bash_app(lambda path: f"printf done > {path}")
        app(folder / "first").result()
        start = time.perf_counter()
        for future in [app(path) for path in paths]:
            future.result()
        return time.perf_counter() - start


def dask_subprocess(paths: list[Path], folder: Path) -> float:
    """Run commands from functions on dask's workers."""
    from distributed import Client, LocalCluster

    os.chdir(folder)
    with LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            client.submit(_call, command(folder / "first")).result()
            start = time.perf_counter()
            client.gather(client.map(_call, [command(path) for path in paths], pure=False))
            return time.perf_counter() - start


def _call(text: str) -> int:
    return subprocess.run(["/bin/sh", "-c", text], check=True).returncode


def snakemake(paths: list[Path], folder: Path) -> float:
    """Run one rule with many targets; its start counts."""
    (folder / "Snakefile").write_text(
        f"rule all:\n    input: expand('{folder}/out/{{n}}', n=range(int(config['count'])))\n"
        f"rule one:\n    output: '{folder}/out/{{n}}'\n    shell: 'printf done > {{output}}'\n"
    )
    argv = [str(Path(sys.executable).with_name("snakemake")), "--cores", str(WORKERS), "--quiet", "all"]
    argv += ["-d", str(folder), "-s", str(folder / "Snakefile"), "--config"]
    start = time.perf_counter()
    subprocess.run([*argv, f"count={len(paths)}"], check=True, capture_output=True)
    return time.perf_counter() - start


def law(paths: list[Path], folder: Path) -> float:
    """Run a workflow of local branches."""
    os.environ["LAW_HOME"] = str(folder / "law")
    import luigi
    from law import LocalFileTarget, LocalWorkflow, Task

    class Job(LocalWorkflow, Task):
        task_namespace = "bench"

        def create_branch_map(self):  # type: ignore[no-untyped-def]
            return dict(enumerate(map(str, paths)))

        def output(self):  # type: ignore[no-untyped-def]
            return LocalFileTarget(self.branch_data)

        def run(self):  # type: ignore[no-untyped-def]
            _call(command(Path(self.branch_data)))

    start = time.perf_counter()
    tasks = [Job(branch=number) for number in range(len(paths))]
    luigi.build(tasks, workers=WORKERS, local_scheduler=True, log_level="ERROR")
    return time.perf_counter() - start


SIDES = {"parsl": parsl_bash, "dask": dask_subprocess, "snakemake": snakemake, "law": law}


def main() -> None:
    side, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    (folder / "out").mkdir()
    paths = [folder / "out" / str(number) for number in range(count)]
    spent = SIDES[side](paths, folder)
    done = sum(path.read_text() == "done" for path in paths if path.exists())
    print(f"\nRESULT {spent} {done}")


if __name__ == "__main__":
    main()
