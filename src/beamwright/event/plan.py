"""The plan of a pass: which records are kept, how they are cut into batches, and what each batch stands
under.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import ConditionsError, UsageError
from beamwright.core.runs import EventKey, Interval, Position
from beamwright.event.batch import Batch
from beamwright.event.keys import Ascending, Index, Places, prescaled
from beamwright.event.module import Conditions, Constants

BATCH_EVENTS = 65_536
UNSIZED_EVENTS = 10_000
"""The most records of a batch, and the most where their size is not known beforehand."""
BATCH_BYTES = 16 << 20


class Stage(IntEnum):
    """How much of a path a task runs: all of it, up to the builder with it, or what follows the builder."""

    ALL = 0
    BUILD = 1
    AFTER = 2


class Task(NamedTuple):
    """Kept records ``start`` to ``stop`` of batch ``number``; of the records created from them, ``first`` to
    ``last``.
    """

    number: int
    start: int
    stop: int
    stage: Stage = Stage.ALL
    first: int = 0
    last: int = -1
    tries: int = 0

    @property
    def records(self) -> int:
        """How many records the task can still be cut into."""
        return self.last - self.first if self.stage is Stage.AFTER else self.stop - self.start

    def halves(self) -> list[Task]:
        """Return two tasks that together are this one."""
        if self.stage is Stage.AFTER:
            middle = (self.first + self.last) // 2
            return [self._replace(last=middle).fresh(), self._replace(first=middle).fresh()]
        middle = (self.start + self.stop) // 2
        return [self._replace(stop=middle).fresh(), self._replace(start=middle).fresh()]

    def fresh(self) -> Task:
        """Return the task as new: a single record is tried twice, what can be halved once."""
        return self._replace(tries=0 if self.records == 1 else 1)


@dataclass(frozen=True)
class Piece:
    """An interval over which no conditions change, and the payload of each role in it."""

    interval: Interval
    payloads: dict[str, str]


@dataclass(frozen=True)
class Again:
    """Records to be worked on once more: ``read`` are keys of records that are read; ``made`` are keys of
    records that a Builder makes, each with the key of its parent.
    """

    read: frozenset[Position]
    made: Mapping[Position, Position]

    @property
    def keys(self) -> frozenset[Position]:
        """The keys of all records that are read."""
        return self.read | frozenset(self.made.values())

    def among_read(self, batch: Batch) -> NDArray[np.bool_]:
        """Tell which records of a batch are named themselves, and not only parents of such."""
        return _are_in(self.read, batch.run, batch.section, batch.event)

    def among_made(self, created: Batch) -> NDArray[np.bool_]:
        """Tell which created records are meant: those named, and all that come of a record that is."""
        assert created.parent_section is not None and created.parent_event is not None, "a Builder made them"
        named = _are_in(self.made, created.run, created.section, created.event)
        return named | _are_in(self.read, created.run, created.parent_section, created.parent_event)


def _are_in(
    keys: Collection[Position], run: int, section: NDArray[np.uint32], event: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    rows = zip(section.tolist(), event.tolist(), strict=True)
    return np.array([(run, *row) in keys for row in rows], np.bool_)


class Span(NamedTuple):
    """Kept records ``start`` to ``stop``: one batch, all of one run and one piece of the conditions."""

    start: int
    stop: int
    run: int
    piece: int


class Workload(Protocol):
    """What is to be worked on, batch by batch: planned as a whole, or growing while it comes in."""

    @property
    def series(self) -> str: ...

    @property
    def record(self) -> str: ...

    @property
    def index(self) -> Index: ...

    @property
    def read(self) -> int: ...

    @property
    def prescaled(self) -> int: ...

    @property
    def spans(self) -> Sequence[Span]: ...

    @property
    def records(self) -> int | None:
        """How many records are worked on; None while nobody knows."""

    def tasks(self, first: int) -> list[Task]:
        """Return the tasks of the batches from number ``first`` on."""

    def positions(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions in the index of records."""

    def run_of(self, task: Task) -> int:
        """Return the run that a task works on."""

    def piece_of(self, task: Task) -> Piece:
        """Return the conditions that a task works under."""

    def key(self, record: int) -> str:
        """Return the key of a record."""

    def parcel(self, task: Task) -> bytes:
        """Return what another process needs for a task beside the files."""

    def take(self, task: Task, parcel: bytes) -> None:
        """Take what ``parcel`` gave, in another process."""


@dataclass(frozen=True)
class Plan:
    """What a pass over ``interval`` does: ``kept`` are the positions that the prescale leaves."""

    series: str
    record: str
    index: Index
    kept: Places
    read: int
    prescaled: int
    pieces: tuple[Piece, ...]
    spans: tuple[Span, ...]

    def tasks(self, first: int) -> list[Task]:
        return [Task(number, span.start, span.stop) for number, span in enumerate(self.spans[first:], first)]

    @property
    def records(self) -> int:
        return len(self.kept)

    def positions(self, start: int, stop: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.kept[start:stop]
        return found

    def run_of(self, task: Task) -> int:
        return self.spans[task.number].run

    def piece_of(self, task: Task) -> Piece:
        return self.pieces[self.spans[task.number].piece]

    def key(self, record: int) -> str:
        return str(self.index.key(self.series, int(self.kept[record])))

    def parcel(self, task: Task) -> bytes:
        return b""

    def take(self, task: Task, parcel: bytes) -> None:
        """Nothing is needed: every process has the plan."""


def make_plan(
    index: Index,
    series: str,
    record: str,
    interval: Interval,
    pieces: Sequence[Piece],
    *,
    prescale: int = 1,
    batch_events: int | None = None,
    batch_bytes: int = BATCH_BYTES,
    only: Collection[Position] | None = None,
) -> Plan:
    """Plan a pass over the records of an index that lie in the interval, or over those of the keys ``only``.

    Raises: UsageError where there is no record of a key.
    """
    most = batch_events
    if most is None:
        most = UNSIZED_EVENTS if index.size is None else BATCH_EVENTS
    if min(prescale, most, batch_bytes) < 1:
        raise UsageError(
            f"prescale {prescale}, {most} events or {batch_bytes} bytes per batch", hint="from 1 on"
        )
    start, stop = index.span(interval)
    positions: Places = Ascending(start, stop)
    if only is not None:
        positions = _named(index, only, series, (start, stop))
    kept = positions
    if prescale > 1:
        places = positions[:]
        run, section, event = (column[places] for column in (index.run, index.section, index.event))
        kept = places[prescaled(run, section, event, prescale)]
    spans = tuple(_spans(index, kept, pieces, most, batch_bytes))
    left_out = len(positions) - len(kept)
    return Plan(series, record, index, kept, len(positions), left_out, tuple(pieces), spans)


def _named(
    index: Index, keys: Collection[Position], series: str, within: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the positions of the records of these keys, in order."""
    found = []
    for key in sorted(set(keys)):
        at = index.position(key)
        if not (within[0] <= at < within[1]) or index.key(series, at).position != key:
            raise UsageError(
                f"there is no record {EventKey(series, *key)} in the inputs",
                hint="give the inputs that were read when it was quarantined",
            )
        found.append(at)
    return np.asarray(found, np.int64)


def pieces_of(snapshot: Snapshot | None, roles: Sequence[str], interval: Interval) -> tuple[Piece, ...]:
    """Cut an interval where the conditions that are read change.

    Raises: ConditionsError where something is read and there are none, NotCoveredError.
    """
    if not roles:
        return (Piece(interval, {}),)
    if snapshot is None:
        raise ConditionsError(
            f"the conditions {', '.join(roles)} are read and there are none",
            hint="give a snapshot, which `beamwright conditions export` writes, with --conditions FILE",
        )
    parts = snapshot.boundaries(roles, interval)
    at = [(part, (part.series, part.first)) for part in parts]
    return tuple(
        Piece(part, {role: snapshot.resolve(role, where)[1] for role in roles}) for part, where in at
    )


class ConditionsSource:
    """Hands out the constants of a snapshot, each payload unpacked once."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self._snapshot = snapshot
        self._held: dict[str, Constants] = {}

    def __call__(self, payloads: dict[str, str]) -> Conditions:
        """Return the constants of each role."""
        return {role: self._constants(payload_id) for role, payload_id in payloads.items()}

    def _constants(self, payload_id: str) -> Constants:
        if payload_id not in self._held:
            assert self._snapshot is not None, "a piece names payloads only where there is a snapshot"
            arrays, document = self._snapshot.constants(payload_id)
            self._held[payload_id] = Constants(arrays, document, payload_id)
        return self._held[payload_id]


def _spans(index: Index, kept: Places, pieces: Sequence[Piece], events: int, size: int) -> list[Span]:
    """Cut the kept records at runs, at pieces, and by number and bytes."""
    cuts = {0, len(kept)}
    cuts.update(index.run_cuts(kept))
    starts = [_before(kept, index.position(piece.interval.first)) for piece in pieces]
    cuts.update(starts)
    found: list[Span] = []
    ordered = sorted(cuts)
    for start, stop in pairwise(ordered):
        piece = int(np.searchsorted(starts, start, "right")) - 1
        run = index.run_of(int(kept[start]))
        found += [Span(a, b, run, piece) for a, b in _portions(index, kept, start, stop, events, size)]
    return found


def _before(kept: Places, position: int) -> int:
    """Return how many of the kept records stand before a position."""
    return kept.before(position) if isinstance(kept, Ascending) else int(np.searchsorted(kept, position))


def _portions(
    index: Index, kept: Places, start: int, stop: int, events: int, size: int
) -> list[tuple[int, int]]:
    """Cut a range into portions of at most ``events`` records and about ``size`` bytes."""
    if index.size is None:
        return [(a, min(a + events, stop)) for a in range(start, stop, events)]
    if index.size.strides == (0,):  # one size for all
        step = max(min(events, size // max(int(index.size[0]), 1)), 1)
        return [(a, min(a + step, stop)) for a in range(start, stop, step)]
    filled = np.cumsum(index.size[kept[start:stop]])
    portions, first = [], start
    while first < stop:
        before = int(filled[first - start - 1]) if first > start else 0
        fitting = start + int(np.searchsorted(filled, before + size, "right"))
        last = min(max(fitting, first + 1), first + events, stop)
        portions.append((first, last))
        first = last
    return portions
