"""Array bundles: named NumPy arrays and a JSON document as canonical bytes.

Conditions payloads, accumulators and partial histograms travel in this form. Equal content gives equal
bytes; nothing in it can
be executed. Layout: ``BWB1``, the header's length (u8, little endian), the header (canonical JSON), then
each array's bytes in name order,
C-contiguous and little endian, each starting at a multiple of 8.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamwright.core.canonical import canonical_json
from beamwright.core.errors import FormatError

MAGIC = b"BWB1"
_KINDS = "biuf"

Array = NDArray[Any]


def pack(arrays: Mapping[str, Array], document: Any = None) -> bytes:
    """Return the arrays (any shape; bool, integer or float) and the document as canonical bytes."""
    table, parts, offset = [], [], 0
    for name in sorted(arrays):
        array = _canonical(name, np.asarray(arrays[name]))
        raw = array.tobytes()
        padding = -len(raw) % 8
        table.append([name, array.dtype.str, list(array.shape), offset, len(raw)])
        parts.append(raw + bytes(padding))
        offset += len(raw) + padding
    header = canonical_json({"arrays": table, "document": document})
    header += b" " * (-(len(header) + 12) % 8)
    return b"".join([MAGIC, struct.pack("<Q", len(header)), header, *parts])


def unpack(data: bytes, name: str = "bundle") -> tuple[dict[str, Array], Any]:
    """Return the arrays (read-only views of ``data``) and the document.

    Raises: FormatError.
    """
    try:
        if data[:4] != MAGIC:
            raise ValueError(f"it starts with {data[:4]!r} instead of {MAGIC!r}")
        (length,) = struct.unpack_from("<Q", data, 4)
        header = json.loads(data[12 : 12 + length])
        base = 12 + length
        arrays = {row[0]: _view(data, base, row) for row in header["arrays"]}
        return arrays, header["document"]
    except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise FormatError(
            f"{name} is no array bundle: {error}", hint="it may be truncated; fetch or make it again"
        ) from error


def _canonical(name: str, array: Array) -> Array:
    if array.dtype.kind not in _KINDS:
        raise FormatError(
            f"array {name!r} has dtype {array.dtype}", hint="a bundle holds booleans, integers and floats"
        )
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _view(data: bytes, base: int, row: list[Any]) -> Array:
    _, dtype, shape, offset, size = row
    kind = np.dtype(dtype)
    if (
        kind.kind not in _KINDS
        or size != kind.itemsize * int(np.prod(shape, dtype=np.int64))
        or base + offset + size > len(data)
    ):
        raise ValueError(f"array {row[0]!r} does not fit")
    return np.frombuffer(data, kind, size // kind.itemsize, base + offset).reshape(shape)
