"""Encodings and compression blocks against plain restatements of the format."""

from __future__ import annotations

import importlib
import lzma
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from beamwright.core.errors import FormatError
from beamwright.event.rntuple import encoding as encoding_module
from beamwright.event.rntuple.encoding import ENCODINGS, decode, decode_part, decompress, encode
from beamwright.event.rntuple.encoding import compress as compress_in_parts
from support import streams


def compress(data: bytes, level: int) -> bytes:
    return b"".join(compress_in_parts(data, level))


def reference(code: int, values: np.ndarray) -> bytes:
    """Encode element by element, as the format's text says."""
    encoding = ENCODINGS[code]
    if encoding.transform == "bits":
        packed = bytearray((len(values) + 7) // 8)
        for i, value in enumerate(values.tolist()):
            packed[i // 8] |= int(value) << i % 8
        return bytes(packed)
    width = encoding.stored.itemsize
    if encoding.transform == "zigzag":
        values = [2 * v if v >= 0 else -2 * v - 1 for v in values.tolist()]
    elif encoding.transform == "delta":
        numbers = values.tolist()
        values = [numbers[0], *(b - a for a, b in zip(numbers, numbers[1:], strict=False))]
    else:
        values = values.view(f"<u{width}").tolist()
    words = [int(v).to_bytes(width, "little") for v in values]
    if encoding.transform == "plain":
        return b"".join(words)
    return b"".join(bytes(word[k] for word in words) for k in range(width))


@pytest.fixture(params=["arrays", "compiled"])
def loops(request):
    """Pages are put together by array operations and by compiled loops."""
    chosen = encoding_module.ARRAYS
    if request.param == "compiled":
        pytest.importorskip("numba", reason="numba is not installed")
        chosen = importlib.import_module("beamwright.event.rntuple.compiled").loops()
    before = encoding_module.set_loops(chosen)
    yield request.param
    encoding_module.set_loops(before)


@pytest.mark.parametrize("code", sorted(ENCODINGS))
@pytest.mark.parametrize("n", [1, 7, 8, 1000])
def test_every_encoding_is_the_one_of_the_format_and_reverses(code, n, loops):
    encoding = ENCODINGS[code]
    rng = np.random.default_rng(code)
    if encoding.transform == "bits":
        values = rng.random(n) < 0.5
    elif encoding.is_index:
        values = np.cumsum(rng.integers(0, 9, n)).astype(encoding.stored)
    else:
        values = rng.integers(0, 256, n * encoding.stored.itemsize, np.uint8).view(encoding.stored)
    page = encode(encoding, values)
    assert page.tobytes() == reference(code, values)
    assert len(page) == encoding.page_bytes(n)
    out = np.empty(n, values.dtype)
    decode(encoding, page, out)
    assert out.tobytes() == values.tobytes()


@pytest.mark.parametrize("start, length", [(0, 100), (3, 50), (99, 1), (40, 0)])
@pytest.mark.parametrize("code", [0x12, 0x13, 0x14, 0x15, 0x16, 0x18, 0x19])
def test_a_part_of_a_page_is_that_part(code, start, length, loops):
    stored = ENCODINGS[code].stored
    values = np.random.default_rng(1).integers(0, 256, 100 * stored.itemsize, np.uint8).view(stored)
    out = np.empty(length, stored)
    assert decode_part(ENCODINGS[code], encode(ENCODINGS[code], values).tobytes(), 100, start, out)
    assert out.tobytes() == values[start : start + length].tobytes()


@pytest.mark.parametrize("code", [0x12, 0x14, 0x16])
def test_more_than_a_page_holds_is_refused(code, loops):
    stored = ENCODINGS[code].stored
    with pytest.raises((ValueError, IndexError)):
        decode_part(ENCODINGS[code], bytes(10 * stored.itemsize), 10, 5, np.empty(6, stored))
    with pytest.raises((ValueError, IndexError)):
        decode(ENCODINGS[code], bytes(10 * stored.itemsize), np.empty(11, stored))


def test_extreme_signed_values_survive_zigzag(loops):
    for code, name in ((0x11, "<i2"), (0x13, "<i4"), (0x15, "<i8")):
        limits = np.iinfo(name)
        values = np.array([limits.min, limits.max, 0, -1, 1], name)
        out = np.empty_like(values)
        decode(ENCODINGS[code], encode(ENCODINGS[code], values), out)
        assert out.tolist() == values.tolist()


def test_wider_columns_in_memory_are_filled_by_value():
    halves = np.array([0.5, -2.0, 65504.0], "<f2")
    out = np.empty(3, "<f8")
    decode(ENCODINGS[0x17], encode(ENCODINGS[0x17], halves), out)
    assert out.tolist() == [0.5, -2.0, 65504.0]
    ends = np.empty(3, np.int64)
    decode(ENCODINGS[0x1A], encode(ENCODINGS[0x1A], np.array([3, 3, 10], "<u4")), ends)
    assert ends.tolist() == [3, 3, 10]


def test_blocks_are_smaller_or_stored_as_they_are():
    noise = np.random.default_rng(0).bytes(5000)
    assert compress(noise, 1) == noise
    packed = compress(b"a" * 5000, 1)
    assert bytes(packed[:3]) == b"ZS\x01"
    assert len(packed) < 100
    assert bytes(decompress(packed, 5000)) == b"a" * 5000
    assert compress(b"a" * 5000, 0) == b"a" * 5000


def test_data_beyond_one_block_is_split():
    data = bytes(range(256)) * (1 << 16) + b"end"
    packed = compress(data, 1)
    assert int.from_bytes(packed[6:9], "little") == (1 << 24) - 1
    assert decompress(packed, len(data)) == data


@pytest.mark.parametrize(("method", "pack"), [(b"ZL\x08", zlib.compress), (b"XZ\x00", lzma.compress)])
def test_blocks_of_other_programs_are_unpacked(method, pack):
    data = b"beam" * 100
    packed = pack(data)
    sizes = len(packed).to_bytes(3, "little") + len(data).to_bytes(3, "little")
    assert decompress(method + sizes + packed, len(data)) == data


def test_damaged_and_unknown_blocks_raise():
    packed = compress(b"beam" * 100, 1)
    with pytest.raises(FormatError, match="does not unpack|does not hold"):
        decompress(packed[:9] + bytes(len(packed) - 9), 400)
    with pytest.raises(FormatError, match="instead of 401|does not hold"):
        decompress(packed, 401)
    with pytest.raises(FormatError, match="not supported"):
        decompress(b"L4\x01" + packed[3:], 400)


def test_a_block_that_claims_more_than_it_may_hold_is_refused_before_it_is_unpacked():
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 22))
    data = b"ZS\x01" + len(bomb).to_bytes(3, "little") + (100).to_bytes(3, "little") + bomb
    with pytest.raises(FormatError, match="does not hold 100 bytes"):
        decompress(data, 100)


def test_kernels_bring_compiled_loops_and_nothing_else_loads_numba():
    pytest.importorskip("numba", reason="numba is not installed")
    script = (
        "import sys, beamwright.event.store, beamwright.event.loop\n"
        "from beamwright.event.rntuple import encoding\n"
        "before = encoding.set_loops(encoding.ARRAYS)\n"
        "assert before is encoding.ARRAYS and 'numba' not in sys.modules\n"
        "import beamwright.event.kernel\n"
        "from beamwright.event.rntuple import compiled\n"
        "assert encoding.set_loops(encoding.ARRAYS) is compiled.loops()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


READING = """
import sys
import numpy as np
from beamwright.core.runs import Interval
from beamwright.event import collection
from beamwright.event.loop import run_path
from beamwright.event.path import Output, Path
from beamwright.event.rntuple import encoding
from beamwright.event.store import CollectionReader
from support.streams import BANKS, LINEAGE, batch, write_stream

folder, limit = sys.argv[1], int(sys.argv[2])
collection.COMPILE_BYTES = limit or collection.COMPILE_BYTES
write_stream(f"{folder}/{limit}-in.root", batch(3, 0, 3000), target=20_000)
with CollectionReader([f"{folder}/{limit}-in.root"]) as reader:
    assert reader.expect([]) is False and "numba" not in sys.modules
    run_path(
        Path("copy", "event", [], [Output("dst", ("Hit", "Head"))]), reader, Interval.runs("44", 0, 99),
        banks=BANKS, outputs={"dst": f"{folder}/{limit}.root"}, lineage=lambda _: LINEAGE,
    )
print("compiled" if encoding.set_loops(encoding.ARRAYS) is not encoding.ARRAYS else "arrays")
"""


def test_much_reading_is_done_by_compiled_loops_with_the_same_result(tmp_path):
    pytest.importorskip("numba", reason="numba is not installed")
    paths = os.pathsep.join([str(Path(streams.__file__).parents[1]), *filter(None, sys.path)])
    found = []
    for limit in (0, 100_000):
        done = subprocess.run(
            [sys.executable, "-c", READING, str(tmp_path), str(limit)], capture_output=True, text=True,
            check=False, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append((done.stdout.strip(), (tmp_path / f"{limit}.root").read_bytes()))
    assert [how for how, _ in found] == ["arrays", "compiled"]
    assert found[0][1] == found[1][1]
