"""Files of a stream split by events or by size: pages are copied, clusters that are cut sealed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from beamwright.core.errors import UsageError
from beamwright.core.lineage import Lineage
from beamwright.event.metadata import FileMetadata, metadata_of
from beamwright.event.rntuple import NTupleFile, copy_cluster, seal_cluster, sealed_cluster, writer_like
from beamwright.event.store import Keys, Split, Written, new_file, part_path, share_out, storage_errors
from beamwright.event.tuples import KEYS, SOURCES


@dataclass
class _Plan:
    """One file to be made: pieces of clusters (number, first event, last event), and their bytes."""

    pieces: list[tuple[int, int, int]] = field(default_factory=list)
    events: int = 0
    bytes: int = 0

    def take(self, number: int, first: int, last: int, size: int) -> None:
        self.pieces.append((number, first, last))
        self.events += last - first
        self.bytes += size


def split_file(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    split: Split,
    lineage: Lineage | None = None,
) -> list[Written]:
    """Split a file of an event stream into ``name.0001.root`` and so on, beside ``path``, or into one file.

    ``lineage`` (default: that of the file) is that of the parts, but for the quarantined keys: each part has
    those that would stand in it. Files split by size end with clusters of the source. Raises: UsageError
    where no limit is given, StorageError where a part exists.
    """
    with NTupleFile(source) as file:
        plans = list(_plans(file, split))
        metadata = metadata_of(file)
        metadata = replace(metadata, lineage=_lineage(metadata.lineage, lineage))
        described = [_describe(file, metadata, plan) for plan in plans]
        shares = share_out(metadata.lineage.quarantined, [item.last for item in described])
        with ExitStack() as made:
            done = []
            for number, (plan, item, keys) in enumerate(zip(plans, described, shares, strict=True), 1):
                item = replace(item, lineage=replace(item.lineage, quarantined=keys))
                target = part_path(Path(path), number)
                done.append(_write(file, plan, item, target))
                made.callback(target.unlink, missing_ok=True)
            made.pop_all()
    return done


def parts_of(source: str | os.PathLike[str], split: Split) -> list[int]:
    """Return how many records each part would have."""
    with NTupleFile(source) as file:
        return [plan.events for plan in _plans(file, split)]


def _lineage(own: Lineage, wanted: Lineage | None) -> Lineage:
    return own if wanted is None else replace(wanted, quarantined=own.quarantined)


def _plans(file: NTupleFile, split: Split) -> Iterator[_Plan]:
    """Yield what each file holds; a file is full as one that is written with this split is."""
    if not split:
        raise UsageError("neither events nor bytes are limited", hint="say how large a part may be")
    plan = _Plan()
    for number, cluster in enumerate(file.clusters):
        pages = sealed_cluster(file, number).pages
        size = int(pages["size"].sum()) + 8 * len(pages)
        if plan.events and split.bytes and plan.bytes + size > split.bytes:
            yield plan
            plan = _Plan()
        first = 0
        while first < cluster.n_entries:
            room = split.events - plan.events if split.events else cluster.n_entries
            last = min(first + room, cluster.n_entries)
            plan.take(number, first, last, size * (last - first) // cluster.n_entries)
            first = last
            if split.events and plan.events == split.events:
                yield plan
                plan = _Plan()
    if plan.events or not file.n_entries:
        yield plan


def _describe(file: NTupleFile, metadata: FileMetadata, plan: _Plan) -> FileMetadata:
    if not plan.pieces:
        return metadata
    (begin, first, _), (end, _, last) = plan.pieces[0], plan.pieces[-1]
    start, stop = file.clusters[begin].first_entry + first, file.clusters[end].first_entry + last
    names = [*KEYS, *(SOURCES if metadata.points else ())]
    keys = Keys.of(file.read(names, start, stop))
    return replace(
        metadata,
        runs=tuple(keys.runs),
        first=keys.first,
        last=keys.last,
        events=plan.events,
        sources=tuple(sorted(keys.sources)),
    )


def _write(file: NTupleFile, plan: _Plan, metadata: FileMetadata, path: Path) -> Written:
    with storage_errors(path), new_file(path) as out:
        writer = writer_like(file, out)
        for number, first, last in plan.pieces:
            cluster = file.clusters[number]
            if last - first == cluster.n_entries:
                copy_cluster(writer, file, number, sealed_cluster(file, number))
                continue
            columns = file.read(None, cluster.first_entry + first, cluster.first_entry + last)
            level = cluster.columns[0].compression % 100
            writer.append(seal_cluster(file.schema, columns, level))
        uuid = writer.close(metadata.document(), lineage=metadata.lineage.hash)
        size = os.fstat(out.fileno()).st_size
    return Written(path, plan.events, str(uuid), size, sources=metadata.sources)
