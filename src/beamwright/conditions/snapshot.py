"""Snapshots: the conditions of some intervals in one file, for workers that talk to no database.

A snapshot is an array bundle. Its document lists (role, interval, payload id); its arrays are the payloads'
bytes under their ids. Equal conditions give equal bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beamwright.conditions.payload import Arrays, Payload
from beamwright.core import bundle
from beamwright.core.canonical import canonical_json, merkle_root
from beamwright.core.errors import ChecksumError, FormatError, NotCoveredError, UnknownNameError, nearest
from beamwright.core.runs import EventKey, Interval, Position, after, before, gaps, touch

Piece = tuple[str, Interval, str]  # role, interval, payload id

_FORMAT = 1


def role_of(tag: str) -> str:
    """Return the role of a tag: what modules call it, the last part of its name."""
    return tag.rpartition("/")[2]


def coalesce(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces in order, neighbours of one role and payload joined.

    How an interval was cut when it was stored (fitted here, carried there) is no part of what it says.
    """
    found: list[Piece] = []
    for role, interval, payload_id in sorted(pieces):
        if found and found[-1][::2] == (role, payload_id) and touch(found[-1][1], interval):
            last = max(found[-1][1].last, interval.last)
            found[-1] = (role, Interval(interval.series, found[-1][1].first, last), payload_id)
        else:
            found.append((role, interval, payload_id))
    return found


def hash_pieces(pieces: Iterable[Piece]) -> str:
    """Return the resolved hash: the Merkle root over (role, interval, payload id)."""
    rows = ([role, *interval.document(), payload_id] for role, interval, payload_id in coalesce(pieces))
    return merkle_root(canonical_json(row).decode() for row in rows)


def cuts(pieces: Iterable[Piece], whole: Interval) -> list[Interval]:
    """Cut ``whole`` where any piece begins or ends: inside each part nothing changes."""
    starts = {whole.first}
    for _, interval, _ in coalesce(pieces):
        starts.add(interval.first)
        if interval.last < whole.last:
            starts.add(after(interval.last))
    inside = sorted(start for start in starts if whole.first <= start <= whole.last)
    ends = [*(before(start) for start in inside[1:]), whole.last]
    return [Interval(whole.series, first, last) for first, last in zip(inside, ends, strict=True)]


class Snapshot:
    """Conditions by role and position."""

    def __init__(self, global_tag: str, pieces: Sequence[Piece], payloads: Mapping[str, Payload]) -> None:
        self.global_tag = global_tag
        self.roles: tuple[str, ...] = tuple(sorted({role for role, _, _ in pieces}))
        self._payloads = dict(payloads)
        self._lines: dict[tuple[str, str], list[Piece]] = defaultdict(list)
        for piece in coalesce(pieces):
            self._lines[piece[0], piece[1].series].append(piece)
        self._starts = {key: [interval.first for _, interval, _ in line] for key, line in self._lines.items()}
        self._unpacked: dict[str, tuple[Arrays, Any]] = {}

    @classmethod
    def load(cls, path: str | Path) -> Snapshot:
        """Read a snapshot file."""
        return cls.from_bytes(Path(path).read_bytes(), str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "snapshot") -> Snapshot:
        """Read the bytes of a snapshot.

        Raises: FormatError.
        """
        arrays, document = bundle.unpack(data, name)
        try:
            if document["format"] != _FORMAT:
                raise FormatError(
                    f"{name} has snapshot format {document['format']}", hint="use the release that wrote it"
                )
            kinds = document["payloads"]
            payloads = {id: Payload(kinds[id], arrays[id].tobytes()) for id in kinds}
            pieces = [
                (str(role), Interval.from_document(doc), str(id)) for role, doc, id in document["pieces"]
            ]
            return cls(document["global_tag"], pieces, payloads)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{name} is no snapshot: {error!r}", hint="fetch or make it again") from error

    def to_bytes(self) -> bytes:
        """Return canonical bytes."""
        pieces = [
            [role, interval.document(), id] for line in self._lines.values() for role, interval, id in line
        ]
        document = {
            "format": _FORMAT,
            "global_tag": self.global_tag,
            "pieces": sorted(pieces),
            "payloads": {id: payload.kind for id, payload in self._payloads.items()},
        }
        arrays = {id: np.frombuffer(payload.data, np.uint8) for id, payload in self._payloads.items()}
        return bundle.pack(arrays, document)

    def __iter__(self) -> Iterator[Piece]:
        """Give all pieces, by role and in order."""
        return (piece for key in sorted(self._lines) for piece in self._lines[key])

    def resolve(self, role: str, at: EventKey | tuple[str, Position]) -> tuple[Interval, str]:
        """Return the interval around a position (an event key, or series and position) and its payload's id.

        Raises: NotCoveredError.
        """
        series, position = (at.series, at.position) if isinstance(at, EventKey) else at
        found = self._at(role, series, position)
        if found is None:
            raise self._not_covered(role, Interval(series, position, position))
        return found[1], found[2]

    def pieces(self, reads: Iterable[str], interval: Interval) -> list[Piece]:
        """Return the pieces of the roles, clipped to the interval.

        Raises: NotCoveredError when a part of the interval has no constants.
        """
        found: list[Piece] = []
        for role in sorted(set(reads)):
            clipped = self._clipped(role, interval)
            missing = gaps(interval, [part for _, part, _ in clipped])
            if missing:
                raise self._not_covered(role, missing[0])
            found += clipped
        return found

    def resolved_hash(self, reads: Iterable[str], interval: Interval) -> str:
        """Return the conditions identity of the interval for what is read."""
        return hash_pieces(self.pieces(reads, interval))

    def boundaries(self, reads: Iterable[str], interval: Interval) -> list[Interval]:
        """Cut the interval into parts in which none of the roles changes."""
        return cuts(self.pieces(reads, interval), interval)

    def constants(self, payload_id: str) -> tuple[Arrays, Any]:
        """Return a payload's arrays and document; its bytes are checked against its id, once.

        Raises: ChecksumError, UnknownNameError.
        """
        if payload_id not in self._unpacked:
            self._unpacked[payload_id] = self.payload(payload_id).unpack()
        return self._unpacked[payload_id]

    def payload(self, payload_id: str) -> Payload:
        """Return a payload; its bytes are checked against its id.

        Raises: ChecksumError, UnknownNameError.
        """
        if payload_id not in self._payloads:
            raise UnknownNameError("payload of this snapshot", payload_id, self._payloads)
        payload = self._payloads[payload_id]
        if payload.id != payload_id:
            raise ChecksumError(
                f"payload {payload_id} of the snapshot has other content", hint="fetch it again"
            )
        return payload

    def _clipped(self, role: str, interval: Interval) -> list[Piece]:
        line = self._lines.get((role, interval.series), [])
        start = max(0, bisect_right(self._starts.get((role, interval.series), []), interval.first) - 1)
        found: list[Piece] = []
        for _, part, payload_id in line[start:]:
            if part.first > interval.last:
                break
            common = part.intersect(interval)
            if common is not None:
                found.append((role, common, payload_id))
        return found

    def _at(self, role: str, series: str, position: Position) -> Piece | None:
        index = bisect_right(self._starts.get((role, series), []), position) - 1
        if index < 0:
            return None
        piece = self._lines[role, series][index]
        return piece if position <= piece[1].last else None

    def _not_covered(self, role: str, interval: Interval) -> NotCoveredError:
        hint = "wait until the chain has covered it, or load constants for it"
        if role not in self.roles:
            hint = f"it holds no {role} at all; {nearest(role, self.roles)}"
        return NotCoveredError(f"{role} of global tag {self.global_tag} does not cover {interval}", hint=hint)
