"""Following: a path over records that are still being written, from a growing file or a pipe.

Rounds of records are taken as they come, cut into batches and committed in order; a worker gets the records
of a batch together with its task, so that memory holds one round only.
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import FormatError, StorageError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval, Position
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.commit import LoopResult
from beamwright.event.conductor import Conductor, Limits
from beamwright.event.engine import Engine
from beamwright.event.framing import END, FORMAT, HEADER, MAGIC, Frame, decoded, packed, parsed
from beamwright.event.keys import Index
from beamwright.event.loop import (
    NO_LIMITS,
    check_path,
    file_sinks,
    finish,
    opened_pass,
    wanted_outputs,
)
from beamwright.event.module import RunInfo
from beamwright.event.path import Path
from beamwright.event.plan import (
    UNSIZED_EVENTS,
    ConditionsSource,
    Piece,
    Span,
    Task,
    make_plan,
    pieces_of,
)
from beamwright.event.reader import Reader

POLL = 0.1  # s between looks at a file that does not grow, and for a request to stop
GONE_LOOKS = 20  # looks in a row at a file that is not in its place and does not grow
ROUND_BYTES = 64 << 20
_CHUNK = 1 << 20

MARKER, CLOSED, STOPPED = "end marker", "closed without an end marker", "stopped"


class StreamError(FormatError):
    """A stream of records is damaged; what came before is sound."""


class Feed:
    """Frames of a growing file, a FIFO or standard input ("-"), as they come."""

    def __init__(self, path: FilePath) -> None:
        self.name = "standard input" if str(path) == "-" else str(path)
        self._path = None if str(path) == "-" else path
        self._descriptor = 0 if str(path) == "-" else _opened(path)
        self._gone = 0
        self._grows = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._held, self._at = bytearray(), 0
        self._place = 0
        self._has_begun = self._is_closed = False
        self.frames = 0
        self.ending = ""
        self.must_stop = False
        self.header: dict[str, Any] = {}
        self._last: Position | None = None
        self._damage: StreamError | None = None

    def open(self) -> Self:
        """Wait for the header of the stream.

        Raises: StreamError where it is none, or where the stream ends before.
        """
        frame = self._wait()
        if frame is not None:
            if frame.kind != HEADER:
                raise self._damaged("a stream begins with a header")
            self.header = json.loads(frame.body)
            if self.header.get("format") != FORMAT:
                raise self._damaged(f"its format is {self.header.get('format')!r}, not {FORMAT}")
        else:
            raise self._damaged(f"{self.ending} before the stream began")
        return self

    def take(self, records: int) -> list[Frame]:
        """Return the records that are there, waiting for the first; none at the end of the stream.

        Raises: StreamError, but after the records before the damage were given.
        """
        found: list[Frame] = []
        try:
            self._take(found, records)
        except StreamError as damage:
            if not found:
                raise
            self._damage = damage
        return found

    def _take(self, found: list[Frame], records: int) -> None:
        if self._damage is not None:
            raise self._damage
        size = 0
        frame = self._wait()
        while frame is not None and self._is_record(frame):
            found.append(frame)
            size += frame.size
            full = len(found) == records or size >= ROUND_BYTES
            frame = None if full else self._next()

    def _is_record(self, frame: Frame) -> bool:
        if frame.kind == END:
            if frame.event != self.frames - 2:
                raise self._damaged(f"its end marker counts {frame.event} records, {self.frames - 2} came")
            self.ending = MARKER
            return False
        key = (frame.run, frame.section, frame.event)
        if frame.kind == HEADER or (self._last is not None and key <= self._last):
            again = "a second header" if frame.kind == HEADER else f"record {key} after {self._last}"
            raise self._damaged(f"{again}: keys must rise, and none may come twice")
        self._last = key
        return True

    def _wait(self) -> Frame | None:
        """Return the next frame; None where there will be none."""
        while not self.ending:
            frame = self._next()
            if frame is not None:
                return frame
            if self._is_closed:
                self._close_early()
            elif self.must_stop:
                self.ending = STOPPED
            else:
                self._pause()
        return None

    def _next(self) -> Frame | None:
        """Return the next frame if all of it has come."""
        frame = self._parsed()
        while frame is None and self._fill():
            frame = self._parsed()
        if frame is not None:
            self._at += frame.size
            self._place += frame.size
            self.frames += 1
        return frame

    def _parsed(self) -> Frame | None:
        try:
            return parsed(self._held, self._at)
        except FormatError as error:
            raise self._damaged(error.message) from error

    def _fill(self) -> bool:
        """Read what has come, without waiting; tell whether there was anything."""
        if not self._grows and not select.select([self._descriptor], [], [], 0)[0]:
            return False
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if self._at > _CHUNK:
            del self._held[: self._at]
            self._at = 0
        self._held += data
        self._gone = 0 if data else self._gone
        self._has_begun = self._has_begun or bool(data)
        self._is_closed = not data and not self._grows and self._has_begun
        return bool(data)

    def _pause(self) -> None:
        """Wait for more; a FIFO that nobody has opened for writing yet is always ready, to no use."""
        if self._grows:
            self._look()
        if self._grows or not self._has_begun:
            time.sleep(POLL)
        else:
            select.select([self._descriptor], [], [], POLL)

    def _look(self) -> None:
        """Refuse a file that became shorter, or whose place was taken: nothing follows in it."""
        found = os.fstat(self._descriptor)
        had = self._place + len(self._held) - self._at
        if found.st_size < had:
            raise self._damaged(f"the file became shorter: it has {found.st_size} bytes and had {had}")
        if self._path is None:
            return
        try:
            is_there = os.path.samestat(found, os.stat(self._path))
        except OSError:
            is_there = False
        # Who writes may go on for a moment after the file was moved away.
        self._gone = 0 if is_there else self._gone + 1
        if self._gone > GONE_LOOKS:
            raise self._damaged("the file was moved, removed or replaced before its end marker")

    def _close_early(self) -> None:
        """The writer is gone and has written no end marker."""
        self.ending = CLOSED
        if len(self._held) > self._at:
            raise self._damaged("the stream ends within it")

    def _damaged(self, why: str) -> StreamError:
        if not self.frames and bytes(self._held[self._at : self._at + len(MAGIC)]) != MAGIC:
            return StreamError(
                f"{self.name} is no event stream", hint="a file that is whole is processed without --follow"
            )
        return StreamError(
            f"{self.name}, frame {self.frames} at byte {self._place}: {why}",
            hint="the outputs hold every record before it; ask the sender",
        )

    def close(self) -> None:
        if self._descriptor > 2:
            os.close(self._descriptor)


def _opened(path: FilePath) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be followed: {error.strerror}",
            hint="name a file, a FIFO, or - for standard input",
        ) from error


@dataclass
class _Round:
    """The records that are being worked on: record number ``first`` of the stream and those after it."""

    first: int = 0
    index: Index = field(default_factory=lambda: _index([]))
    frames: list[Frame] = field(default_factory=list)

    def hold(self, first: int, frames: list[Frame]) -> None:
        self.first, self.frames, self.index = first, frames, _index(frames)


def _index(frames: Sequence[Frame]) -> Index:
    keys = [np.array([frame[n] for frame in frames], kind) for n, kind in ((1, "u4"), (2, "u4"), (3, "u8"))]
    return Index(keys[0], keys[1], keys[2], np.arange(len(frames)))


class FollowReader(Reader):
    """Reads the records of the present round of a stream."""

    def __init__(self, feed: Feed, held: _Round) -> None:
        self._feed, self._held = feed, held
        self.series, self.record = str(feed.header.get("series", "")), str(feed.header.get("record", "event"))
        self.declarations = BankSet.from_document(feed.header.get("banks", {}), feed.name)

    @classmethod
    def of(cls, feed: Feed) -> Self:
        """Return the reader of a stream whose header has come."""
        return cls(feed, _Round())

    @classmethod
    def open(cls, paths: Mapping[str, FilePath], *, series: str, run: int) -> Self:
        (path,) = paths.values()
        return cls.of(Feed(path).open())

    def records(self) -> tuple[str, ...]:
        return (self.record,)

    def banks(self, record: str) -> tuple[str, ...]:
        return tuple(self.declarations)

    def index(self, record: str) -> Index:
        return self._held.index

    def read(self, record: str, positions: NDArray[np.int64], banks: Iterable[str] | None = None) -> Batch:
        index = self._held.index
        names = tuple(self.declarations if banks is None else banks)
        bodies = [self._held.frames[position].body for position in positions.tolist()]
        run = int(index.run[positions[0]])
        keys = index.section[positions], index.event[positions]
        batch = Batch(record, self.series, run, *keys, banks=self.declarations)
        try:
            batch.tables = decoded(bodies, self.declarations, names)
        except FormatError as error:
            raise FormatError(
                f"{self._feed.name}: among records {batch.key(0)} to {batch.key(batch.n - 1)} "
                f"{error.message}",
                hint="the stream declares other banks than it holds; mend what writes it",
            ) from error
        return batch


class FollowPlan:
    """Work that grows by rounds; a task takes the frames of its records along to its worker."""

    prescaled = 0
    records = None

    def __init__(
        self, reader: FollowReader, held: _Round, snapshot: Snapshot | None, roles: Sequence[str]
    ) -> None:
        self.series, self.record = reader.series, reader.record
        self.read = 0
        self.spans: list[Span] = []
        self.first: Position | None = None
        self.last: Position | None = None
        self._held, self._snapshot, self._roles = held, snapshot, tuple(roles)

    @property
    def index(self) -> Index:
        return self._held.index

    def extend(self, frames: list[Frame], batch_events: int) -> None:
        """Cut a round of records into batches: at runs, at changes of conditions, and by number."""
        self._held.hold(self.read, frames)
        round_plan = make_plan(
            self.index, self.series, self.record, self._interval(0, len(frames)),
            self._pieces(0, len(frames)), batch_events=batch_events,
        )  # fmt: skip
        base = self.read
        self.spans += [
            span._replace(start=base + span.start, stop=base + span.stop) for span in round_plan.spans
        ]
        self.read += len(frames)
        interval = self._interval(0, len(frames))
        self.first, self.last = self.first or interval.first, interval.last

    def _interval(self, start: int, stop: int) -> Interval:
        ends = (self.index.key(self.series, at).position for at in (start, stop - 1))
        return Interval(self.series, *ends)

    def _pieces(self, start: int, stop: int) -> tuple[Piece, ...]:
        return pieces_of(self._snapshot, self._roles, self._interval(start, stop))

    def tasks(self, first: int) -> list[Task]:
        return [Task(number, span.start, span.stop) for number, span in enumerate(self.spans[first:], first)]

    def positions(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.arange(start - self._held.first, stop - self._held.first)

    def run_of(self, task: Task) -> int:
        return int(self.index.run[task.start - self._held.first])

    def piece_of(self, task: Task) -> Piece:
        first = self._held.first
        (piece,) = self._pieces(task.start - first, task.stop - first)
        return piece

    def key(self, record: int) -> str:
        return str(self.index.key(self.series, record - self._held.first))

    def parcel(self, task: Task) -> bytes:
        first = self._held.first
        frames = self._held.frames[task.start - first : task.stop - first]
        return b"".join(packed(*frame[:1], frame.body, *frame[1:4]) for frame in frames)

    def take(self, task: Task, parcel: bytes) -> None:
        frames: list[Frame] = []
        at = 0
        while at < len(parcel):
            frame = parsed(parcel, at)
            assert frame is not None, "a parcel holds whole frames"
            frames.append(frame)
            at += frame.size
        if frames:
            self._held.hold(task.start, frames)


@dataclass(frozen=True)
class Followed:
    """What a pass left that followed a stream; why it ended, and the error of the stream, if there is one."""

    result: LoopResult
    ending: str
    error: FormatError | None = None


def follow_path(
    path: Path,
    feed: Feed,
    *,
    banks: BankSet,
    snapshot: Snapshot | None = None,
    outputs: Mapping[str, FilePath] | None = None,
    lineage: Callable[[str], Lineage] | None = None,
    workers: int = 1,
    isolated: bool | None = None,
    batch_events: int | None = None,
    seed: int = 0,
    limits: Limits = NO_LIMITS,
    run_info: Callable[[int], RunInfo] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    profile: bool = False,
) -> Followed:
    """Run a path over a stream until its end marker, or until SIGINT or SIGTERM; then close the outputs.

    Where the stream is damaged, the outputs are closed with every record before that, and the error is given.
    Raises: what ``run_path`` raises; the outputs are then removed.
    """
    held = _Round()
    reader = FollowReader(feed, held)
    read_banks = check_path(path, reader, banks, snapshot)
    plan = FollowPlan(reader, held, snapshot, path.conditions)
    wanted = wanted_outputs(path, outputs, False)
    engine = Engine(path, reader, plan, banks, read_banks, ConditionsSource(snapshot), wanted, seed, run_info)
    make = file_sinks(outputs or {}, lineage, banks, engine)
    error: FormatError | None = None
    with opened_pass(engine, workers, isolated, limits, make, profile=profile) as (pool, commit):
        conductor = Conductor(pool, plan, path, commit, limits, progress)
        try:
            size = batch_events or UNSIZED_EVENTS
            while frames := feed.take(2 * workers * size):
                plan.extend(frames, size)
                conductor.run()
        except StreamError as damage:
            error = damage
        commit.close()
        finish(pool, commit)
        first, last = plan.first or (0, 0, 0), plan.last or (0, 0, 0)
        return Followed(commit.result(Interval(reader.series, first, last)), feed.ending, error)


@contextmanager
def stoppable(feed: Feed) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end a stream where it stands; a second one interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        feed.must_stop = True
        signal.signal(number, before[number])

    before: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
