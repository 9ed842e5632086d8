"""A tuple file as it is stored: bounded reads, envelopes, clusters, checked pages, metadata."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash

from beamwright.core.canonical import canonical_json, sha256_hex
from beamwright.core.errors import ChecksumError, FormatError, UnknownNameError
from beamwright.event.rntuple import tfile
from beamwright.event.rntuple.encoding import DAMAGED, Buffer, decompress
from beamwright.event.rntuple.schema import Array
from beamwright.event.rntuple.wire import (
    WRITER,
    ClusterPages,
    Description,
    read_footer,
    read_header,
    read_page_list,
)
from beamwright.event.rntuple.writer import METADATA_KEY

Range = tuple[int, int]
Extents = Sequence[tuple[int, int, int]]
"""Begin, stored size and end of pages."""
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


def _identity(fd: int) -> tuple[int, ...]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def count_elements(pages: Array) -> int:
    """Return the elements in the pages of a list."""
    return int(np.abs(pages["elements"].astype(np.int64)).sum())


def page_extents(pages: Array) -> Extents:
    """Return begin, stored size and end (behind the checksum, if any) of each page."""
    begins = pages["offset"].astype(np.int64)
    sizes = pages["size"].astype(np.int64)
    ends = begins + sizes + 8 * (pages["elements"] < 0)
    return list(zip(begins.tolist(), sizes.tolist(), ends.tolist(), strict=True))


class Keeper:
    """Keeps at most so many files of one reader open: others rest, and wake when they are read again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._awake: deque[TupleFile] = deque()

    def awake(self, file: TupleFile) -> None:
        """Take note that a file was opened; where there are too many, the one opened first may rest."""
        file.keeper = self
        self._awake.append(file)
        if len(self._awake) > self._most:
            self._awake.popleft().rest()


def _cycle(key: tfile.Key) -> int:
    return key.cycle


class TupleFile:
    """The stored parts of one tuple of a ROOT file: head, envelopes, pages, metadata; threads may share it.

    ``name`` chooses among several tuples. Opening checks anchor, header and footer; page lists are read and
    checked when first needed, pages when read. A file ``like`` another, open or not, takes its description
    where the headers are the same bytes.
    """

    def __init__(
        self, path: str | os.PathLike[str], name: str | None = None, like: TupleFile | None = None
    ) -> None:
        self.fd = -1
        self.path = Path(path)
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with located(self.path):
                self._open(name, like)
        except BaseException:
            self.close()
            raise

    writer: str
    header_checksum: int
    description: Description
    keeper: Keeper | None = None
    _identity: tuple[int, ...] | None = None
    _in_header: tuple[int, int]

    def _open(self, name: str | None, like: TupleFile | None) -> None:
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
        self._read_header(self.pread(at.header_offset, at.header_size), at.header_length, like)
        footer = self.envelope(at.footer_offset, at.footer_size, at.footer_length)
        self.groups = read_footer(footer, self.header_checksum, self.description)

    def _read_header(self, stored: bytes, length: int, like: TupleFile | None) -> None:
        self.stored_header = stored
        if like is not None and stored == like.stored_header and length == like.anchor.header_length:
            self.writer, self.header_checksum = like.writer, like.header_checksum
            fields, columns = like._in_header
            self.description = Description(
                like.description.fields[:fields], like.description.columns[:columns]
            )
        else:
            header = read_header(decompress(stored, length))
            _, self.writer, self.description, self.header_checksum = header
        # The footer may add to the description.
        self._in_header = len(self.description.fields), len(self.description.columns)

    def _find_anchor(self, name: str | None) -> tfile.Key:
        anchors: dict[str, tfile.Key] = {}
        for key in (key for key in self.keys if key.class_name == tfile.ANCHOR_CLASS):
            # Of objects of one name, which mergers leave behind, the one of the highest cycle is meant.
            anchors[key.name] = max(key, anchors.get(key.name, key), key=_cycle)
        if not anchors:
            raise FormatError(
                "the file holds no RNTuple",
                hint="read it as a file of others, with a ForeignReader, or name another file",
            )
        if name is not None and name not in anchors:
            raise UnknownNameError(f"tuple of {self.path}", name, anchors)
        return next(iter(anchors.values())) if name is None else anchors[name]

    # --- bytes

    def rest(self) -> None:
        """Close the file until it is read again."""
        if self.fd >= 0:
            identity = _identity(self.fd)
            self.close()
            self._identity = identity

    def _wake(self) -> None:
        """Open a resting file again; another one in its place is refused."""
        if self._identity is None:
            return
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        if _identity(self.fd) != self._identity:
            self.close()
            raise FormatError(f"{self.path} was replaced while it was read", hint="open it anew")
        if self.keeper is not None:
            self.keeper.awake(self)

    def pread(self, offset: int, size: int) -> bytes:
        """Read bytes of the file; raise FormatError beyond its end."""
        if self.fd < 0:
            self._wake()
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
        if self.fd < 0:
            self._wake()
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
            text = tfile.read_string(self.payload(max(keys, key=_cycle)))
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

    # --- pages

    def fetch(
        self,
        what: str,
        cluster: int,
        extents: Extents,
        begin: int,
        stop: int,
        checksums: list[bytes] | None = None,
    ) -> list[memoryview]:
        """Read stored pages in as few reads as possible and check their checksums; ``what`` names the column.

        The views are valid until this thread reads again. The checksums are appended to ``checksums`` as the
        file has them, empty where a page has none.
        """
        if begin == stop:
            return []
        wanted = extents[begin:stop]
        if any(one[2] != following[0] for one, following in pairwise(wanted)):
            # the buffer is used again for each page, so each is copied out
            single = (self.fetch(what, cluster, extents, i, i + 1, checksums)[0] for i in range(begin, stop))
            return [memoryview(bytes(page)) for page in single]
        block = self.block(wanted, lambda page: (what, cluster, page), begin, checksums)
        base = wanted[0][0]
        return [block[offset - base : offset - base + size] for offset, size, _ in wanted]

    def block(
        self,
        extents: Extents,
        place: Callable[[int], tuple[str, int, int]],
        first: int,
        checksums: list[bytes] | None = None,
    ) -> memoryview:
        """Read pages that lie one behind the other, checksums between them, and check them.

        ``place`` names column, cluster and page of each number from ``first`` on. The view is valid until
        this thread reads again.
        """
        base = extents[0][0]
        block = self._pread_scratch(base, extents[-1][2] - base)
        for number, (offset, size, end) in enumerate(extents, first):
            checksum = bytes(block[offset - base + size : end - base])
            data = block[offset - base : offset - base + size]
            if checksum and xxhash.xxh3_64_digest(data)[::-1] != checksum:
                raise self._bad_page(*place(number), offset)
            if checksums is not None:
                checksums.append(checksum)
        return block

    def _bad_page(self, what: str, cluster: int, page: int, offset: int) -> ChecksumError:
        return ChecksumError(
            f"{self.path}: the checksum of page {page} of column {what} in cluster {cluster} "
            f"(byte {offset}) does not match",
            hint=DAMAGED,
            column=what,
            cluster=cluster,
            page=page,
            offset=offset,
        )

    def close(self) -> None:
        """Close the file; harmless when closed already."""
        self._identity = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
