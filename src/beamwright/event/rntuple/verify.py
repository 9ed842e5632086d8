"""Prove a tuple file: every checksum, every count, and for our own files every other byte.

A file of ours is a function of its pages, its schema, its metadata and its UUID. So all bytes around the
pages are computed again and compared: no flip of a bit stays unseen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from uuid import UUID

import numpy as np

from beamwright.core.canonical import canonical_json
from beamwright.core.errors import FormatError
from beamwright.event.rntuple import tfile
from beamwright.event.rntuple.encoding import DAMAGED, Buffer
from beamwright.event.rntuple.file import count_elements, located, page_extents
from beamwright.event.rntuple.reader import NTupleFile
from beamwright.event.rntuple.writer import seal_of

MAX_PROBLEMS = 20


@dataclass(slots=True)
class Verification:
    """What was found; ``checksums`` are the page checksums in order, as ``derive_uuid`` takes them."""

    path: Path
    problems: list[str] = field(default_factory=list)
    n_entries: int = 0
    n_clusters: int = 0
    n_pages: int = 0
    unchecked_pages: int = 0
    uuid: UUID | None = None
    checksums: bytes = b""
    own: bool = False

    @property
    def ok(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check a file in full and list what is wrong; only a file that cannot be opened raises (OSError).

    Files of other writers are checked as far as their checksums and counts go.
    """
    result = Verification(Path(path))
    try:
        with NTupleFile(path) as file, located(result.path):
            _verify(file, result)
    except FormatError as error:
        result.problems.append(str(error))
    return result


def _verify(file: NTupleFile, result: Verification) -> None:
    result.own, result.uuid, result.n_entries = file.is_own, file.uuid, file.n_entries
    result.n_clusters = len(file.clusters)
    checksums: list[bytes] = []
    for cluster in range(len(file.clusters)):
        _verify_pages(file, cluster, result, checksums)
    result.checksums = b"".join(checksums)
    _verify_starts(file, result)
    if not result.problems:
        for cluster in range(len(file.clusters)):
            _verify_counts(file, cluster, result)
    if file.is_own and not result.problems:
        with located(file.path):
            _verify_frame(file)
            _verify_seal(file, result.checksums)


def _verify_pages(file: NTupleFile, cluster: int, result: Verification, checksums: list[bytes]) -> None:
    """Check the pages of all columns, also of those that the schema leaves out."""
    names = column_names(file)
    for number, column in enumerate(file.clusters[cluster].columns):
        if len(result.problems) >= MAX_PROBLEMS:
            return
        before = len(checksums)
        try:
            with located(file.path):
                extents = page_extents(column.pages)
                file.fetch(names[number], cluster, extents, 0, len(extents), checksums)
        except FormatError as error:
            result.problems.append(str(error))
        result.n_pages += len(column.pages)
        result.unchecked_pages += sum(not checksum for checksum in checksums[before:])


def column_names(file: NTupleFile) -> dict[int, str]:
    """Return a name for each physical column: its key, or its field's name where the schema leaves it out."""
    fields = file.description.fields
    names = {number: fields[column.field_id].name for number, column in enumerate(file.description.columns)}
    for column, candidates in zip(file.schema.columns, file.layout.physical, strict=True):
        names |= dict.fromkeys(candidates, column.key)
    return names


def _verify_starts(file: NTupleFile, result: Verification) -> None:
    """Check that the columns of each cluster begin where those of the one before end."""
    totals = [0] * len(file.schema.columns)
    for cluster in range(len(file.clusters)):
        for number in range(len(totals)):
            _, column = file.stored(number, cluster)
            if column.first != totals[number]:
                key = file.schema.columns[number].key
                result.problems.append(f"{file.path}: column {key} begins wrongly in cluster {cluster}")
            totals[number] += count_elements(column.pages)


def _verify_counts(file: NTupleFile, cluster: int, result: Verification) -> None:
    """Check each column's length against the events or the offsets that count it."""
    expected = {-1: file.clusters[cluster].n_entries}
    for number, column in enumerate(file.schema.columns):
        _, stored = file.stored(number, cluster)
        elements = count_elements(stored.pages)
        if elements != expected[column.parent]:
            result.problems.append(
                f"{file.path}: column {column.key} has {elements} elements in cluster {cluster}, "
                f"{expected[column.parent]} are counted"
            )
        if column.is_index:
            is_counted = elements == expected[column.parent]
            expected[number] = _last_offset(file, number, cluster, elements, result) if is_counted else 0


def _last_offset(file: NTupleFile, number: int, cluster: int, elements: int, result: Verification) -> int:
    ends = np.zeros(elements + 1, np.int64)
    with located(file.path):
        file.fill(number, cluster, 0, elements, ends[1:])
    if bool((ends[1:] < ends[:-1]).any()):
        key = file.schema.columns[number].key
        result.problems.append(f"{file.path}: offsets {key} fall in cluster {cluster}")
    return int(ends[-1])


# --- the bytes around the pages, for files of ours


def _verify_frame(file: NTupleFile) -> None:
    """Compute header, keys, directory and closing records again and compare them byte for byte."""
    position = _verify_blobs(file)
    keys: list[tfile.Key] = []
    for listed, payload in zip(file.keys, _object_payloads(file), strict=True):
        keys.append(tfile.Key(position, len(payload), listed.class_name, listed.name))
        _compare(file, position, keys[-1].head() + payload, f"record {listed.name}")
        position = keys[-1].end
    closing, key_list, info, free = tfile.closing_records(position, keys)
    _compare(file, position, closing, "closing records")
    directory = tfile.directory_payload(key_list.end - key_list.position, key_list.position, file.uuid)
    head = tfile.file_header(free.end, free, info, file.uuid) + tfile.directory_key().head() + directory
    _compare(file, 0, head, "head")
    if free.end != file.size:
        raise FormatError(f"{file.size - free.end} bytes follow the end of the file", hint=DAMAGED)


def _object_payloads(file: NTupleFile) -> list[bytes]:
    if len(file.keys) != 2 or not file.metadata_record:
        raise FormatError("the file should hold a tuple and its metadata, nothing else", hint=DAMAGED)
    text = canonical_json(file.metadata_record).decode()
    return [file.anchor.payload(), tfile.string_payload(text)]


def _verify_blobs(file: NTupleFile) -> int:
    """Check that pages and envelopes fill their records without gap; return where the records end."""
    position = tfile.directory_key().end
    for start, size, unpacked in _blobs(file):
        key = tfile.blob_key(position, size, unpacked)
        if key.data != start:
            raise FormatError(f"a gap or an overlap lies before byte {start}", hint=DAMAGED)
        _compare(file, position, key.head(), "record of pages")
        position = key.end
    return position


def _blobs(file: NTupleFile) -> list[tuple[int, int, int]]:
    """Return place, stored size and unpacked size of the records that hold pages and envelopes."""
    at = file.anchor
    found = [(at.header_offset, at.header_size, at.header_length)]
    found.append((at.footer_offset, at.footer_size, at.footer_length))
    found += [(group.offset, group.size, group.length) for group in file.groups]
    for cluster in file.clusters:
        for start, end in _runs(chain.from_iterable(page_extents(c.pages) for c in cluster.columns)):
            found.append((start, end - start, end - start))
    return sorted(found)


def _runs(extents: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Return begin and end of each run of pages that lie one behind the other."""
    found: list[tuple[int, int]] = []
    for begin, _, end in sorted(extents):
        start = found.pop()[0] if found and found[-1][1] == begin else begin
        found.append((start, end))
    return found


def _compare(file: NTupleFile, position: int, expected: bytes, what: str) -> None:
    stored = file.pread(position, len(expected))
    if stored != expected:
        place = next(i for i, (a, b) in enumerate(zip(stored, expected, strict=True)) if a != b)
        raise FormatError(f"the {what} is damaged at byte {position + place}", hint=DAMAGED)


def _verify_seal(file: NTupleFile, checksums: bytes) -> None:
    at = file.anchor
    places = [(at.header_offset, at.header_size), *((group.offset, group.size) for group in file.groups)]
    places.append((at.footer_offset, at.footer_size))
    parts: list[Buffer] = [file.pread(offset, size) for offset, size in places]
    parts += [at.payload(), file.uuid.bytes, checksums, canonical_json(file.metadata)]
    if seal_of(parts) != file.metadata_record.get("seal"):
        raise FormatError("the seal over envelopes, UUID and metadata does not match", hint=DAMAGED)
