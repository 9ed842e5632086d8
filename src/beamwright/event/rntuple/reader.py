"""Read tuple files: lazily by column and event range, every page checked before use."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash

from beamwright.core.canonical import canonical_json, sha256_hex
from beamwright.core.errors import ChecksumError, FormatError, UnknownNameError
from beamwright.event.rntuple import tfile
from beamwright.event.rntuple.encoding import DAMAGED, ENCODINGS, Buffer, Encoding, decode, decompress
from beamwright.event.rntuple.layout import Layout, build_layout
from beamwright.event.rntuple.schema import Array, ColumnData, Schema
from beamwright.event.rntuple.wire import (
    WRITER,
    ClusterPages,
    ColumnPages,
    read_footer,
    read_header,
    read_page_list,
)
from beamwright.event.rntuple.writer import METADATA_KEY

Range = tuple[int, int]
EMPTY = bytearray()
MIN_SCRATCH = 1 << 20
_scratch = threading.local()


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Name the file in every format error raised inside; bytes that make no sense are one too."""
    try:
        yield
    except FormatError as error:
        if str(path) in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", hint=error.hint, **error.data) from error
    except (struct.error, IndexError, OverflowError) as error:
        raise FormatError(f"{path}: a record cannot be read", hint=DAMAGED) from error


def count_elements(pages: Array) -> int:
    """Return the elements in the pages of a list."""
    return int(np.abs(pages["elements"].astype(np.int64)).sum())


def page_extents(pages: Array) -> Array:
    """Return begin, stored size and end (behind the checksum, if any) of pages, int64, one row per page."""
    begins = pages["offset"].astype(np.int64)
    sizes = pages["size"].astype(np.int64)
    return np.stack([begins, sizes, begins + sizes + 8 * (pages["elements"] < 0)], axis=1)


class NTupleFile:
    """One tuple of a ROOT file, open for reading; threads may share it.

    ``name`` chooses among several tuples. Opening checks anchor, header and footer; page lists are read and
    checked when first needed, pages when read.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        self.path = Path(path)
        self._recent: dict[int, tuple[int, int, Array]] = {}
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with located(self.path):
                self._open(name)
        except BaseException:
            self.close()
            raise

    def _open(self, name: str | None) -> None:
        self.size = os.fstat(self.fd).st_size
        end, begin, names = tfile.read_file_header(self.pread(0, min(self.size, 100)))
        if end > self.size:
            raise FormatError(f"the file has {self.size} bytes, its head says {end}", hint=DAMAGED)
        keys, keys_size, self.uuid = tfile.read_directory(self.pread(begin + names, 60))
        self.keys = tfile.read_key_list(self.pread(keys, keys_size))
        self.anchor_key = self._find_anchor(name)
        self.name = self.anchor_key.name
        self.anchor = tfile.read_anchor(self.payload(self.anchor_key))
        at = self.anchor
        header = self.envelope(at.header_offset, at.header_size, at.header_length)
        _, self.writer, self.description, self.header_checksum = read_header(header)
        footer = self.envelope(at.footer_offset, at.footer_size, at.footer_length)
        self.groups = read_footer(footer, self.header_checksum, self.description)

    def _find_anchor(self, name: str | None) -> tfile.Key:
        anchors = {key.name: key for key in self.keys if key.class_name == tfile.ANCHOR_CLASS}
        if not anchors:
            raise FormatError("the file holds no RNTuple", hint="convert it, or name another file")
        if name is not None and name not in anchors:
            raise UnknownNameError(f"tuple of {self.path}", name, anchors)
        return next(iter(anchors.values())) if name is None else anchors[name]

    # --- bytes

    def pread(self, offset: int, size: int) -> bytes:
        """Read bytes of the file; raise FormatError beyond its end."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(f"the file ends before byte {offset + size}", hint=DAMAGED)
        data = os.pread(self.fd, size, offset)
        while len(data) < size:
            more = os.pread(self.fd, size - len(data), offset + len(data))
            if not more:
                raise FormatError("the file was truncated while it was read", hint=DAMAGED)
            data += more
        return data

    def _pread_scratch(self, offset: int, size: int) -> memoryview:
        """Read into this thread's buffer: fresh memory for every read would cost more than the read."""
        if offset < 0 or offset + size > self.size:
            raise FormatError(f"the file ends before byte {offset + size}", hint=DAMAGED)
        buffer: bytearray = getattr(_scratch, "buffer", EMPTY)
        if len(buffer) < size:
            buffer = _scratch.buffer = bytearray(max(MIN_SCRATCH, 1 << size.bit_length()))
        view = memoryview(buffer)[:size]
        done = 0
        while done < size:
            count = os.preadv(self.fd, [view[done:]], offset + done)
            if not count:
                raise FormatError("the file was truncated while it was read", hint=DAMAGED)
            done += count
        return view

    def payload(self, key: tfile.Key) -> Buffer:
        """Read the object of a listed key."""
        return decompress(self.pread(key.data, key.payload), key.unpacked)

    def envelope(self, offset: int, size: int, length: int) -> Buffer:
        """Read and unpack an envelope."""
        return decompress(self.pread(offset, size), length)

    # --- what the file says of itself

    @property
    def is_own(self) -> bool:
        """Return whether this package wrote the file."""
        return bool(self.writer == WRITER)

    @cached_property
    def layout(self) -> Layout:
        """Return the schema and the physical columns behind it."""
        return build_layout(self.description)

    @property
    def schema(self) -> Schema:
        """Return the schema: all fields that can be read."""
        return self.layout.schema

    @property
    def n_entries(self) -> int:
        """Return the number of events."""
        return sum(group.span for group in self.groups)

    @cached_property
    def clusters(self) -> list[ClusterPages]:
        """Return the clusters of the file in event order."""
        found: list[ClusterPages] = []
        for group in self.groups:
            with located(self.path):
                data = self.envelope(group.offset, group.size, group.length)
                found += read_page_list(data, self.header_checksum)
        position = 0
        for number, cluster in enumerate(found):
            if cluster.first_entry != position:
                raise FormatError(f"{self.path}: cluster {number} begins at another event", hint=DAMAGED)
            position += cluster.n_entries
        if position != self.n_entries:
            raise FormatError(f"{self.path}: clusters and groups count different events", hint=DAMAGED)
        return found

    @cached_property
    def metadata_record(self) -> dict[str, object]:
        """Return the metadata record with its digests; empty for files of other writers."""
        keys = [key for key in self.keys if key.class_name == tfile.STRING_CLASS and key.name == METADATA_KEY]
        if not keys:
            return {}
        with located(self.path):
            text = tfile.read_string(self.payload(keys[0]))
        try:
            record = json.loads(text)
            entries, digest = record["metadata"], record["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self.path}: the metadata record cannot be read", hint=DAMAGED) from error
        if sha256_hex(canonical_json(entries)) != digest:
            raise ChecksumError(f"{self.path}: the checksum of the metadata does not match", hint=DAMAGED)
        return dict(record)

    @property
    def metadata(self) -> dict[str, Any]:
        """Return the metadata entries that the writer was given; empty for files of other writers.

        Mergers that do not know the record copy it from their inputs, where it was true.
        """
        if not self.is_own:
            return {}
        entries = self.metadata_record.get("metadata", {})
        return dict(entries) if isinstance(entries, dict) else {}

    # --- columns

    def cluster_bytes(self, cluster: int) -> int:
        """Return the in-memory bytes of a cluster, from its page table."""
        total = 0
        for number, column in enumerate(self.schema.columns):
            total += count_elements(self.stored(number, cluster)[1].pages) * column.itemsize
        return total

    def select(self, columns: Iterable[str] | None = None) -> list[int]:
        """Return the numbers of the named columns and of the offsets they need, parents first.

        A name is a column key (``Hit.t``) or a field path (``Hit``: all columns in it); None means all.
        """
        if columns is None:
            return list(range(len(self.schema.columns)))
        wanted: set[int] = set()
        for name in columns:
            for number in self._matching(name):
                while number >= 0:
                    wanted.add(number)
                    number = self.schema.columns[number].parent
        return sorted(wanted)

    def _matching(self, name: str) -> list[int]:
        found = [
            number
            for number, column in enumerate(self.schema.columns)
            if column.key == name or column.key.startswith((f"{name}.", f"{name}@"))
        ]
        if found:
            return found
        for path, reason in self.layout.unsupported.items():
            if path == name or name.startswith(f"{path}."):
                raise FormatError(
                    f"{self.path}: column {name} cannot be read: {reason}",
                    hint="leaves, strings, vectors and records can; write the column as one of them",
                )
        raise UnknownNameError(f"column of {self.path}", name, self.schema.index)

    def read(
        self, columns: Iterable[str] | None = None, start: int = 0, stop: int | None = None
    ) -> ColumnData:
        """Return columns of the events ``start`` to ``stop`` with the offsets that count them.

        Raises ChecksumError, naming column, cluster, page and place, before any damaged value is returned.
        """
        wanted = self.select(columns)
        stop = self.n_entries if stop is None else min(stop, self.n_entries)
        pieces = self._pieces(max(start, 0), stop)
        ranges = {-1: [(first, last) for _, first, last in pieces]}
        clusters = [number for number, _, _ in pieces]
        out: ColumnData = {}
        with located(self.path):
            for number in wanted:
                column = self.schema.columns[number]
                spans = ranges[column.parent]
                if column.is_index:
                    out[column.key], ranges[number] = self._read_offsets(number, clusters, spans)
                else:
                    out[column.key] = self._read_values(number, clusters, spans)
        return out

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return (cluster, first event, last event), events counted in the cluster."""
        pieces = []
        for number, cluster in enumerate(self.clusters):
            first = max(start - cluster.first_entry, 0)
            last = min(stop - cluster.first_entry, cluster.n_entries)
            if first < last:
                pieces.append((number, first, last))
        return pieces

    def _read_values(self, number: int, clusters: Sequence[int], spans: Sequence[Range]) -> Array:
        out = np.empty(sum(last - first for first, last in spans), self.schema.columns[number].dtype)
        at = 0
        for cluster, (first, last) in zip(clusters, spans, strict=True):
            self.fill(number, cluster, first, last, out[at : at + last - first])
            at += last - first
        return out

    def _read_offsets(
        self, number: int, clusters: Sequence[int], spans: Sequence[Range]
    ) -> tuple[Array, list[Range]]:
        """Return joined offsets from 0, and the element range of the children per cluster."""
        out = np.zeros(sum(last - first for first, last in spans) + 1, np.int64)
        children: list[Range] = []
        at = 1
        for cluster, (first, last) in zip(clusters, spans, strict=True):
            ends = out[at : at + last - first]
            self.fill(number, cluster, first, last, ends)
            begin = self._element(number, cluster, first - 1) if first and last > first else 0
            finish = int(ends[-1]) if last > first else begin
            if finish < begin:
                key = self.schema.columns[number].key
                raise FormatError(f"offsets {key} fall in cluster {cluster}", hint=DAMAGED)
            children.append((begin, finish))
            ends += out[at - 1] - begin
            at += last - first
        return out, children

    def _element(self, number: int, cluster: int, position: int) -> int:
        value = np.empty(1, self.schema.columns[number].dtype)
        self.fill(number, cluster, position, position + 1, value)
        return int(value[0])

    def stored(self, number: int, cluster: int) -> tuple[Encoding, ColumnPages]:
        """Return the pages that hold a column in a cluster, and their encoding."""
        pages = self.clusters[cluster].columns
        for physical in self.layout.physical[number]:
            if physical < len(pages) and pages[physical].first >= 0:
                return ENCODINGS[self.description.columns[physical].code], pages[physical]
        key = self.schema.columns[number].key
        raise FormatError(f"column {key} has no pages in cluster {cluster}", hint=DAMAGED)

    def fill(self, number: int, cluster: int, first: int, last: int, out: Array) -> None:
        """Decode elements ``first`` to ``last`` of a column of a cluster into ``out``."""
        first, out = self._from_recent(number, cluster, first, out)
        if first == last:
            return
        encoding, column = self.stored(number, cluster)
        counts = np.abs(column.pages["elements"].astype(np.int64))
        ends = np.cumsum(counts)
        if not len(ends) or last > ends[-1]:
            key = self.schema.columns[number].key
            raise FormatError(f"column {key} has too few elements in cluster {cluster}", hint=DAMAGED)
        begin, stop = int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last, "left")) + 1
        stored = self.fetch(number, cluster, column.pages, begin, stop)
        position = int(ends[begin] - counts[begin])
        for data, count in zip(stored, counts[begin:stop].tolist(), strict=True):
            page = decompress(data, encoding.page_bytes(count))
            low, high = max(first, position), min(last, position + count)
            if high - low == count:
                decode(encoding, page, out[low - first : high - first])
            else:
                whole = np.empty(count, out.dtype)
                decode(encoding, page, whole)
                self._recent[number] = (cluster, position, whole)
                out[low - first : high - first] = whole[low - position : high - position]
            position += count

    def _from_recent(self, number: int, cluster: int, first: int, out: Array) -> tuple[int, Array]:
        """Take what the page read last has of the elements wanted; return what remains."""
        recent = self._recent.get(number)
        if recent is None or recent[0] != cluster or not recent[1] <= first < recent[1] + len(recent[2]):
            return first, out
        values = recent[2][first - recent[1] :][: len(out)]
        out[: len(values)] = values
        return first + len(values), out[len(values) :]

    def fetch(
        self,
        number: int,
        cluster: int,
        pages: Array,
        begin: int,
        stop: int,
        checksums: list[bytes] | None = None,
    ) -> list[memoryview]:
        """Read stored pages in as few reads as possible and check their checksums.

        The views are valid until this thread reads again. The checksums are appended to ``checksums`` as the
        file has them, empty where a page has none.
        """
        if begin == stop:
            return []
        extents = page_extents(pages[begin:stop])
        if not (extents[1:, 0] == extents[:-1, 2]).all():
            # the buffer is used again for each page, so each is copied out
            single = (self.fetch(number, cluster, pages, i, i + 1, checksums)[0] for i in range(begin, stop))
            return [memoryview(bytes(page)) for page in single]
        block = self.block(number, cluster, extents, begin, checksums)
        base = int(extents[0, 0])
        return [block[offset - base : offset - base + size] for offset, size, _ in extents.tolist()]

    def block(
        self, number: int, cluster: int, extents: Array, first: int, checksums: list[bytes] | None = None
    ) -> memoryview:
        """Read pages that lie one behind the other, checksums between them, and check them.

        ``first`` is the number of the first page. The view is valid until this thread reads again.
        """
        base = int(extents[0, 0])
        block = self._pread_scratch(base, int(extents[-1, 2]) - base)
        for page, (offset, size, end) in enumerate(extents.tolist(), first):
            checksum = bytes(block[offset - base + size : end - base])
            data = block[offset - base : offset - base + size]
            if checksum and xxhash.xxh3_64_digest(data)[::-1] != checksum:
                raise self._bad_page(number, cluster, page, offset)
            if checksums is not None:
                checksums.append(checksum)
        return block

    def _bad_page(self, number: int, cluster: int, page: int, offset: int) -> ChecksumError:
        key = self.schema.columns[number].key
        return ChecksumError(
            f"{self.path}: the checksum of page {page} of column {key} in cluster {cluster} "
            f"(byte {offset}) does not match",
            hint=DAMAGED,
            column=key,
            cluster=cluster,
            page=page,
            offset=offset,
        )

    def close(self) -> None:
        """Close the file; harmless when closed already."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
