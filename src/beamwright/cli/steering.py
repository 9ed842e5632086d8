"""Steering files: a path written in Python, run over files without a workspace."""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any

import beamwright
from beamwright import durable
from beamwright.cli.common import say
from beamwright.cli.passes import read_quarantine
from beamwright.cli.progress import Progress
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.canonical import content_hash
from beamwright.core.errors import BeamwrightError, ModuleError, UsageError, nearest
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.collection import CollectionReader
from beamwright.event.commit import LoopResult
from beamwright.event.evolution import united
from beamwright.event.loop import Limits, run_path
from beamwright.event.metadata import read_metadata
from beamwright.event.path import Path
from beamwright.event.plan import Again
from beamwright.event.reader import Reader
from beamwright.event.rolling import Source
from beamwright.event.workers import check_forkable

NAMES = ("path", "banks", "reader")


@dataclass(frozen=True)
class Request:
    """What the command line asks for; inputs by role, outputs by stream ("" where none was named)."""

    steering: FilePath
    inputs: list[tuple[str, FilePath]]
    outputs: list[tuple[str, FilePath]]
    workers: int = 1
    events: tuple[int, int | None] | None = None
    series: str = ""
    run: int = 0
    conditions: FilePath | None = None
    batch_events: int | None = None
    event_seconds: float | None = None
    memory_mb: int | None = None
    most_quarantined: int = 100
    histograms: FilePath | None = None
    quarantine: FilePath | None = None
    quarantine_only: FilePath | None = None
    in_process: bool = False
    profile: bool = False
    profile_file: FilePath | None = None
    follow: bool = False


def steer(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the path of a steering file over the inputs; return the ledger and what was written.

    Raises: UsageError, and whatever the path raises.
    """
    defined = run_file(request.steering)
    path = path_in(request.steering, defined)
    progress = Progress()
    options: dict[str, Any] = {
        "outputs": _outputs(path, request.outputs), "workers": request.workers,
        "isolated": _is_isolated(request, say), "batch_events": request.batch_events,
        "limits": Limits(request.event_seconds, request.most_quarantined, request.memory_mb),
        "profile": request.profile or request.profile_file is not None, "progress": progress,
    }  # fmt: skip
    try:
        if request.follow:
            return _follow(request, path, defined, options)
        source, only = open_source(request, defined, path.record), _only(request, path)
        result = run_path(
            path, source.reader, source.interval, banks=source.banks, snapshot=source.snapshot,
            lineage=_lineages(request, path, source.reader), only=only, **options,
        )  # fmt: skip
    finally:
        progress.close()
    if only is not None:
        _tell_missing(only, path, result, say)
    return _summary(request, path, result)


def _tell_missing(only: Again, path: Path, result: LoopResult, say: Callable[[str], None]) -> None:
    """Say how many of the records named are not made any more; of a parent named itself nobody knows."""
    made = [line["created"] for line in result.ledger if line["record"] != path.record]
    if made and not only.read and made[0] < len(only.made):
        kind = path.records[-1]
        say(f"{len(only.made) - made[0]} of the {len(only.made)} {kind} records named are not made any more")


def _follow(request: Request, path: Path, defined: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Run the path over a stream that is still being written; outputs are closed whatever ends it."""
    from beamwright.event.following import Feed, FollowReader, follow_path, stoppable

    if len(request.inputs) != 1 or request.events or request.quarantine_only:
        raise UsageError(
            "--follow takes one input and all of its records", hint="leave --events and --quarantine-only out"
        )
    ((_, source),) = request.inputs
    snapshot = Snapshot.load(request.conditions) if request.conditions else None
    feed = Feed(source)
    try:
        with stoppable(feed):
            reader = FollowReader.of(feed.open())
            banks = united(defined.get("banks"), reader.declarations) or BankSet()
            lineage = _lineages(request, path, reader)
            done = follow_path(path, feed, banks=banks, snapshot=snapshot, lineage=lineage, **options)
    finally:
        feed.close()
    if done.error is not None:
        raise done.error
    return _summary(request, path, done.result) | {"ending": done.ending}


def _is_isolated(request: Request, say: Callable[[str], None]) -> bool | None:
    """Tell whether one worker, too, gets a process of its own: then a crash costs a record and not the pass.

    None: where there are limits, for they need it.
    """
    if request.in_process:
        return False
    try:
        check_forkable()
    except ModuleError as error:
        say(f"a module that crashes would end this pass: {error}")
        return None
    return True


def _only(request: Request, path: Path) -> Again | None:
    return None if request.quarantine_only is None else read_quarantine(request.quarantine_only, path.records)


def open_source(request: Request, defined: dict[str, Any], record: str) -> Source:
    """Open the inputs with what a steering file defines: its reader and banks, or none for our own files.

    Raises: UsageError.
    """
    reader = _reader(request, defined.get("reader"), defined.get("banks"))
    banks = united(defined.get("banks"), getattr(reader, "declarations", None))
    if banks is None:
        raise UsageError(
            f"{request.steering} defines no banks", hint="define `banks`, a BankSet, for raw inputs"
        )
    snapshot = Snapshot.load(request.conditions) if request.conditions else None
    interval = _interval(reader, record, request.events)
    return Source(reader, interval, banks, snapshot, request.workers)


def load_path(steering: FilePath) -> Path:
    """Return the path that a steering file defines.

    Raises: UsageError.
    """
    return path_in(steering, run_file(steering))


def run_file(steering: FilePath) -> dict[str, Any]:
    """Run a steering file and return what it defines.

    Raises: UsageError that names the line where it fails.
    """
    with blamed(steering):
        return runpy.run_path(str(steering))


def path_in(steering: FilePath, defined: dict[str, Any]) -> Path:
    """Return the path that a steering file defines. Raises: UsageError."""
    found = defined.get("path")
    with blamed(steering):
        path = found() if callable(found) else found
    if isinstance(path, Path):
        return path
    if found is not None:
        said = f"`path` in {steering} is a {type(path).__name__}, no Path"
        raise UsageError(said, hint="define path = Path(...), or a function that returns one")
    hint = nearest("path", [name for name in defined if not name.startswith("_")])
    raise UsageError(f"{steering} defines no `path`", hint=f"define path = Path(...), or a function; {hint}")


@contextmanager
def blamed(steering: FilePath) -> Iterator[None]:
    """Say of what fails in a steering file, or in what it calls, where that is."""
    try:
        yield
    except BeamwrightError:
        raise
    except SyntaxError as error:
        shown = [(error.text or "").rstrip(), " " * ((error.offset or 1) - 1) + "^"]
        place = f"{error.filename or steering}:{error.lineno}"
        raise UsageError(f"{place}: {error.msg}", hint="correct this line", excerpt=shown) from error
    except Exception as error:
        frame = _place(steering, error)
        place = f"{frame.filename}:{frame.lineno}" if frame else str(steering)
        missing = error.name if isinstance(error, ModuleNotFoundError) else ""
        hint = f"install {missing}, or run where it is installed" if missing else "correct it there"
        shown = [frame.line or ""] if frame else []
        message = f"{place}: {type(error).__name__}: {error}"
        raise UsageError(message, hint=hint, excerpt=shown) from error


def _place(steering: FilePath, error: Exception) -> traceback.FrameSummary | None:
    """Return the deepest frame in a steering file, or else the one that beamwright called last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(steering)]
    ours = str(FilePath(beamwright.__file__).parent)
    called = [frame for before, frame in pairwise(frames) if before.filename.startswith(ours)]
    foreign = [frame for frame in called if not frame.filename.startswith((ours, "<frozen"))]
    found = own or foreign
    return found[-1] if found else None


def _reader(request: Request, kind: Any, banks: BankSet | None) -> Reader:
    if not request.inputs:
        raise UsageError("there is no input", hint="name files with --input FILE")
    for _, path in request.inputs:
        if not path.is_file():
            raise UsageError(f"there is no input file {path}", hint="check its path")
    if kind is None:
        paths = [path for _, path in request.inputs]
        return CollectionReader(paths, banks=united(banks, read_metadata(paths[0]).declarations))
    roles = kind.roles or ("",)
    named = {role or roles[min(n, len(roles) - 1)]: path for n, (role, path) in enumerate(request.inputs)}
    opened: Reader = kind.open(named, series=request.series, run=request.run)
    for branch, reason in getattr(opened, "skipped", {}).items():
        say(f"not read: {branch}, {reason}")
    return opened


def _interval(reader: Reader, record: str, events: tuple[int, int | None] | None) -> Interval:
    """Return the interval of a range of records, or of all."""
    index = reader.index(record)
    if not len(index):
        raise UsageError(
            "the inputs hold no records", hint=f"kinds of records in them: {', '.join(reader.records())}"
        )
    first, stop = events or (0, None)
    last = min(len(index) if stop is None else stop, len(index)) - 1
    if first > last:
        raise UsageError(
            f"there is no record {first}: the inputs hold {len(index)}", hint="--events A:B counts from 0"
        )
    ends = (index.key(reader.series, at).position for at in (first, last))
    return Interval(reader.series, *ends)


def _outputs(path: Path, given: list[tuple[str, FilePath]]) -> dict[str, FilePath]:
    streams = [output.stream for output in path.outputs]
    if any(not name for name, _ in given) and (len(streams) != 1 or len(given) != 1):
        raise UsageError(
            f"path {path.name} has the streams {', '.join(streams)}", hint="write --output STREAM=FILE"
        )
    return {name or streams[0]: file for name, file in given}


def _lineages(request: Request, path: Path, reader: Reader) -> Callable[[str], Lineage]:
    from beamwright.production import release

    @cache
    def parents() -> tuple[str, ...]:  # only an output needs them, and hashing reads every byte
        return () if request.follow else tuple(durable.hash_file(file).sha256 for _, file in request.inputs)

    inputs = [metadata.lineage for metadata in getattr(reader, "metadata", [])]

    def lineage(stream: str) -> Lineage:
        return Lineage(
            experiment="",
            production="",
            step="",
            path=path.name,
            stream=stream,
            tier=path.output(stream).tier,
            series=reader.series,
            release=release.current(["beamwright"]),
            config_hash=content_hash(path.configuration()),
            is_mc=any(found.is_mc for found in inputs),
            is_resampled=any(found.is_resampled for found in inputs),
            parents=parents(),
        )

    return lineage


def _summary(request: Request, path: Path, result: LoopResult) -> dict[str, Any]:
    """Return what is told of a pass, its histograms written where that is wanted."""
    if request.histograms is not None:
        durable.replace(request.histograms, result.histograms.to_bytes())
    written = [
        {"stream": stream, "file": str(w.file), "events": w.events, "size": w.size, "uuid": w.uuid}
        for stream, whole in sorted(result.written.items())
        for w in whole.parts or (whole,)
    ]
    return {
        "path": path.name, "ledger": result.ledger, "written": written, "quarantined": result.quarantined,
        "histograms": [
            {"name": name, "entries": found.entries, "bins": [axis.bins for axis in found.axes]}
            for name, found in sorted(result.histograms.items())
        ],
        "statistics": result.statistics,
    }  # fmt: skip
