"""Files whose keys lie between each other's, joined in key order: what was quarantined back to its place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from beamwright.core.errors import FormatError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import EventKey
from beamwright.event.collection import CollectionReader
from beamwright.event.keys import Index
from beamwright.event.store import StreamWriter, Written, check_lineages


def interleave(
    inputs: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str], lineage: Lineage
) -> Written:
    """Write the records of files of one stream anew, in key order, into a new file.

    Keys that are quarantined in one input and present in another are quarantined no more.
    Raises: SchemaMismatchError where the inputs do not belong together, FormatError where a key comes twice.
    """
    with CollectionReader(inputs) as reader:
        if reader.points:
            raise FormatError(
                f"{reader.files[0].path} is a pointer skim, which cannot be interleaved",
                hint="promote it with `beamwright collection promote` first",
            )
        described = [
            (metadata, file.path) for metadata, file in zip(reader.metadata, reader.files, strict=True)
        ]
        check_lineages(described, may_overlap=True)
        index = reader.index(reader.record)
        keys = {key for metadata in reader.metadata for key in metadata.lineage.quarantined}
        missing = tuple(sorted(key for key in keys if not _holds(index, EventKey.parse(key))))
        first = reader.metadata[0]
        whole = replace(lineage, quarantined=())
        writer = StreamWriter(
            Path(path), first.lineage.stream, reader.declarations, whole,
            record=reader.record, built=reader.built,
        )  # fmt: skip
        with writer:
            for batch in reader.batches():
                writer.write(batch)
            return writer.close(missing)


def _holds(index: Index, key: EventKey) -> bool:
    at = index.position(key.position)
    return at < len(index) and index.key(key.series, at) == key
