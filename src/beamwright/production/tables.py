"""Tables in Parquet files: put together in order, and validated by reading all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beamwright import durable
from beamwright.core.errors import SchemaMismatchError
from beamwright.event.columnar import extra

MAGIC = b"PAR1"


def concatenate(paths: Sequence[Path], target: Path) -> int:
    """Write the row groups of tables of one schema, in order, into a new one; return its rows.

    Raises: SchemaMismatchError.
    """
    parquet = extra("pyarrow.parquet")
    first, rows = parquet.ParquetFile(paths[0]), 0
    with parquet.ParquetWriter(target, first.schema_arrow, compression="zstd") as writer:
        for path in paths:
            file = parquet.ParquetFile(path)
            if not file.schema_arrow.equals(first.schema_arrow):
                message = f"the table {path.name} has other columns than {paths[0].name}"
                raise SchemaMismatchError(message, hint="one version of the code writes one kind of table")
            for number in range(file.num_row_groups):
                group = file.read_row_group(number)
                writer.write_table(group)
                rows += len(group)
    return rows


def validate(path: Path) -> dict[str, Any]:
    """Return the verdict on a table, all of whose columns are read."""
    rows, problems = 0, []
    try:
        file = extra("pyarrow.parquet").ParquetFile(path)
        rows = sum(len(file.read_row_group(number)) for number in range(file.num_row_groups))
        if rows != file.metadata.num_rows:
            problems.append(f"{path} says {file.metadata.num_rows} rows and has {rows}")
    except (OSError, extra("pyarrow").ArrowException) as error:
        problems.append(f"{path} is no table that can be read: {error}")
    digest = durable.hash_file(path)
    return {
        "file": path.name, "valid": not problems, "problems": problems, "events": rows,
        "sha256": digest.sha256, "adler32": digest.adler32, "size": digest.size, "uuid": None,
    }  # fmt: skip
