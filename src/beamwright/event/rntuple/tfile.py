"""The ROOT file around a tuple: header, keys, directory, streamer info, free list.

Every offset is written in the 64-bit form of the format, so that a file may grow beyond 2 GiB without a
second layout. The bytes hold no clock value and no path: dates are 1995-01-01 and the internal file name is
constant. All integers are big-endian.
"""

from __future__ import annotations

import struct
import uuid as uuids
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from beamwright.core.errors import ChecksumError, FormatError
from beamwright.event.rntuple.encoding import DAMAGED, Buffer

BEGIN = 100
FILE_NAME = "beamwright.root"
DATIME = 1 << 22 | 1 << 17
BIG_KEY = 1000
BIG_FILE = 1_000_000
FILE_VERSION = BIG_FILE + 63_600
START_BIG = 2_000_000_000
MAX_KEY_SIZE = 1 << 30
ANCHOR_CLASS = "ROOT::RNTuple"
STRING_CLASS = "TObjString"
NO_UUID = uuids.UUID(int=0)
BYTE_COUNT = 0x4000_0000
CLASS_CHECKSUM = 0x28E632EC
ANCHOR = struct.Struct(">HHHHQQQQQQQ")
VERSION = (1, 0, 0, 1)


@dataclass(frozen=True, slots=True)
class Key:
    """The head of one record: sizes, names, and where it lies."""

    position: int
    payload: int
    class_name: str
    name: str
    title: str = ""
    unpacked: int = -1
    head_bytes: int = -1
    cycle: int = 1

    def head(self) -> bytes:
        """Return the serialised key."""
        names = short_text(self.class_name) + short_text(self.name) + short_text(self.title)
        size = key_size(self.class_name, self.name, self.title)
        objlen = self.payload if self.unpacked < 0 else self.unpacked
        numbers = struct.pack(">iHIIHH", size + self.payload, 4 + BIG_KEY, objlen, DATIME, size, self.cycle)
        return numbers + struct.pack(">QQ", self.position, BEGIN) + names

    @property
    def data(self) -> int:
        """Return where the payload begins."""
        size = self.head_bytes if self.head_bytes >= 0 else key_size(self.class_name, self.name, self.title)
        return self.position + size

    @property
    def end(self) -> int:
        """Return where the record ends."""
        return self.data + self.payload


def short_text(text: str) -> bytes:
    """Return a string with its length in one byte (or, from 255 on, five)."""
    data = text.encode()
    head = bytes([len(data)]) if len(data) < 255 else b"\xff" + struct.pack(">I", len(data))
    return head + data


def key_size(class_name: str, name: str, title: str) -> int:
    """Return the bytes of a key with these names."""
    return 34 + sum(len(short_text(text)) for text in (class_name, name, title))


def blob_key(position: int, payload: int, unpacked: int = -1) -> Key:
    """Make the key of an unnamed record, which holds pages or an envelope."""
    return Key(position, payload, "RBlob", "", "", unpacked)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the header and the footer of a tuple lie."""

    header_offset: int
    header_size: int
    header_length: int
    footer_offset: int
    footer_size: int
    footer_length: int

    def payload(self) -> bytes:
        """Return the streamed anchor object with its checksum."""
        header = (self.header_offset, self.header_size, self.header_length)
        footer = (self.footer_offset, self.footer_size, self.footer_length)
        fields = ANCHOR.pack(*VERSION, *header, *footer, MAX_KEY_SIZE)
        body = struct.pack(">IH", BYTE_COUNT | (len(fields) + 2), 2) + fields
        return body + struct.pack(">Q", xxhash.xxh3_64_intdigest(fields))


def read_anchor(payload: Buffer) -> Anchor:
    """Return the anchor out of its record; raise where its checksum does not match."""
    if len(payload) < 6 + ANCHOR.size + 8:
        raise FormatError("the anchor of the tuple is too short", hint=DAMAGED)
    fields = bytes(payload[6 : 6 + ANCHOR.size])
    (stored,) = struct.unpack_from(">Q", payload, len(payload) - 8)
    if xxhash.xxh3_64_intdigest(bytes(payload[6:-8])) != stored:
        raise ChecksumError("the checksum of the anchor does not match", hint=DAMAGED)
    values = ANCHOR.unpack(fields)
    if values[0] != 1:
        raise FormatError(f"the tuple has format epoch {values[0]}", hint="only epoch 1 is read")
    return Anchor(*values[4:10])


def string_payload(text: str) -> bytes:
    """Return a streamed TObjString."""
    body = struct.pack(">HHII", 1, 1, 0, 0x0300_0000) + short_text(text)
    return struct.pack(">I", BYTE_COUNT | len(body)) + body


def read_string(payload: Buffer) -> str:
    """Return the text of a streamed TObjString."""
    if len(payload) < 17:
        raise FormatError("a metadata string is too short", hint=DAMAGED)
    (length,), start = struct.unpack_from(">B", payload, 16), 17
    if length == 255:
        (length,), start = struct.unpack_from(">I", payload, 17), 21
    return bytes(payload[start : start + length]).decode("utf-8", "replace")


def directory_payload(keys_size: int, keys_position: int, uuid: uuids.UUID) -> bytes:
    """Return the record of the file's top directory."""
    head = short_text(FILE_NAME) + short_text("")
    numbers = struct.pack(">HIIII", 5 + BIG_KEY, DATIME, DATIME, keys_size, name_size())
    places = struct.pack(">QQQ", BEGIN, 0, keys_position)
    return head + numbers + places + struct.pack(">H", 1) + uuid.bytes


def directory_key() -> Key:
    """Return the key of the file's top directory, which begins the file."""
    return Key(BEGIN, len(directory_payload(0, 0, NO_UUID)), "TFile", FILE_NAME)


def name_size() -> int:
    """Return the size of the directory's key and names."""
    return key_size("TFile", FILE_NAME, "") + len(short_text(FILE_NAME)) + len(short_text(""))


def file_header(end: int, free: Key, info: Key, uuid: uuids.UUID) -> bytes:
    """Return the first 100 bytes of the file; readers take the UUID here as the key of their caches."""
    numbers = struct.pack(">4sII", b"root", FILE_VERSION, BEGIN)
    numbers += struct.pack(">QQIII", end, free.position, free.end - free.position, 1, name_size())
    numbers += struct.pack(">BIQI", 8, 505, info.position, info.end - info.position)
    return (numbers + struct.pack(">H", 1) + uuid.bytes).ljust(BEGIN, b"\0")


def closing_records(position: int, keys: Sequence[Key]) -> tuple[bytes, Key, Key, Key]:
    """Return the records that end a file (key list, streamer info, free list) and their three keys."""
    heads = struct.pack(">I", len(keys)) + b"".join(key.head() for key in keys)
    key_list = Key(position, len(heads), "", FILE_NAME)
    streamers = streamer_info()
    info = Key(key_list.end, len(streamers), "TList", "StreamerInfo", "Doubly linked list")
    free = Key(info.end, 18, "", FILE_NAME)
    segment = struct.pack(">HQQ", 1 + BIG_KEY, free.end, max(START_BIG, free.end + 1_000_000_000))
    data = key_list.head() + heads + info.head() + streamers + free.head() + segment
    return data, key_list, info, free


# --- streamer info of the anchor class

_MEMBERS = (
    *((f"Version{part}", 12, 2, "unsigned short") for part in ("Epoch", "Major", "Minor", "Patch")),
    *((name, 14, 8, "unsigned long") for name in ("SeekHeader", "NBytesHeader", "LenHeader")),
    *((name, 14, 8, "unsigned long") for name in ("SeekFooter", "NBytesFooter", "LenFooter", "MaxKeySize")),
)


def _counted(version: int, body: bytes) -> bytes:
    return struct.pack(">IH", BYTE_COUNT | (len(body) + 2), version) + body


def _object(bits: int = 0x0001_0000) -> bytes:
    return struct.pack(">HII", 1, 0, bits)


def _named(name: str) -> bytes:
    return _counted(1, _object() + short_text(name) + short_text(""))


def _tagged(class_name: str, body: bytes) -> bytes:
    tag = struct.pack(">I", 0xFFFF_FFFF) + class_name.encode() + b"\0" + body
    return struct.pack(">I", BYTE_COUNT | len(tag)) + tag


def _member(name: str, code: int, size: int, type_name: str) -> bytes:
    numbers = struct.pack(">9i", code, size, 0, 0, 0, 0, 0, 0, 0)
    element = _counted(4, _named(f"f{name}") + numbers + short_text(type_name))
    return _tagged("TStreamerBasicType", _counted(2, element))


def streamer_info() -> bytes:
    """Return the streamed list that describes the anchor class; ROOT's file merger needs it."""
    members = b"".join(_member(*member) for member in _MEMBERS)
    head = _object(0) + short_text("") + struct.pack(">ii", len(_MEMBERS), 0)
    array = _tagged("TObjArray", _counted(3, head + members))
    info = _counted(9, _named(ANCHOR_CLASS) + struct.pack(">Ii", CLASS_CHECKSUM, 2) + array)
    listed = _object(0) + short_text("") + struct.pack(">i", 1) + _tagged("TStreamerInfo", info) + b"\0"
    return _counted(5, listed)


# --- reading


@dataclass(frozen=True, slots=True)
class FileHead:
    """What the head of a ROOT file says: its end, its key list and its UUID."""

    end: int
    keys: tuple[int, int]
    uuid: uuids.UUID


def read_key(data: Buffer, start: int = 0) -> tuple[Key, int]:
    """Return the key at ``start`` of ``data`` and the size of its head."""
    nbytes, version, objlen, _, head_size, cycle = struct.unpack_from(">iHIIHH", data, start)
    layout = ">QQ" if version > BIG_KEY else ">II"
    (position, _), at = struct.unpack_from(layout, data, start + 18), start + 18 + struct.calcsize(layout)
    texts = []
    for _ in range(3):
        text, at = _read_text(data, at)
        texts.append(text)
    if nbytes < head_size or at - start != head_size:
        raise FormatError("a record of the file has an impossible size", hint=DAMAGED)
    key = Key(position, nbytes - head_size, texts[0], texts[1], texts[2], objlen, head_size, cycle)
    return key, head_size


def _read_text(data: Buffer, at: int) -> tuple[str, int]:
    length, at = data[at], at + 1
    if length == 255:
        (length,), at = struct.unpack_from(">I", data, at), at + 4
    return bytes(data[at : at + length]).decode("utf-8", "replace"), at + length


def read_file_header(data: Buffer) -> tuple[int, int, int]:
    """Return the end, the first record and the name size that the first bytes of a file declare."""
    if len(data) < 64 or bytes(data[:4]) != b"root":
        raise FormatError("this is not a ROOT file", hint="a ROOT file begins with 'root'")
    version, begin = struct.unpack_from(">II", data, 4)
    if version >= BIG_FILE:
        end, _, _, _, names = struct.unpack_from(">QQIII", data, 12)
    else:
        end, _, _, _, names = struct.unpack_from(">IIIII", data, 12)
    return end, begin, names


def read_directory(data: Buffer) -> tuple[int, int, uuids.UUID]:
    """Return place and size of the key list, and the UUID, from the top directory's numbers."""
    version, _, _, keys_size, _ = struct.unpack_from(">HIIII", data)
    layout = ">QQQ" if version > BIG_KEY else ">III"
    _, _, keys = struct.unpack_from(layout, data, 18)
    start = 18 + struct.calcsize(layout) + 2
    return keys, keys_size, uuids.UUID(bytes=bytes(data[start : start + 16]))


def read_key_list(data: Buffer) -> list[Key]:
    """Return the keys that a key list record names."""
    _, at = read_key(data)
    (count,) = struct.unpack_from(">I", data, at)
    at += 4
    keys = []
    for _ in range(count):
        key, size = read_key(data, at)
        keys.append(key)
        at += size
    return keys
