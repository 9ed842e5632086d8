"""Generators that are programs: told what to make, run in the scratch directory, read by their reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from beamwright import durable
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.canonical import canonical_json
from beamwright.core.errors import ModuleError
from beamwright.core.messages import JobDoc
from beamwright.core.runs import Interval
from beamwright.event.calibration import plain
from beamwright.event.conductor import Limits
from beamwright.event.generating import RequestReader
from beamwright.production.experiment import Experiment
from beamwright.production.requests import filled

OUTPUT, CONDITIONS = "generated", "conditions.json"


def open_request(
    job: JobDoc, experiment: Experiment, scratch: Path, conditions: dict[str, Any]
) -> RequestReader:
    """Return the reader of what a job is to generate, after its program, where it has one, has run.

    Raises: ModuleError when the program fails, or makes much less than it was told to.
    """
    interval, request = Interval.from_document(job["interval"]), job["request"]
    run = interval.first[0]
    if not request["made_by"]:
        return RequestReader(job["record"], interval.series, run, request["keys"])
    durable.replace(scratch / CONDITIONS, canonical_json(plain(conditions)), durable=False)
    _run(filled(request["made_by"], _told(job, interval, scratch)), scratch)
    made = experiment.open_reader(request["reader"], _files(experiment, job, scratch), interval.series, run)
    reader = RequestReader(job["record"], interval.series, run, request["keys"], made)
    missing = len(reader.missing())
    if missing > Limits().quarantined:
        raise ModuleError(
            f"the generator {request['made_by'][0]} left out {missing} of the events that it was asked for",
            hint="`beamwright job log` shows what it said",
        )
    return reader


def conditions(snapshot: Snapshot | None, job: JobDoc) -> dict[str, Any]:
    """Return the constants that hold at a job's first event, by role and column."""
    asked = job["conditions"]
    if snapshot is None or asked is None:
        return {}
    interval = Interval.from_document(job["interval"])
    found = {}
    for role in asked["reads"]:
        arrays, document = snapshot.constants(snapshot.resolve(role, (interval.series, interval.first))[1])
        found[role] = document if document is not None else {n: a.tolist() for n, a in arrays.items()}
    return found


def _files(experiment: Experiment, job: JobDoc, scratch: Path) -> list[tuple[str, Path]]:
    kind = experiment.readers[job["request"]["reader"]]
    return [((kind.roles or ("",))[0], scratch / OUTPUT)]


def _told(job: JobDoc, interval: Interval, scratch: Path) -> dict[str, object]:
    keys = job["request"]["keys"]
    return {
        "python": sys.executable, "seed": job["seeds"]["job"], "events": sum(n for *_, n in keys),
        "series": interval.series, "run": interval.first[0], "first_section": keys[0][0],
        "last_section": keys[-1][0], "first_event": keys[0][1], "conditions": scratch / CONDITIONS,
        "output": scratch / OUTPUT,
    }  # fmt: skip


def _run(argv: list[str], scratch: Path) -> None:
    """Run a program in the scratch directory; what it says goes to the job's log."""
    try:
        done = subprocess.run(argv, cwd=scratch, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        hint = "is it on the farm, or in the release?"
        raise ModuleError(f"the generator {argv[0]} cannot be run: {error.strerror}", hint=hint) from error
    if done.returncode:
        end = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        hint = "`beamwright job log` shows what it said"
        raise ModuleError(f"the generator {argv[0]} ended with {end}", hint=hint)
