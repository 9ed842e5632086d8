"""Write a tuple file from sealed clusters, byte for byte the same for the same clusters."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np

from beamwright.core.canonical import canonical_json, sha256_hex
from beamwright.core.errors import FormatError
from beamwright.event.rntuple import tfile
from beamwright.event.rntuple.cluster import SealedCluster, span_bytes, split_spans
from beamwright.event.rntuple.encoding import Buffer, compress
from beamwright.event.rntuple.schema import Array, Schema
from beamwright.event.rntuple.wire import (
    ClusterGroup,
    ClusterPages,
    ColumnPages,
    footer_envelope,
    header_envelope,
    page_list_envelope,
)

TUPLE_NAME = "events"
METADATA_KEY = "metadata"
ENVELOPE_LEVEL = 5
GROUP_CLUSTERS = 1024
MAX_PAYLOAD = tfile.MAX_KEY_SIZE - 1024


def derive_uuid(lineage: str, checksums: bytes) -> UUID:
    """Return the UUID (version 8) of a file: the first bits of sha256(lineage, page checksums in order)."""
    digest = hashlib.sha256(struct.pack("<Q", len(lineage.encode())) + lineage.encode() + checksums).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76
    return UUID(int=number & ~(0x3 << 62) | 0x2 << 62)


def seal_of(parts: Sequence[Buffer]) -> str:
    """Return the sha256 over parts, each with its length before it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.hexdigest()


class FileWriter:
    """Appends sealed clusters to a file that the caller opened, and closes it with its metadata.

    The file must be a real one, opened for binary writing and empty. Name, fsync and link are the caller's.
    """

    def __init__(self, file: BinaryIO, schema: Schema, name: str = TUPLE_NAME) -> None:
        self.schema, self.name = schema, name
        self.n_entries = 0
        self.clusters: list[ClusterPages] = []
        self.max_payload = MAX_PAYLOAD
        self.fd = file.fileno()
        self._position = tfile.directory_key().end
        self._elements = np.zeros(len(schema.columns), np.int64)
        self._checksums: list[bytes] = []
        self._sealed: list[Buffer] = []
        self._closed = False
        envelope = header_envelope(schema, name)
        self.header_checksum = int.from_bytes(envelope[-8:], "little")
        self._header = self._add_envelope(envelope)

    @property
    def checksums(self) -> bytes:
        """Return the page checksums written so far, in order."""
        return b"".join(self._checksums)

    def append(self, cluster: SealedCluster) -> None:
        """Write one cluster behind the last."""
        view = memoryview(cluster.blob)

        def put(key: tfile.Key, first: int, last: int) -> None:
            start, stop = span_bytes(cluster.pages, first, last)
            self.write_at(key.position, key.head(), view[start:stop])

        self.place(cluster, put)

    def place(self, cluster: SealedCluster, put: Callable[[tfile.Key, int, int], None]) -> None:
        """Register one cluster; ``put(key, first page, last page + 1)`` brings its bytes into the file.

        ``put`` may still fill ``cluster.checksums``.
        """
        if self._closed or len(cluster.counts) != len(self.schema.columns):
            raise FormatError(
                "the cluster does not belong to this file", hint="seal it with the writer's schema"
            )
        pages = cluster.pages.copy()
        for first, last in split_spans(cluster.pages, self.max_payload):
            start, stop = span_bytes(cluster.pages, first, last)
            key = tfile.blob_key(self._position, stop - start)
            put(key, first, last)
            # the shift may be negative: a merge can move pages towards the begin
            pages["offset"][first:last] = pages["offset"][first:last].astype(np.int64) + (key.data - start)
            self._position = key.end
        self._register(cluster, pages)

    def _register(self, cluster: SealedCluster, pages: Array) -> None:
        columns: list[ColumnPages] = []
        at = 0
        for number, count in enumerate(cluster.counts.tolist()):
            first = int(self._elements[number])
            columns.append(ColumnPages(first, pages[at : at + count], 500 + cluster.level))
            at += count
        self.clusters.append(ClusterPages(self.n_entries, cluster.n_entries, columns))
        self._elements += cluster.elements
        self.n_entries += cluster.n_entries
        self._checksums.append(cluster.checksums.tobytes())

    def close(self, metadata: Mapping[str, Any], *, uuid: UUID | None = None, lineage: str = "") -> UUID:
        """Write page lists, footer, anchor, metadata (JSON-ready) and the frame of the file; return its UUID.

        Without ``uuid`` it is derived from ``lineage`` and the page checksums.
        """
        if self._closed:
            raise FormatError("the file is already closed", hint="close it once")
        identity = derive_uuid(lineage, self.checksums) if uuid is None else uuid
        footer = self._add_envelope(footer_envelope(self.header_checksum, self._groups()))
        anchor = tfile.Anchor(*self._header, *footer).payload()
        keys = [self._add_record(tfile.ANCHOR_CLASS, self.name, anchor)]
        self._sealed += (anchor, identity.bytes, self.checksums)
        text = metadata_text(metadata, self._sealed)
        keys.append(self._add_record(tfile.STRING_CLASS, METADATA_KEY, tfile.string_payload(text)))
        self._frame(keys, identity)
        self._closed = True
        return identity

    def _groups(self) -> list[ClusterGroup]:
        groups: list[ClusterGroup] = []
        for start in range(0, len(self.clusters), GROUP_CLUSTERS):
            members = self.clusters[start : start + GROUP_CLUSTERS]
            offset, size, length = self._add_envelope(page_list_envelope(self.header_checksum, members))
            span = sum(cluster.n_entries for cluster in members)
            groups.append(ClusterGroup(members[0].first_entry, span, len(members), length, size, offset))
        return groups

    def _frame(self, keys: Sequence[tfile.Key], identity: UUID) -> None:
        closing, key_list, info, free = tfile.closing_records(self._position, keys)
        self.write_at(self._position, closing)
        directory = tfile.directory_payload(key_list.end - key_list.position, key_list.position, identity)
        head = tfile.file_header(free.end, free, info, identity)
        self.write_at(0, head, tfile.directory_key().head(), directory)

    def _add_envelope(self, envelope: bytes) -> tuple[int, int, int]:
        """Write an envelope into a record of its own; return its place, stored size and length."""
        stored = b"".join(compress(envelope, ENVELOPE_LEVEL))
        if len(stored) > self.max_payload:
            raise FormatError("an envelope exceeds 1 GiB", hint="write fewer clusters into one file")
        key = tfile.blob_key(self._position, len(stored), len(envelope))
        self.write_at(self._position, key.head(), stored)
        self._position = key.end
        self._sealed.append(stored)
        return key.data, len(stored), len(envelope)

    def _add_record(self, class_name: str, name: str, payload: bytes) -> tfile.Key:
        key = tfile.Key(self._position, len(payload), class_name, name)
        self.write_at(self._position, key.head(), payload)
        self._position = key.end
        return key

    def write_at(self, position: int, *parts: Buffer) -> None:
        """Write parts one after the other from ``position`` on."""
        for part in parts:
            view = memoryview(part)
            while view:
                written = os.pwrite(self.fd, view, position)
                position += written
                view = view[written:]


def metadata_text(metadata: Mapping[str, Any], sealed: Sequence[Buffer]) -> str:
    """Return the metadata record: the caller's entries and a seal over them and all other parts."""
    entries = dict(metadata)
    content = canonical_json(entries)
    record = {"metadata": entries, "sha256": sha256_hex(content), "seal": seal_of([*sealed, content])}
    return canonical_json(record).decode()
