"""One record by its key: keys rise through a file, so a few pages lead to it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from beamwright.core.errors import UnknownNameError
from beamwright.core.runs import EventKey, Position
from beamwright.event.batch import Batch
from beamwright.event.collection import CollectionReader
from beamwright.event.rntuple import NTupleFile
from beamwright.event.tuples import KEYS

BLOCK = 512
"""Keys that are read at a time, in the end."""


def locate(file: NTupleFile, key: Position) -> int | None:
    """Return the entry of a key in a file of an event stream, None where it is not there.

    The first keys of the clusters are searched by halves, then keys inside one cluster: some 20 pages of a
    file of any size.
    """
    starts = [cluster.first_entry for cluster in file.clusters]
    number = _last(file, starts, key)
    if number < 0:
        return None
    stop = starts[number] + file.clusters[number].n_entries
    blocks = range(starts[number], stop, BLOCK)
    begin = blocks[_last(file, blocks, key)]
    columns = file.read(KEYS, begin, min(begin + BLOCK, stop))
    keys = list(zip(*(columns[name].tolist() for name in KEYS), strict=True))
    at = bisect_right(keys, key) - 1
    return begin + at if keys[at] == key else None


def _last(file: NTupleFile, entries: Sequence[int], key: Position) -> int:
    """Return the number of the last of some rising entries whose key is not above ``key``, -1 for none."""
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if _is_above(file, entries[middle], key):
            high = middle
        else:
            low = middle + 1
    return low - 1


def _is_above(file: NTupleFile, entry: int, key: Position) -> bool:
    """Tell whether an entry's key is above ``key``; parts of it that decide nothing are not read."""
    for name, wanted in zip(KEYS, key, strict=True):
        found = int(file.read([name], entry, entry + 1)[name][0])
        if found != wanted:
            return found > wanted
    return False


def neighbours(reader: CollectionReader, key: EventKey) -> list[Position]:
    """Return the keys in each file that stand next to a key, before and after it (or the key itself)."""
    found: list[Position] = []
    for file in reader.files if key.series == reader.series else []:
        below = _last(file, range(file.n_entries), key.position)
        places = [entry for entry in (below, below + 1) if 0 <= entry < file.n_entries]
        found += [_key(file, entry) for entry in places]
    return found


def _key(file: NTupleFile, entry: int) -> Position:
    run, section, event = (int(file.read([name], entry, entry + 1)[name][0]) for name in KEYS)
    return run, section, event


def find(reader: CollectionReader, key: EventKey) -> tuple[int, int] | None:
    """Return the number of the file that holds a key and its entry there, None where no file does."""
    if key.series != reader.series:
        return None
    for number, (file, metadata) in enumerate(zip(reader.files, reader.metadata, strict=True)):
        if metadata.first and metadata.last and metadata.first <= key.position <= metadata.last:
            entry = locate(file, key.position)
            if entry is not None:
                return number, entry
    return None


def read_record(reader: CollectionReader, key: EventKey, banks: list[str] | None = None) -> Batch:
    """Return the batch of one record, with the named banks or all.

    Raises: UnknownNameError where no file holds the key; the hint names the range that there is.
    """
    place = find(reader, key)
    if place is None:
        ends = [(m.first, m.last) for m in reader.metadata if m.first and m.last]
        known = [str(EventKey(reader.series, *position)) for pair in ends for position in pair]
        raise UnknownNameError(f"{reader.record} of {reader.files[0].path.name}", str(key), known)
    return reader.read_place(*place, key.run, banks)
