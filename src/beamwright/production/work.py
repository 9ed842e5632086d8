"""The payload of a job: what a worker does between its document and its report. No database anywhere on this
way.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from beamwright import durable
from beamwright.conditions.snapshot import Snapshot
from beamwright.core import bundle
from beamwright.core.canonical import canonical_json, sha256_hex
from beamwright.core.errors import (
    BeamwrightError,
    ChecksumError,
    ConditionsError,
    FormatError,
    ReleaseError,
    StorageError,
    UnknownNameError,
)
from beamwright.core.histogram import HistogramSet
from beamwright.core.lineage import Lineage
from beamwright.core.messages import (
    ACCUMULATOR,
    HISTOGRAMS,
    PARTIAL_FILE,
    PAYLOAD_FILE,
    PAYLOAD_PREFIX,
    ConditionsDoc,
    InputDoc,
    JobDoc,
    OutputDoc,
    PayloadDoc,
)
from beamwright.core.runs import Interval
from beamwright.event import calibration as calibrating
from beamwright.event import columnar
from beamwright.event.calibration import Calibration
from beamwright.event.collection import CollectionReader
from beamwright.event.commit import LoopResult
from beamwright.event.loop import Limits, run_path
from beamwright.event.metadata import read_metadata
from beamwright.event.module import RunInfo
from beamwright.event.path import Path as EventPath
from beamwright.event.reader import JoinedReader, Reader
from beamwright.event.sources import SourceFiles
from beamwright.event.store import Written, merge_collections
from beamwright.event.validate import validate_file
from beamwright.production import experiment as experiments
from beamwright.production import programs, sandboxes, tables
from beamwright.production import release as releases
from beamwright.production.experiment import Experiment

PROGRESS_FILE = "progress.json"
PROGRESS_S = 0.5
PARTIAL_S = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(job_path: Path) -> int:
    """Do the work of a job document, leave ``payload.json`` in its scratch directory, and return the exit
    code.
    """
    job = _read_job(job_path)
    scratch = Path(job["scratch"])
    try:
        payload: Mapping[str, Any] = _work(job, scratch)
        code = 0
    except Exception as error:  # noqa: BLE001 - whatever it is, the report has to say it
        traceback.print_exc(file=sys.stderr)
        payload, code = _failed(job, error), getattr(error, "exit_code", 1)
    # The wrapper reads it next; after a crash the scratch directory counts for nothing.
    durable.replace(scratch / PAYLOAD_FILE, canonical_json(calibrating.plain(payload)), durable=False)
    return code


def validate(
    paths: Sequence[Path], expected: Mapping[str, Any] | None = None, sources: SourceFiles | None = None
) -> list[dict[str, Any]]:
    """Return the verdicts on outputs: event files in full, and array bundles.

    The pointers of pointer skims are followed where ``sources`` are given.
    """
    return [_verdict(path, expected, sources) for path in paths]


def _verdict(path: Path, expected: Mapping[str, Any] | None, sources: SourceFiles | None) -> dict[str, Any]:
    with path.open("rb") as stream:
        head = stream.read(len(bundle.MAGIC))
    if head.startswith(tables.MAGIC):
        return tables.validate(path)
    return _validate_bundle(path) if head == bundle.MAGIC else validate_file(path, expected, sources)


def _validate_bundle(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    problems = []
    try:
        arrays, document = bundle.unpack(data, str(path))
        if bundle.pack(arrays, document) != data:
            problems.append(f"{path} is not in canonical form")
    except FormatError as error:
        problems.append(error.message)
    digest = durable.digest_of(data)
    return {
        "file": path.name, "valid": not problems, "problems": problems, "events": 0, "sha256": digest.sha256,
        "adler32": digest.adler32, "size": digest.size, "uuid": None,
    }  # fmt: skip


def _read_job(path: Path) -> JobDoc:
    try:
        return cast(JobDoc, json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise FormatError(f"there is no job document {path}", hint="give the path of a job.json") from None
    except ValueError as error:
        raise FormatError(
            f"job document {path} is no JSON: {error}", hint="it is written by the submitter"
        ) from error


# --- what a job has to work with


@dataclass
class _Job:
    """A job document with what is opened for it."""

    document: JobDoc
    experiment: Experiment
    scratch: Path
    release: str
    outputs: list[OutputDoc] = field(default_factory=list)

    @cached_property
    def interval(self) -> Interval:
        return Interval.from_document(self.document["interval"])

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The conditions, checked against the document: the file's hash, and what is resolved from it."""
        asked = self.document["conditions"]
        return None if asked is None else _load_snapshot(asked, self.interval)

    @property
    def resolved_hash(self) -> str:
        asked = self.document["conditions"]
        return asked["resolved_hash"] if asked else ""

    def check_reads(self, roles: tuple[str, ...]) -> None:
        """Refuse code that reads conditions that the job does not name: they would have no identity."""
        asked = self.document["conditions"]
        known = asked["reads"] if asked else []
        for role in roles:
            if role not in known:
                raise UnknownNameError("tag of conditions that the job was given", role, known)

    def options(self) -> dict[str, Any]:
        """Return what every pass over records is given."""
        job = self.document
        workers = max(1, int(job["workers"]))
        return {
            "banks": self.experiment.banks,
            "snapshot": self.snapshot,
            "workers": workers,
            # A second attempt may follow a crash: then the crash must cost one record, not the process.
            "isolated": int(job["attempt"]["number"]) > 1,
            "seed": int(job["seeds"].get("job", 0)),
            "limits": Limits(event_s=job["limits"].get("event_s") or None),
            "run_info": self._run_info,
            "progress": _progress(self.scratch),
            "partial": _partial(self.scratch, job["limits"].get("heartbeat_s", PARTIAL_S)),
        }

    def _run_info(self, number: int) -> RunInfo:
        job = self.document
        return RunInfo(self.interval.series, number, bool(job["is_mc"]), bool(job["is_resampled"]))

    def lineage(self, stream: str) -> Lineage:
        """Return what an output says of its own making."""
        job, asked = self.document, self.document["conditions"]
        return Lineage(
            experiment=job["experiment"],
            production=job["production"],
            step=job["step"],
            path=job["path"],
            stream=stream,
            tier=job["streams"][stream]["tier"],
            series=self.interval.series,
            release=self.release,
            config_hash=job["config_hash"],
            global_tag=asked["global_tag"] if asked else "",
            resolved_hash=self.resolved_hash,
            is_mc=bool(job["is_mc"]),
            is_resampled=bool(job["is_resampled"]),
            parents=tuple(sorted({item["sha256"] for item in job["inputs"]})),
            interval=tuple(self.interval.document()),
            seeds=dict(job["seeds"]),
        )

    def output(self, stream: str) -> Path:
        """Return where an output goes."""
        return durable.confined(self.scratch, self.document["streams"][stream]["file"])

    def add_bundle(self, stream: str, data: bytes) -> None:
        """Write an output of arrays."""
        path = self.output(stream)
        with path.open("xb") as file:
            file.write(data)
        self.outputs.append(
            {"stream": stream, "file": path.name, "events": 0, "uuid": None, "kind": "bundle"}
        )

    def add_events(self, stream: str, written: Written) -> None:
        """Note an output of events."""
        self.outputs.append(
            {"stream": stream, "file": written.file.name, "events": written.events, "uuid": written.uuid,
             "kind": "rntuple", **({"sources": list(written.sources)} if written.sources else {})}
        )  # fmt: skip

    def payload(self, **members: Any) -> dict[str, Any]:
        """Return what the application says of its work."""
        document: dict[str, Any] = {
            "status": "ok", "failure_class": None, "message": "", "release": self.release, "ledger": [],
            "outputs": self.outputs, "quarantined": [], "figures": {}, "statistics": {},
            "resolved_hash": self.resolved_hash,
        }  # fmt: skip
        return document | members


def _work(job: JobDoc, scratch: Path) -> dict[str, Any]:
    experiment = experiments.load(job["experiment"])
    releases.check(job["release"], experiment.distributions)
    kinds: dict[str, Callable[[_Job], dict[str, Any]]] = {
        "process": _process, "collect": _collect, "fit": _fit, "merge": _merge, "analyse": _analyse,
        "gather": _gather, "generate": _generate,
    }  # fmt: skip
    if job["kind"] not in kinds:
        raise UnknownNameError("kind of job", job["kind"], kinds)
    return kinds[job["kind"]](_Job(job, experiment, scratch, job["release"]))


# --- the kinds of jobs


def _process(job: _Job) -> dict[str, Any]:
    """Run a path over the records of the unit."""
    with open_inputs(job.experiment, job.document["inputs"]) as reader:
        return _run_path(job, _path(job), reader, _event_files(job))


def _generate(job: _Job) -> dict[str, Any]:
    """Generate the records that are asked for: by the modules of a path, or by a program and then a path."""
    job.check_reads(_path(job).conditions)
    told = programs.conditions(job.snapshot, job.document)
    with programs.open_request(job.document, job.experiment, job.scratch, told) as reader:
        return _run_path(job, _path(job), reader, _event_files(job))


def _path(job: _Job) -> EventPath:
    return job.experiment.make_path(job.document["path"], job.document["config"])


def _event_files(job: _Job) -> dict[str, Path]:
    return {stream: job.output(stream) for stream in job.document["streams"] if stream != HISTOGRAMS}


def _analyse(job: _Job) -> dict[str, Any]:
    """Run the path of an analyst's own code; tables are made of what it writes."""
    document = job.document
    sandbox, code = document["sandbox"], job.scratch / "code"
    sandboxes.unpack(Path(sandbox["path"]), sandbox["sha256"], code)
    banks = sandboxes.banks_with(code, sandbox.get("banks", ""), job.experiment.banks)
    job = replace(job, experiment=replace(job.experiment, banks=banks))
    path = sandboxes.load(job.scratch / "code", document["path"], document["config"])
    formats = {stream: declared.get("format") for stream, declared in document["streams"].items()}
    files = {stream: job.output(stream).with_suffix(".root") for stream in formats if stream != HISTOGRAMS}
    with open_inputs(job.experiment, document["inputs"]) as reader:
        payload = _run_path(job, path, reader, files)
    for output in payload["outputs"]:
        if formats[output["stream"]] == "parquet":
            with CollectionReader([files[output["stream"]]]) as reader:
                columnar.export(reader, job.output(output["stream"]))
            output |= {"file": job.output(output["stream"]).name, "uuid": None, "kind": "parquet"}
    return payload


def _gather(job: _Job) -> dict[str, Any]:
    """Put what the units of an analysis gave into one file, in the order in which the job lists them."""
    ((stream, declared),) = job.document["streams"].items()
    if declared.get("format") == "parquet":
        rows = tables.concatenate([Path(item["path"]) for item in job.document["inputs"]], job.output(stream))
        job.outputs.append(
            {"stream": stream, "file": declared["file"], "events": rows, "uuid": None, "kind": "parquet"}
        )
        return job.payload()
    parts = [HistogramSet.from_bytes(_read_input(item), item["name"]) for item in job.document["inputs"]]
    job.add_bundle(stream, HistogramSet.merged(parts).to_bytes())
    return job.payload()


def _run_path(job: _Job, path: EventPath, reader: Reader, files: dict[str, Path]) -> dict[str, Any]:
    document = job.document
    job.check_reads(path.conditions)
    result: LoopResult = run_path(
        path, reader, job.interval, outputs=files, lineage=job.lineage,
        prescale=document["prescale"].get(path.record, 1), account="" if files else HISTOGRAMS,
        **job.options(),
    )  # fmt: skip
    for stream, written in result.written.items():
        job.add_events(stream, written)
    if HISTOGRAMS in document["streams"]:
        job.add_bundle(HISTOGRAMS, result.histograms.to_bytes())
    return job.payload(ledger=result.ledger, quarantined=result.quarantined, statistics=result.statistics)


def _collect(job: _Job) -> dict[str, Any]:
    """Fill the accumulators of the unit's calibrations."""
    document = job.document
    calibrations = _calibrations(job)
    job.check_reads(tuple(sorted({role for c in calibrations for role in c.conditions})))
    with open_inputs(job.experiment, document["inputs"]) as reader:
        found = calibrating.collect_path(
            calibrations, reader, job.interval, prescale=document["prescale"], **job.options()
        )
    job.add_bundle(ACCUMULATOR, calibrating.pack_accumulators(found.accumulators, found.statistics))
    if HISTOGRAMS in document["streams"]:
        job.add_bundle(HISTOGRAMS, found.histograms.to_bytes())
    return job.payload(ledger=found.ledger, quarantined=found.quarantined, statistics=found.statistics)


def _fit(job: _Job) -> dict[str, Any]:
    """Fit constants from accumulators, in the order in which the job lists them."""
    calibrations = _calibrations(job)
    parts = [
        calibrating.unpack_accumulators(_read_input(item), item["name"]) for item in job.document["inputs"]
    ]
    whole = calibrating.merge_accumulators(calibrations, parts)
    fits = {}
    for one in calibrations:
        roles = {*one.tags, *one.conditions}
        previous = calibrating.previous_constants(job.snapshot, roles, job.interval)
        fitted = calibrating.fit_calibration(one, whole[one.name], previous)
        fits[one.name] = fitted.document()
        for tag, payload in sorted(fitted.payloads.items()):
            if PAYLOAD_PREFIX + tag in job.document["streams"]:
                job.add_bundle(PAYLOAD_PREFIX + tag, payload.data)
    return job.payload(figures={"fits": fits}, statistics=calibrating.statistics(calibrations, whole))


def _merge(job: _Job) -> dict[str, Any]:
    """Merge the files of a stream, in the order of their keys."""
    document = job.document
    (stream,) = document["streams"]
    paths = [Path(item["path"]) for item in document["inputs"]]
    described = [read_metadata(path) for path in paths]
    written = merge_collections(paths, job.output(stream), job.lineage(stream))
    job.add_events(stream, written)
    read = sum(item.events for item in described)
    line = {
        "record": described[0].record, "stream": stream, "interval": job.interval.document(), "read": read,
        "created": 0, "written": written.events, "filtered": 0, "prescaled": 0, "quarantined": 0,
    }  # fmt: skip
    return job.payload(ledger=[line])


def _calibrations(job: _Job) -> list[Calibration]:
    document = job.document
    return [job.experiment.make_calibration(name, document["config"]) for name in document["calibrations"]]


# --- inputs


def open_inputs(experiment: Experiment, inputs: list[InputDoc]) -> Reader:
    """Open the inputs of a job as one reader: raw files by their experiment's reader, others by ours."""
    if not inputs:
        raise FormatError("the job has no input", hint="a unit of records is made of at least one file")
    stored = [Path(item["path"]) for item in inputs if item["kind"] == "rntuple"]
    chunks: dict[str, list[InputDoc]] = {}
    for item in inputs:
        if item["kind"] == "raw":
            chunks.setdefault(json.dumps([item["reader"], item["interval"]]), []).append(item)
    readers = [_open_chunk(experiment, items) for items in chunks.values()]
    if stored:
        readers.append(CollectionReader(stored, banks=experiment.banks))
    if not readers:
        raise FormatError(
            f"input {inputs[0]['name']} holds no records", hint="a path reads raw or event files"
        )
    return readers[0] if len(readers) == 1 else JoinedReader(readers)


def _open_chunk(experiment: Experiment, items: list[InputDoc]) -> Reader:
    interval = items[0]["interval"]
    if interval is None:
        raise FormatError(
            f"raw input {items[0]['name']} has no interval", hint="its chunk tells which run it is of"
        )
    whole = Interval.from_document(interval)
    files = [(item["role"], Path(item["path"])) for item in items]
    return experiment.open_reader(items[0]["reader"], files, whole.series, whole.first[0])


def _read_input(item: InputDoc) -> bytes:
    data = Path(item["path"]).read_bytes()
    if sha256_hex(data) != item["sha256"]:
        raise ChecksumError(
            f"input {item['name']} is not what was registered", hint="`beamwright fsck --deep` tells more"
        )
    return data


def _load_snapshot(asked: ConditionsDoc, interval: Interval) -> Snapshot:
    """Read a snapshot and check that it is the one asked for and says what it is said to say."""
    try:
        data = Path(asked["snapshot"]).read_bytes()
    except FileNotFoundError:
        raise ConditionsError(
            f"there is no snapshot {asked['snapshot']}", hint="the planner writes it before it plans the job"
        ) from None
    if sha256_hex(data) != asked["sha256"]:
        raise ConditionsError(f"snapshot {asked['snapshot']} is not the one asked for", hint="write it again")
    snapshot = Snapshot.from_bytes(data, asked["snapshot"])
    found = snapshot.resolved_hash(asked["reads"], interval)
    if found != asked["resolved_hash"]:
        raise ConditionsError(
            f"the snapshot resolves to {found[:12]} over {interval}, not to {asked['resolved_hash'][:12]}",
            hint="plan the unit again: its conditions changed",
        )
    return snapshot


# --- saying how it goes


def _progress(scratch: Path) -> Callable[[int, int], None]:
    """Return a callback that leaves the number of records done where the wrapper looks for it."""
    last = 0.0

    def note(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_S:
            last = now
            partial = scratch / f".{PROGRESS_FILE}"
            partial.write_text(json.dumps({"events": done, "of": total}))
            os.replace(partial, scratch / PROGRESS_FILE)

    return note


def _partial(scratch: Path, every: float) -> Callable[[HistogramSet], None]:
    """Return a callback that leaves the histograms so far where the wrapper looks for them."""
    last = 0.0

    def note(histograms: HistogramSet) -> None:
        nonlocal last
        now = time.monotonic()
        if histograms and now - last >= every:
            last = now
            partial = scratch / f".{PARTIAL_FILE}"
            partial.write_bytes(histograms.to_bytes())
            os.replace(partial, scratch / PARTIAL_FILE)

    return note


def failure_class(error: BaseException) -> str:
    """Return the class of a failure, as retry rules know it."""
    if isinstance(error, ReleaseError | ConditionsError):
        return "policy"
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _FULL):
        return "disk"
    if isinstance(error, FormatError):
        return "input"
    return "application_error"


def _failed(job: JobDoc, error: Exception) -> PayloadDoc:
    if isinstance(error, BeamwrightError):
        message = str(error)
    else:
        message = f"{type(error).__name__}: {error}"
    return {
        "status": "failed", "failure_class": failure_class(error), "message": message,
        "release": job["release"], "ledger": [], "outputs": [], "quarantined": [],
        "figures": {}, "statistics": {},
    }  # fmt: skip
