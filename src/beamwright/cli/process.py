"""``beamwright process``: the event framework alone, for a steering file or as the payload of a job."""

from __future__ import annotations

import os
from pathlib import Path

import click

from beamwright.cli.common import json_option, say, write_document
from beamwright.core.errors import UsageError

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("steering", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="[ROLE=]FILE", help="An input file; may be repeated."
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="[STREAM=]FILE",
    help="Where a stream goes; may be repeated.",
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, help="Processes that work on the events [default: 1]."
)
@click.option("--events", type=click.IntRange(1), help="Work on the first so many records only.")
@click.option("--series", default="", help="The series of raw files, for readers that need it.")
@click.option("--run", type=int, default=0, help="The run of raw files, for readers that need it.")
@click.option("--conditions", type=FILE, help="A snapshot of conditions.")
@click.option("--job", type=FILE, help="Do the job that this document describes.")
@click.option(
    "--serve", is_flag=True, help="Serve jobs that come on standard input: the warm runner of a farm."
)
@json_option
def process(
    steering: Path | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    workers: int,
    events: int | None,
    series: str,
    run: int,
    conditions: Path | None,
    job: Path | None,
    serve: bool,
    as_json: bool,
) -> int:
    """Run a path over files: the event framework alone.

    STEERING is a Python file that defines `path` (a Path, or a function that returns one), and `banks` and
    `reader` where the inputs are not files that beamwright wrote.
    """
    one_thread_each()
    if sum((steering is not None, job is not None, serve)) != 1:
        raise UsageError("process takes a steering file, --job or --serve", hint="give exactly one of them")
    if serve:
        from beamwright.production import runner

        return runner.main()
    if job is not None:
        from beamwright.production import work

        return work.run(job)
    assert steering is not None
    from beamwright.cli.steering import Request, steer

    request = Request(steering, named(inputs), named(outputs), workers, events, series, run, conditions)
    document = steer(request, say)
    write_document(document, as_json, None)
    return 0


def one_thread_each() -> None:
    """Keep numerical libraries, not loaded yet, at one thread: workers fork, and do the parallel part."""
    for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(pool, "1")


def named(values: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Split ``NAME=FILE``; a plain FILE has an empty name."""
    split = [value.rpartition("=") for value in values]
    return [(name, Path(path)) for name, _, path in split]
