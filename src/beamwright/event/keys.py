"""Keys of records as arrays: their order, their hash, and spans of them by interval."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beamwright.core.errors import FormatError
from beamwright.core.runs import EventKey, Interval, Position
from beamwright.event.regular import Regular, rise

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


class Ascending:
    """The numbers from ``start`` to before ``stop``, made where they are asked for: an array of the places of
    all records would take as much memory as their keys.
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, max(start, stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, wanted: Any) -> Any:
        if isinstance(wanted, slice):
            begin, end, step = wanted.indices(len(self))
            return np.arange(self.start + begin, self.start + end, step)
        if isinstance(wanted, int | np.integer):
            return np.int64(range(self.start, self.stop)[wanted])
        return self[:][wanted] if np.asarray(wanted).dtype == np.bool_ else self._at(wanted)

    def _at(self, wanted: ArrayLike) -> NDArray[np.int64]:
        places = np.asarray(wanted, np.int64)
        if len(places) and not -len(self) <= places.min() <= places.max() < len(self):
            raise IndexError(f"places from {places.min()} to {places.max()} among {len(self)}")
        return np.where(places < 0, places + self.stop, places + self.start)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.arange(self.start, self.stop, dtype=dtype or np.int64)

    def before(self, number: int) -> int:
        """Return how many of the numbers are smaller."""
        return min(max(number - self.start, 0), len(self))


Places: TypeAlias = NDArray[np.int64] | Ascending


class Index:
    """The keys of all records of one kind in key order; ``entry`` is where each stands in the file.

    ``size``, where a reader knows it, is the bytes of each record: it only balances batches. ``is_in_order``:
    whether the records lie in the file in the order of their keys. Columns that are regular become arrays
    when they are asked for as a whole.
    """

    def __init__(
        self,
        run: U32 | Regular,
        section: U32 | Regular,
        event: U64 | Regular,
        entry: Places,
        size: NDArray[np.int64] | None = None,
        is_in_order: bool = False,
    ) -> None:
        self._run, self._section, self._event = run, section, event
        self.entry, self.size, self.is_in_order = entry, size, is_in_order

    @cached_property
    def run(self) -> U32:
        """The run of each record."""
        return _part(self._run, 0, len(self))

    @cached_property
    def section(self) -> U32:
        """The section of each record."""
        return _part(self._section, 0, len(self))

    @cached_property
    def event(self) -> U64:
        """The event number of each record."""
        return _part(self._event, 0, len(self))

    def run_of(self, position: int) -> int:
        """Return the run of a record."""
        return int(self._run[position])

    def keys(self, start: int, stop: int) -> tuple[U32, U64]:
        """Return section and event of consecutive records."""
        return _part(self._section, start, stop), _part(self._event, start, stop)

    def keys_at(self, positions: NDArray[np.int64]) -> tuple[U32, U64]:
        """Return section and event of records at positions that rise."""
        n = len(positions)
        if n and positions[-1] - positions[0] == n - 1:
            return self.keys(int(positions[0]), int(positions[0]) + n)
        return _at(self._section, positions), _at(self._event, positions)

    def run_cuts(self, kept: Places) -> list[int]:
        """Return the numbers of the kept records, from 1 on, that are of another run than the one before."""
        if not len(kept) or self.run_of(int(kept[0])) == self.run_of(int(kept[-1])):
            return []
        if isinstance(self._run, Regular) and isinstance(kept, Ascending):
            cuts = self._run.starts - kept.start
            return [int(cut) for cut in cuts[(cuts > 0) & (cuts < len(kept))]]
        runs = _at(self._run, kept[:])
        return [int(cut) for cut in np.flatnonzero(runs[1:] != runs[:-1]) + 1]

    @classmethod
    def regular(
        cls, run: Regular, section: Regular, event: Regular, size: NDArray[np.int64] | None = None
    ) -> Index | None:
        """Make it from columns in the order of the file; None where their keys do not rise."""
        entry = Ascending(0, len(event))
        return cls(run, section, event, entry, size, True) if rise((run, section, event)) else None

    @classmethod
    def build(
        cls, run: ArrayLike, section: ArrayLike, event: ArrayLike, *, name: str, size: ArrayLike | None = None
    ) -> Index:
        """Sort keys that come in any order; ``name`` names their file in errors.

        Raises: FormatError where a key comes twice.
        """
        events = _unsigned(event, np.uint64, f"{name}: event")
        sections = np.broadcast_to(_unsigned(section, np.uint32, f"{name}: section"), events.shape)
        runs = np.broadcast_to(_unsigned(run, np.uint32, f"{name}: run"), events.shape)
        sizes = None if size is None else np.asarray(size, np.int64)
        if _rises(runs, sections, events):
            return cls(runs, sections, events, Ascending(0, len(events)), sizes, is_in_order=True)
        order = np.lexsort((events, sections, runs)).astype(np.int64)
        sizes = None if sizes is None else sizes[order]
        index = cls(runs[order], sections[order], events[order], order, sizes)
        index.check_unique(name)
        return index

    def __len__(self) -> int:
        return len(self._event)

    def check_unique(self, name: str) -> None:
        """Refuse a key that comes twice."""
        same = _equal_neighbours(self.run, self.section, self.event)
        if same.any():
            at = int(np.flatnonzero(same)[0])
            key = f"{self.run[at]}:{self.section[at]}:{self.event[at]}"
            raise FormatError(
                f"{name} holds the record {key} more than once ({int(same.sum())} such keys)",
                hint="keys are unique; let the reader choose one of them",
            )

    def span(self, interval: Interval) -> tuple[int, int]:
        """Return the first position inside the interval and the one after its last."""
        return self.position(interval.first, "left"), self.position(interval.last, "right")

    def within(self, interval: Interval) -> Index:
        """Return the part of the index that lies in the interval."""
        start, stop = self.span(interval)
        size = None if self.size is None else self.size[start:stop]
        return Index(_part(self._run, start, stop), *self.keys(start, stop), self.entry[start:stop], size)

    def position(self, key: Position, side: Any = "left") -> int:
        """Return where a key stands or would stand."""
        start, stop = 0, len(self)
        for column, value in zip((self._run, self._section), key[:2], strict=True):
            start, stop = bisect_left(column, value, start, stop), bisect_right(column, value, start, stop)
        find = bisect_left if side == "left" else bisect_right
        return find(self._event, key[2], start, stop)

    def key(self, series: str, position: int) -> EventKey:
        """Return the key at a position."""
        columns = (self._run, self._section, self._event)
        return EventKey(series, *(int(column[position]) for column in columns))


def _part(column: Any, start: int, stop: int) -> NDArray[Any]:
    made: NDArray[Any] = column.part(start, stop) if isinstance(column, Regular) else column[start:stop]
    return made


def _at(column: Any, positions: NDArray[np.int64]) -> NDArray[Any]:
    made: NDArray[Any] = column.at(positions) if isinstance(column, Regular) else column[positions]
    return made


def _unsigned(values: ArrayLike, dtype: Any, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    limit = np.iinfo(dtype).max
    if array.dtype.kind not in "iu":
        raise FormatError(f"{name} numbers are {array.dtype}", hint="keys are whole numbers")
    if array.size and (int(array.min()) < 0 or int(array.max()) > limit):
        raise FormatError(
            f"{name} numbers from {array.min()} to {array.max()}", hint=f"keys lie between 0 and {limit}"
        )
    return array.astype(dtype, copy=False)


_STEP_LENGTH = 1 << 18


def _rises(run: U32, section: U32, event: U64) -> bool:
    """Tell whether keys rise strictly, as in most files; piece by piece, since new memory is dear."""
    starts = range(0, max(len(event) - 1, 1), _STEP_LENGTH)
    cuts = [slice(start, start + _STEP_LENGTH + 1) for start in starts]
    return all(_rises_in(run[cut], section[cut], event[cut]) for cut in cuts)


def _rises_in(run: U32, section: U32, event: U64) -> bool:
    if not len(run) or not run.strides[0]:
        return is_ascending(section, event)
    if bool((run[1:] < run[:-1]).any()):
        return False
    cuts = [0, *(np.flatnonzero(run[1:] != run[:-1]) + 1).tolist(), len(run)]
    return all(is_ascending(section[a:b], event[a:b]) for a, b in pairwise(cuts))


def _equal_neighbours(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    same = np.ones(max(len(columns[0]) - 1, 0), np.bool_)
    for column in columns:
        same &= column[1:] == column[:-1]
    return same


def _mix(values: U64) -> U64:
    """Spread the bits of each value over all 64 (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIERS[0]
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIERS[1]
    return values ^ (values >> np.uint64(31))


def key_hash(run: ArrayLike, section: ArrayLike, event: ArrayLike, seed: int = 0) -> U64:
    """Return 64 well-mixed bits per key: equal keys and seed, equal bits, on any machine."""
    events = np.atleast_1d(np.asarray(event, np.uint64))
    mixed = np.full(events.shape, np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
    for part in (run, section, events):
        mixed = _mix((mixed + _STEP) ^ np.asarray(part).astype(np.uint64))
    return mixed


def prescaled(run: ArrayLike, section: ArrayLike, event: ArrayLike, factor: int) -> NDArray[np.bool_]:
    """Tell which keys a prescale of 1 in ``factor`` keeps."""
    kept: NDArray[np.bool_] = key_hash(run, section, event) % np.uint64(factor) == 0
    return kept


def distinct(*columns: NDArray[Any]) -> int:
    """Count the distinct keys, given as columns."""
    if not len(columns[0]):
        return 0
    order = np.lexsort(columns)
    return len(order) - int(_equal_neighbours(*(column[order] for column in columns)).sum())


def are_among(
    section: NDArray[Any], event: NDArray[Any], sections: NDArray[Any], events: NDArray[Any]
) -> NDArray[np.bool_]:
    """Tell which keys of one run are among others of the same run."""
    found: NDArray[np.bool_] = np.isin(_packed(section, event), _packed(sections, events))
    return found


def _packed(section: NDArray[Any], event: NDArray[Any]) -> NDArray[Any]:
    """Return keys as one value each, ordered like the keys."""
    packed = np.empty(len(event), np.dtype([("section", np.uint32), ("event", np.uint64)]))
    packed["section"], packed["event"] = section, event
    return packed


def is_ascending(section: NDArray[Any], event: NDArray[Any]) -> bool:
    """Tell whether the keys of one run rise strictly."""
    rises = event[1:] > event[:-1]
    if bool(rises.all()) and not bool((section[1:] < section[:-1]).any()):
        return True
    later = section[1:] > section[:-1]
    return bool((later | ((section[1:] == section[:-1]) & rises)).all())
