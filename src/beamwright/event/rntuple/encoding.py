"""Page encodings and compression blocks of the RNTuple format.

An encoding turns elements into the bytes of an unpacked page: split (all first bytes, then all second
bytes, ...), zigzag or delta before the split, bits packed with the lowest first.
"""

from __future__ import annotations

import lzma
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import zstandard

from beamwright.core.errors import FormatError
from beamwright.event.rntuple.schema import Array

Buffer = bytes | bytearray | memoryview
DAMAGED = "the file is damaged or truncated; copy it again"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a column type lie in a page."""

    code: int
    bits: int
    stored: np.dtype[Any]
    transform: Literal["plain", "split", "zigzag", "delta", "bits"]
    is_index: bool = False

    def page_bytes(self, elements: int) -> int:
        """Return the unpacked size of a page of so many elements."""
        return (elements * self.bits + 7) // 8


def _encodings() -> dict[int, Encoding]:
    plain = {
        0x01: "u1", 0x02: "u1", 0x03: "i1", 0x04: "u1", 0x05: "<i2", 0x06: "<u2", 0x07: "<i4", 0x08: "<u4",
        0x09: "<i8", 0x0A: "<u8", 0x0B: "<f2", 0x0C: "<f4", 0x0D: "<f8", 0x0E: "<u4", 0x0F: "<u8",
    }  # fmt: skip
    split = {0x12: "<u2", 0x14: "<u4", 0x16: "<u8", 0x17: "<f2", 0x18: "<f4", 0x19: "<f8"}
    zigzag = {0x11: "<i2", 0x13: "<i4", 0x15: "<i8"}
    delta = {0x1A: "<u4", 0x1B: "<u8"}
    table = {0x00: Encoding(0x00, 1, np.dtype("?"), "bits")}
    for transform, codes in (("plain", plain), ("split", split), ("zigzag", zigzag), ("delta", delta)):
        for code, name in codes.items():
            dtype = np.dtype(name)
            is_index = code in (0x0E, 0x0F, 0x1A, 0x1B)
            table[code] = Encoding(code, dtype.itemsize * 8, dtype, transform, is_index)  # type: ignore[arg-type]
    return table


ENCODINGS = _encodings()
INDEX_CODE = 0x1B
CHAR_CODE = 0x02
DEFAULT_CODES = {
    "bool": 0x00, "i1": 0x03, "u1": 0x04, "i2": 0x11, "u2": 0x12, "i4": 0x13, "u4": 0x14,
    "i8": 0x15, "u8": 0x16, "f4": 0x18, "f8": 0x19,
}  # fmt: skip


def _split(values: Array, out: Array) -> None:
    width = values.dtype.itemsize
    words = values.view(f"<u{width}")
    planes = out.reshape(width, len(values))
    planes[0] = words.astype(np.uint8)
    for k in range(1, width):
        np.right_shift(words, 8 * k, out=planes[k], casting="unsafe")


def _join(whole: Array, start: int, out: Array) -> None:
    """Fill ``out`` from one plane of bytes per byte of its words."""
    planes = whole[:, start : start + len(out)]
    width = used = out.dtype.itemsize
    while used > 1 and len(out) and not (planes[used - 1, 0] or np.maximum.reduce(planes[used - 1])):
        used -= 1
    if used <= width // 2:
        _join_low(planes[:used], out)
    elif width == 4:
        _join_four(planes, out)
    else:
        target = out.view(np.uint8).reshape(len(out), width)
        for k in range(width):
            target[:, k] = planes[k]


def _join_low(planes: Array, out: Array) -> None:
    """Put the lowest planes together where the others are zero: numbers that are small for their type."""
    out[:] = planes[-1]
    for plane in planes[-2::-1]:
        np.left_shift(out, 8, out=out)
        np.bitwise_or(out, plane, out=out)


def _join_four(planes: Array, out: Array) -> None:
    """Put four planes together by whole words: quicker than byte by byte."""
    low, high = planes[1].astype("<u2"), planes[3].astype("<u2")
    for word, plane in ((low, planes[0]), (high, planes[2])):
        np.left_shift(word, 8, out=word)
        np.bitwise_or(word, plane, out=word)
    out[:] = high
    np.left_shift(out, 16, out=out)
    np.bitwise_or(out, low, out=out)


def _sum_up(words: Array) -> None:
    np.cumsum(words, out=words)


def _unfold(words: Array) -> None:
    """Undo zigzag."""
    sign = words & words.dtype.type(1)
    np.right_shift(words, 1, out=words)
    np.bitwise_xor(words, np.negative(sign, out=sign), out=words)


class Loops(NamedTuple):
    """What puts pages together: ``joins`` by width takes planes, where to begin, and the words to fill."""

    joins: Mapping[int, Callable[[Array, int, Array], None]]
    sum_up: Callable[[Array], None]
    unfold: Callable[[Array], None]


ARRAYS = Loops(dict.fromkeys((2, 4, 8), _join), _sum_up, _unfold)
_loops = ARRAYS


def set_loops(loops: Loops) -> Loops:
    """Put other loops in the place of those in use, and return these."""
    global _loops
    before, _loops = _loops, loops
    return before


def encode(encoding: Encoding, values: Array) -> Array:
    """Return the unpacked page of ``values`` (dtype of the column in memory) as uint8."""
    if encoding.transform == "bits":
        return np.packbits(values, bitorder="little")
    if encoding.transform == "plain":
        return values.view(np.uint8)
    if encoding.transform == "zigzag":
        values = (values << 1) ^ (values >> (encoding.bits - 1))
    elif encoding.transform == "delta":
        values = _deltas(values)
    out = np.empty(encoding.page_bytes(len(values)), np.uint8)
    _split(values, out)
    return out


def decode(encoding: Encoding, page: Buffer, out: Array) -> None:
    """Fill ``out`` (its length is the number of elements) from an unpacked page."""
    data = np.frombuffer(page, np.uint8)
    if encoding.transform == "bits":
        out[:] = np.unpackbits(data, count=len(out), bitorder="little")
    elif encoding.transform == "plain":
        out[:] = data.view(encoding.stored)
    elif _same_words(encoding.stored, out.dtype):
        _decode_split(encoding, data, out)
    else:
        values = np.empty(len(out), encoding.stored)
        _decode_split(encoding, data, values)
        out[:] = values


def _same_words(stored: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    return stored.itemsize == wanted.itemsize and (stored.kind == "f") == (wanted.kind == "f")


def _deltas(values: Array) -> Array:
    deltas = values.copy()
    np.subtract(values[1:], values[:-1], out=deltas[1:])
    return deltas


def decode_part(encoding: Encoding, page: Buffer, elements: int, start: int, out: Array) -> bool:
    """Fill ``out`` from a page of so many elements, from ``start`` on, and return True; or False where the
    elements of a page are not to be had one without the other.
    """
    if encoding.transform not in ("split", "zigzag") or not _same_words(encoding.stored, out.dtype):
        return False
    _decode_planes(encoding, np.frombuffer(page, np.uint8), elements, start, out)
    return True


def _decode_split(encoding: Encoding, data: Array, out: Array) -> None:
    _decode_planes(encoding, data, len(out), 0, out)


def _decode_planes(encoding: Encoding, data: Array, elements: int, start: int, out: Array) -> None:
    width = encoding.stored.itemsize
    planes, words = data.reshape(width, elements), out.view(f"<u{width}")
    _loops.joins[width](planes, start, words)
    if encoding.transform == "delta":
        _loops.sum_up(words)
    elif encoding.transform == "zigzag":
        _loops.unfold(words)


_local = threading.local()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """Return this thread's compressor; a context may not be shared between threads."""
    contexts: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in contexts:
        contexts[level] = zstandard.ZstdCompressor(level=level, write_checksum=False)
    return contexts[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    found = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found


MAX_CHUNK = (1 << 24) - 1
HEADER = 9


def compress(data: Buffer, level: int) -> list[Buffer]:
    """Return the compression blocks of ``data`` in parts, or ``data`` itself where they would not be smaller.

    Level 0 stores unpacked.
    """
    view = memoryview(data)
    if level == 0:
        return [view]
    parts: list[Buffer] = []
    size = 0
    for start in range(0, len(view), MAX_CHUNK):
        chunk = view[start : start + MAX_CHUNK]
        packed = _compressor(level).compress(chunk)
        size += HEADER + len(packed)
        if len(packed) > MAX_CHUNK or size >= len(view):
            return [view]
        head = b"ZS\x01" + len(packed).to_bytes(3, "little") + len(chunk).to_bytes(3, "little")
        parts += (head, packed)
    return parts


def most_unpacked(sizes: Array) -> Array:
    """Return the bytes that pages of these sizes can hold: a block says its length in three bytes."""
    found: Array = np.maximum(sizes, (sizes // (HEADER + 1)) * MAX_CHUNK)
    return found


def decompress(data: Buffer, size: int) -> Buffer:
    """Return ``size`` bytes out of compression blocks; raise FormatError where they do not unpack to it."""
    if len(data) == size:
        return data
    view = memoryview(data)
    parts: list[bytes] = []
    while len(view) >= HEADER:
        packed = int.from_bytes(view[3:6], "little")
        unpacked = int.from_bytes(view[6:9], "little")
        parts.append(_unpack(bytes(view[:3]), view[HEADER : HEADER + packed], unpacked))
        view = view[HEADER + packed :]
    whole = parts[0] if len(parts) == 1 else b"".join(parts)
    if len(whole) != size or len(view):
        raise FormatError(f"a block unpacks to {len(whole)} bytes instead of {size}", hint=DAMAGED)
    return whole


def _unpack(method: bytes, data: memoryview, size: int) -> bytes:
    try:
        if method == b"ZS\x01":
            if zstandard.frame_content_size(data) not in (size, -1):
                raise FormatError(f"a compressed block does not hold {size} bytes", hint=DAMAGED)
            return _decompressor().decompress(data, max_output_size=size)
        if method == b"ZL\x08":
            return zlib.decompressobj().decompress(data, size + 1)
        if method == b"XZ\x00":
            return lzma.LZMADecompressor().decompress(data, size + 1)
    except (zstandard.ZstdError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise FormatError(f"a block does not unpack: {error}", hint=DAMAGED) from error
    raise FormatError(
        f"compression method {method!r} is not supported", hint="rewrite the file with zstd, zlib or lzma"
    )
