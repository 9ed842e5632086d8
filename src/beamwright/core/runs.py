"""Event keys and the algebra of intervals over them.

A position is (series, run, section, event); intervals are closed, live inside one series and are ordered by
(run, section, event). ``RUN_MAX``, ``SECTION_MAX`` and ``EVENT_MAX`` stand for the end of a series, a run,
a section.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beamwright.core.errors import UsageError

MEASURES = ("luminosity", "livetime")  # what a run is worth
RUN_MAX = 2**32 - 1
SECTION_MAX = 2**32 - 1
EVENT_MAX = 2**63 - 1

Position = tuple[int, int, int]


@dataclass(frozen=True, order=True, slots=True)
class EventKey:
    """The identity of one event: series, run, section, event."""

    series: str
    run: int
    section: int
    event: int

    @classmethod
    def parse(cls, text: str) -> EventKey:
        """Read ``SERIES:RUN:SECTION:EVENT``.

        Raises: UsageError.
        """
        parts = text.split(":")
        if len(parts) != 4 or not parts[0] or not all(p.isdigit() for p in parts[1:]):
            raise UsageError(
                f"{text!r} is no event key", hint="write SERIES:RUN:SECTION:EVENT, as in 44:6884:366:12"
            )
        return cls(parts[0], int(parts[1]), int(parts[2]), int(parts[3]))

    @property
    def position(self) -> Position:
        return self.run, self.section, self.event

    def __str__(self) -> str:
        return f"{self.series}:{self.run}:{self.section}:{self.event}"


@dataclass(frozen=True, order=True, slots=True)
class Interval:
    """A closed interval of positions (run, section, event) inside one series."""

    series: str
    first: Position
    last: Position

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise UsageError(
                f"interval {self} runs backwards",
                hint="exchange its ends",
            )

    @classmethod
    def sections(cls, series: str, run: int, first: int = 0, last: int = SECTION_MAX) -> Interval:
        """Return the interval of whole sections first..last of one run."""
        return cls(series, (run, first, 0), (run, last, EVENT_MAX))

    @classmethod
    def runs(cls, series: str, first: int, last: int) -> Interval:
        """Return the interval of whole runs first..last."""
        return cls(series, (first, 0, 0), (last, SECTION_MAX, EVENT_MAX))

    @classmethod
    def from_document(cls, document: Sequence[Any]) -> Interval:
        """Read the form that ``document()`` writes."""
        series, first, last = document
        return cls(str(series), tuple(first), tuple(last))

    def document(self) -> list[Any]:
        """Return a JSON-ready form."""
        return [self.series, list(self.first), list(self.last)]

    def contains(self, key: EventKey) -> bool:
        """Tell whether the key lies inside."""
        return key.series == self.series and self.first <= key.position <= self.last

    def covers(self, other: Interval) -> bool:
        """Tell whether ``other`` lies wholly inside."""
        return self.series == other.series and self.first <= other.first and other.last <= self.last

    def intersect(self, other: Interval) -> Interval | None:
        """Return the common part, or None."""
        if self.series != other.series:
            return None
        first, last = max(self.first, other.first), min(self.last, other.last)
        return Interval(self.series, first, last) if first <= last else None

    def subtract(self, other: Interval) -> list[Interval]:
        """Return what is left after ``other`` is taken out: none, one or two intervals."""
        common = self.intersect(other)
        if common is None:
            return [self]
        left = [Interval(self.series, self.first, before(common.first))] if self.first < common.first else []
        right = [Interval(self.series, after(common.last), self.last)] if common.last < self.last else []
        return left + right

    def __str__(self) -> str:
        return f"{self.series}:{_text(self.first, 0)}..{_text(self.last, 1)}"


def _text(position: Position, is_last: int) -> str:
    run, section, event = position
    parts = [str(run)]
    open_section = section == (SECTION_MAX if is_last else 0)
    open_event = event == (EVENT_MAX if is_last else 0)
    if not (open_section and open_event):
        parts.append(str(section))
    if not open_event:
        parts.append(str(event))
    return ":".join(parts)


def before(position: Position) -> Position:
    """Return the position just before."""
    run, section, event = position
    if event > 0:
        return run, section, event - 1
    if section > 0:
        return run, section - 1, EVENT_MAX
    if run == 0:
        raise UsageError("there is no position before the first one")
    return run - 1, SECTION_MAX, EVENT_MAX


def after(position: Position) -> Position:
    """Return the position just after."""
    run, section, event = position
    if event < EVENT_MAX:
        return run, section, event + 1
    if section < SECTION_MAX:
        return run, section + 1, 0
    if run == RUN_MAX:
        raise UsageError("there is no position after the last one")
    return run + 1, 0, 0


def touch(left: Interval, right: Interval) -> bool:
    """Tell whether ``right``, which does not start before ``left``, leaves no position between them."""
    return left.series == right.series and (right.first <= left.last or right.first == after(left.last))


def union(parts: Iterable[Interval]) -> list[Interval]:
    """Return the fewest intervals that hold what the parts hold, in order: neighbours are joined."""
    found: list[Interval] = []
    for part in sorted(parts):
        if found and touch(found[-1], part):
            found[-1] = Interval(part.series, found[-1].first, max(found[-1].last, part.last))
        else:
            found.append(part)
    return found


def meeting(ordered: Sequence[Interval], interval: Interval) -> Sequence[Interval]:
    """Return those of ordered intervals, of which no two overlap, that share a position with one."""
    start = bisect_left(ordered, (interval.series, interval.first), key=lambda i: (i.series, i.last))
    stop = bisect_right(ordered, (interval.series, interval.last), key=lambda i: (i.series, i.first))
    return ordered[start:stop]


def gaps(whole: Interval, parts: Iterable[Interval]) -> list[Interval]:
    """Return what of ``whole`` no part covers, in order."""
    inside = sorted(common for part in parts if (common := part.intersect(whole)) is not None)
    found, start = [], whole.first
    for part in inside:
        if start < part.first:
            found.append(Interval(whole.series, start, before(part.first)))
        if part.last == whole.last:
            return found
        start = max(start, after(part.last))
    return [*found, Interval(whole.series, start, whole.last)]


def overlaps(parts: Iterable[Interval]) -> list[tuple[Interval, Interval]]:
    """Return the neighbouring pairs (in order of their start) that overlap."""
    ordered = sorted(parts)
    found = []
    widest: Interval | None = None
    for part in ordered:
        if widest is not None and widest.intersect(part) is not None:
            found.append((widest, part))
        if widest is None or widest.series != part.series or part.last > widest.last:
            widest = part
    return found
