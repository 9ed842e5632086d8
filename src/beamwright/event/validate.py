"""Prove a file of an event stream: pages, counts, key order, uniqueness, links, metadata and identity."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beamwright.core.errors import BeamwrightError, SchemaMismatchError
from beamwright.durable import hash_file
from beamwright.event.banks import ONE, Bank
from beamwright.event.evolution import Evolution
from beamwright.event.metadata import FileMetadata, metadata_of
from beamwright.event.pointer import pointer_problems
from beamwright.event.rntuple import Array, NTupleFile, derive_uuid, offsets_key, verify
from beamwright.event.sources import SourceFiles
from beamwright.event.table import Jagged, is_text
from beamwright.event.tuples import KEYS, schema_of

EXPECTED = (
    "events",
    "uuid",
    "stream",
    "series",
    "record",
    "release",
    "config_hash",
    "resolved_hash",
    "is_mc",
)


def validate_file(
    path: str | os.PathLike[str],
    expected: Mapping[str, Any] | None = None,
    sources: SourceFiles | None = None,
) -> dict[str, Any]:
    """Return the verdict on a file as a JSON-ready document.

    The pointers of a pointer skim are followed where ``sources`` are given. ``expected`` may name what the
    file has to be: events, uuid, stream, series, record, release, config_hash, resolved_hash, is_mc,
    interval (document form), in which all keys must lie, and banks (a BankSet), as which its banks must be
    readable. Raises OSError where the file cannot be opened.
    """
    checked = verify(path)
    problems = list(checked.problems)
    if not problems:
        try:
            problems += _content_problems(Path(path), checked.checksums, dict(expected or {}), sources)
        except BeamwrightError as error:
            problems.append(str(error))
    digest = hash_file(Path(path))
    return {
        "file": Path(path).name,
        "valid": not problems,
        "problems": problems,
        "events": checked.n_entries,
        "sha256": digest.sha256,
        "adler32": digest.adler32,
        "size": digest.size,
        "uuid": str(checked.uuid) if checked.uuid else None,
    }


def _content_problems(
    path: Path, checksums: bytes, expected: dict[str, Any], sources: SourceFiles | None
) -> list[str]:
    with NTupleFile(path) as file:
        metadata = metadata_of(file)
        found = list(_identity_problems(file, metadata, checksums))
        if not found:
            found += _key_problems(file, metadata)
            for bank in metadata.banks.values():
                found += _link_problems(file, metadata, bank)
                found += _text_problems(file, bank)
            if metadata.points:
                found += pointer_problems(file, metadata, sources)
        return found + list(_unexpected(file, metadata, expected))


def _identity_problems(file: NTupleFile, metadata: FileMetadata, checksums: bytes) -> Iterator[str]:
    if file.schema != schema_of(metadata.banks, metadata.built, metadata.points):
        yield f"{file.path}: the columns are not those of the banks that its metadata declares"
    if metadata.events != file.n_entries:
        yield f"{file.path}: the metadata counts {metadata.events} events, the file has {file.n_entries}"
    if derive_uuid(metadata.lineage.hash, checksums) != file.uuid:
        yield f"{file.path}: the UUID is not that of its lineage and pages"


def _key_problems(file: NTupleFile, metadata: FileMetadata) -> Iterator[str]:
    keys = file.read(KEYS)
    run, section, event = (keys[name] for name in KEYS)
    rises = _rises(run, section, event)
    if not rises.all():
        at = int(np.flatnonzero(~rises)[0]) + 1
        same = all(column[at] == column[at - 1] for column in (run, section, event))
        fault = "comes twice" if same else "is out of order"
        yield f"{file.path}: the record {run[at]}:{section[at]}:{event[at]} at entry {at} {fault}"
    ends = (
        [tuple(int(column[i]) for column in (run, section, event)) for i in (0, -1)]
        if len(run)
        else [None, None]
    )
    if ends != [metadata.first, metadata.last] or sorted(set(run.tolist())) != list(metadata.runs):
        yield f"{file.path}: runs or key range are not those of its metadata"


def _rises(run: Array, section: Array, event: Array) -> Array:
    """Tell for each record but the first whether its key is greater than that of the one before."""
    higher: Array = event[1:] > event[:-1]
    for column in (section, run):
        higher = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & higher)
    return higher


def _link_problems(file: NTupleFile, metadata: FileMetadata, bank: Bank) -> Iterator[str]:
    for column in bank.links:
        target = metadata.banks.get(column.link)
        if target is None:
            continue
        path = f"{bank.name}.{column.name}"
        for cluster in file.clusters:
            start, stop = cluster.first_entry, cluster.first_entry + cluster.n_entries
            wrong = _wrong_links(file, bank, path, column.jagged, target, start, stop)
            if wrong is not None:
                yield f"{file.path}: link {path} of entry {wrong} leads out of bank {target.name}"
                break


def _text_problems(file: NTupleFile, bank: Bank) -> Iterator[str]:
    for column in bank.columns:
        path = f"{bank.name}.{column.name}"
        for cluster in file.clusters if column.is_text else ():
            columns = file.read([path], cluster.first_entry, cluster.first_entry + cluster.n_entries)
            if not is_text(Jagged(columns[offsets_key(path, column.depth)], columns[path])):
                entries = f"{cluster.first_entry} to {cluster.first_entry + cluster.n_entries - 1}"
                yield f"{file.path}: column {path} of entries {entries} holds text that is no UTF-8"
                break


def _wrong_links(
    file: NTupleFile, bank: Bank, path: str, jagged: bool, target: Bank, start: int, stop: int
) -> int | None:
    """Return the first entry with a link outside -1 ... rows of the target, or None."""
    names = [path] if target.rows == ONE else [path, offsets_key(target.name)]
    columns = file.read(names, start, stop)
    n = stop - start
    entries = np.arange(n)
    if bank.rows != ONE:
        entries = np.repeat(entries, np.diff(columns[offsets_key(bank.name)]))
    if jagged:
        entries = np.repeat(entries, np.diff(columns[offsets_key(path)]))
    rows = np.ones(n, np.int64) if target.rows == ONE else np.diff(columns[offsets_key(target.name)])
    wrong = (columns[path] < -1) | (columns[path] >= rows[entries])
    return start + int(entries[np.flatnonzero(wrong)[0]]) if wrong.any() else None


def _unexpected(file: NTupleFile, metadata: FileMetadata, expected: dict[str, Any]) -> Iterator[str]:
    known = metadata.lineage.document() | {
        "events": file.n_entries,
        "uuid": str(file.uuid),
        "record": metadata.record,
    }
    for name in EXPECTED:
        if name in expected and known[name] != expected[name]:
            yield f"{file.path}: {name} is {known[name]!r}, expected {expected[name]!r}"
    if expected.get("banks") is not None:
        try:
            Evolution(metadata.declarations, expected["banks"], str(file.path))
        except SchemaMismatchError as error:
            yield str(error)
    if expected.get("interval") and metadata.first and metadata.last:
        series, first, last = expected["interval"]
        if series != metadata.series or metadata.first < tuple(first) or metadata.last > tuple(last):
            yield f"{file.path}: its keys lie outside the interval expected"
