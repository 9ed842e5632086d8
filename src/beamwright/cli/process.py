"""``beamwright process``: the event framework alone, for a steering file or as the payload of a job."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from beamwright.cli.common import json_option, say, write_document
from beamwright.core.errors import UsageError

FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


class EventRange(click.ParamType[tuple[int, int | None]]):
    """``A:B``: the records from the A-th up to, not including, the B-th, in the order of their keys."""

    name = "a:b"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int | None]:
        first, colon, last = value.partition(":")
        try:
            start = int(first or 0) if colon else 0
            stop = int(last) if last else None if colon else int(first)
        except ValueError:
            self.fail(f"{value!r} is no range of records: write A:B, A:, :B, or B alone", param, ctx)
        if start < 0 or (stop is not None and stop <= start):
            self.fail(f"{value!r} holds no record", param, ctx)
        return start, stop


EVENTS = EventRange()
EVENTS_HELP = "Work on records A up to, not including, B, counted from 0 in the order of their keys."


@click.command()
@click.argument("steering", required=False, type=EXISTING)
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
@click.option("--events", type=EVENTS, metavar="A:B", help=EVENTS_HELP)
@click.option("--series", default="", help="The series of raw files, for readers that need it.")
@click.option("--run", type=int, default=0, help="The run of raw files, for readers that need it.")
@click.option("--conditions", type=FILE, help="A snapshot of conditions.")
@click.option(
    "--batch-events", type=click.IntRange(1), help="Records per batch at most; no output depends on it."
)
@click.option(
    "--event-seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Quarantine a record that takes longer.",
)
@click.option(
    "--memory",
    "memory_mb",
    type=click.IntRange(1),
    metavar="MB",
    help="What records may take of a worker's memory: a batch is split, a single record quarantined.",
)
@click.option(
    "--most-quarantined", type=click.IntRange(0), default=100, help="Give up after more [default: 100]."
)
@click.option("--histograms", type=FILE, help="Write the histograms of all modules.")
@click.option("--quarantine", type=FILE, help="Write key, module and traceback of each quarantined record.")
@click.option(
    "--quarantine-only", type=EXISTING, help="Work on the records that such a file names, and on no others."
)
@click.option(
    "--follow",
    is_flag=True,
    help="Follow one input, a growing file, a FIFO or - for standard input, until its end marker or SIGINT.",
)
@click.option("--in-process", is_flag=True, help="One worker in this very process, for debuggers.")
@click.option("--profile", is_flag=True, help="Show the time of every hook of every module at the end.")
@click.option("--profile-file", type=FILE, help="Write the profile for speedscope.app.")
@click.option("--job", type=FILE, help="Do the job that this document describes.")
@click.option(
    "--serve", is_flag=True, help="Serve jobs that come on standard input: the warm runner of a farm."
)
@json_option
def process(
    steering: Path | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    job: Path | None,
    serve: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a path over files: the event framework alone.

    STEERING is a Python file that defines `path` (a Path, or a function that returns one), and `banks` and
    `reader` where the inputs are not files that beamwright wrote.
    """
    one_thread_each()
    keep_memory()
    if sum((steering is not None, job is not None, serve)) != 1:
        raise UsageError("process takes a steering file, --job or --serve", hint="give exactly one of them")
    if serve:
        from beamwright.production import runner

        return runner.main()
    if job is not None:
        from beamwright.production import work

        return work.run(job)
    assert steering is not None
    from beamwright.cli import passes
    from beamwright.cli.steering import Request, steer

    request = Request(steering, named(inputs), named(outputs), **options)
    document = steer(request, say)
    passes.tell(request, document)
    write_document(document, as_json, None if as_json else passes.lines(document))
    return 0


def one_thread_each() -> None:
    """Keep numerical libraries, not loaded yet, at one thread: workers fork, and do the parallel part."""
    for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(pool, "1")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_memory() -> None:
    """Let the C library keep what one batch frees for the next: to get memory costs more than to fill it."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in (
            (_M_TRIM_THRESHOLD, 1 << 30), (_M_MMAP_THRESHOLD, 32 << 20), (_M_ARENA_MAX, 1),
        ):  # fmt: skip
            mallopt(option, value)


def named(values: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Split ``NAME=FILE``; a plain FILE has an empty name."""
    split = [value.rpartition("=") for value in values]
    return [(name, Path(path)) for name, _, path in split]
