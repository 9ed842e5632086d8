"""Tuple files in the RNTuple format: written, read, verified and merged by our own code.

Public: ``Schema`` and the field makers, ``seal_cluster``, ``ClusterCutter``, ``FileWriter``, ``NTupleFile``,
``verify`` and ``merge_files``. Depends on NumPy, xxhash and zstandard alone.
"""

from __future__ import annotations

from beamwright.event.rntuple.cluster import CLUSTER_BYTES, ClusterCutter, SealedCluster, seal_cluster
from beamwright.event.rntuple.columns import empty_columns
from beamwright.event.rntuple.file import Keeper
from beamwright.event.rntuple.merge import (
    MergeResult,
    copy_cluster,
    merge_files,
    sealed_cluster,
    writer_like,
)
from beamwright.event.rntuple.reader import NTupleFile
from beamwright.event.rntuple.schema import (
    Array,
    Column,
    ColumnData,
    Field,
    Schema,
    collection,
    leaf,
    offsets_key,
    record,
    string,
    vector,
)
from beamwright.event.rntuple.verify import Verification, verify
from beamwright.event.rntuple.writer import FileWriter, derive_uuid

__all__ = [
    "CLUSTER_BYTES",
    "Array",
    "ClusterCutter",
    "Column",
    "ColumnData",
    "Field",
    "FileWriter",
    "Keeper",
    "MergeResult",
    "NTupleFile",
    "Schema",
    "SealedCluster",
    "Verification",
    "collection",
    "copy_cluster",
    "derive_uuid",
    "empty_columns",
    "leaf",
    "merge_files",
    "offsets_key",
    "record",
    "seal_cluster",
    "sealed_cluster",
    "string",
    "vector",
    "verify",
    "writer_like",
]
