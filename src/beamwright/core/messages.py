"""The documents that travel between the database's side and a worker, and the taxonomy of failures."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

JOB_FILE, REPORT_FILE, PAYLOAD_FILE, VERDICT_FILE, HEARTBEAT_FILE, TICKET_FILE = (
    "job.json", "report.json", "payload.json", "verdict.json", "heartbeat.json", "ticket",
)  # fmt: skip

PARTIAL_FILE = "partial.bwb"

FORMAT = 1

HISTOGRAMS = "histograms"
ACCUMULATOR = "accumulator"
PAYLOAD_PREFIX = "payload:"

FAILURES: dict[str, str] = {
    "input": "an input is missing, truncated or not what its checksum says",
    "stage_in": "an input could not be brought to the worker",
    "application_crash": "the application was killed by a signal",
    "application_error": "the application ended with an error",
    "time": "the time limit was reached",
    "memory": "the memory limit was reached",
    "disk": "a disk was full",
    "output_invalid": "an output failed its validation",
    "copy_out": "an output could not be put into its final place",
    "lost": "the attempt vanished without a report",
    "node": "the node failed",
    "submit": "the batch system refused the job",
    "policy": "the work is not allowed: release, conditions or ticket are not the ones asked for",
}


class AttemptDoc(TypedDict):
    """Which attempt a document speaks of."""

    unit: str
    number: int
    nonce: str
    farm: str


class InputDoc(TypedDict):
    """One input file of a job."""

    path: str
    name: str
    sha256: str
    size: int
    kind: str
    reader: str
    role: str
    interval: list[Any] | None


class StreamDoc(TypedDict):
    """One declared output of a job."""

    tier: str
    name: str
    file: str


class ConditionsDoc(TypedDict):
    """The conditions that a job reads."""

    snapshot: str
    sha256: str
    global_tag: str
    resolved_hash: str
    reads: list[str]


class LimitsDoc(TypedDict, total=False):
    """What a job may use: seconds, MB, seconds for one event; how often it says that it lives.

    ``disk_mb`` is the scratch space that it asks for.
    """

    wall_s: float
    memory_mb: int
    event_s: float
    heartbeat_s: float
    disk_mb: int


class RequestDoc(TypedDict):
    """What is to be generated: (section, first event, number) in key order, out of so many of the run.

    ``made_by`` is the program that makes the records, and is empty where modules of the path do.
    """

    keys: list[list[int]]
    of: int
    made_by: list[str]
    reader: str


class JobDoc(TypedDict):
    """``job.json``: everything that a worker needs to know."""

    format: int
    kind: str
    production: str
    step: str
    experiment: str
    path: str
    calibrations: list[str]
    attempt: AttemptDoc
    release: str
    config: dict[str, Any]
    config_hash: str
    record: str
    interval: list[Any]
    inputs: list[InputDoc]
    conditions: ConditionsDoc | None
    seeds: dict[str, int]
    is_mc: bool
    is_resampled: bool
    tier: str
    streams: dict[str, StreamDoc]
    output_directory: str
    scratch: str
    workers: int
    prescale: dict[str, int]
    limits: LimitsDoc
    commands: dict[str, list[str]]
    sandbox: dict[str, str]
    request: RequestDoc


class LedgerDoc(TypedDict):
    """One line of the ledger: how the records of one kind went into one stream.

    ``requested`` stands in lines of records that are generated: those created, and those that failed.
    """

    record: str
    stream: str
    interval: list[Any]
    read: int
    created: int
    written: int
    filtered: int
    prescaled: int
    quarantined: int
    requested: NotRequired[int]


class QuarantineDoc(TypedDict):
    """One record that could not be processed; where a Builder made it, with the key that it was made from."""

    key: str
    record: str
    module: str
    error: str
    traceback: str
    parent: NotRequired[str]


class OutputDoc(TypedDict, total=False):
    """One output: the payload's view has no path and hashes, the report's view has all.

    ``sources``, in the payload's view of a pointer skim, are the UUIDs of the files that it leads into.
    """

    stream: str
    file: str
    path: str
    size: int
    sha256: str
    adler32: str
    uuid: str | None
    events: int
    kind: str
    sources: list[str]


class PayloadDoc(TypedDict):
    """``payload.json``: what the application says of its work."""

    status: str
    failure_class: str | None
    message: str
    release: str
    ledger: list[LedgerDoc]
    outputs: list[OutputDoc]
    quarantined: list[QuarantineDoc]
    figures: dict[str, Any]
    statistics: dict[str, Any]


class ReportDoc(TypedDict):
    """``report.json``: the signed truth about one attempt."""

    format: int
    attempt: AttemptDoc
    status: str
    failure_class: str | None
    message: str
    exit_code: int | None
    payload: PayloadDoc | None
    outputs: list[OutputDoc]
    resources: dict[str, float]
    timings: dict[str, float]
    host: str
    started: float
    ended: float
    signature: str
