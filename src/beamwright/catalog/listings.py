"""Listings of storages: read with bounded memory, in the order of their paths."""

from __future__ import annotations

import gzip
import hashlib
import heapq
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beamwright.core.errors import FormatError, StorageError

AT_ONCE = 200_000
_GZIP = b"\x1f\x8b"
# Names may hold anything; what would break a line is written as escapes, which no registered name has.
_CONTROLS = {number: f"\\x{number:02x}" for number in range(32)}

Entry = tuple[str, int | None]


@dataclass
class Listing:
    """What a storage says that it holds: ``PATH``, ``PATH<tab>SIZE`` or ``{"path": …, "size": …}`` a line.

    Lines that begin with ``#`` are left out. ``files``, ``bytes`` and ``sha256`` are known after it was read.
    """

    path: Path
    prefix: str = ""
    files: int = 0
    bytes: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        """The hash of its entries in order."""
        return str(self._hash.hexdigest())

    def entries(self) -> Iterator[Entry]:
        """Yield (path, size) in the order of the paths.

        Raises: FormatError with the line that is wrong, StorageError.
        """
        with ExitStack() as stack:
            parts: list[Iterable[str]] = []
            for lines in self._chunks(stack):
                spilled = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n"))
                spilled.writelines(lines)
                spilled.seek(0)
                parts.append(spilled)
            before = ""
            for line in heapq.merge(*parts):
                path, _, size = line.rstrip("\n").rpartition("\t")
                if path == before:
                    raise FormatError(f"{self.path} names {path} twice", hint="list each file once")
                before = path
                self._note(line, size)
                yield path, int(size) if size else None

    def _note(self, line: str, size: str) -> None:
        self.files += 1
        self.bytes += int(size or 0)
        self._hash.update(line.encode())

    def _chunks(self, stack: ExitStack) -> Iterator[list[str]]:
        held: list[str] = []
        for number, line in enumerate(self._lines(stack), 1):
            text = line.rstrip("\r\n")
            if text and not text.startswith("#"):
                path, size = self._entry(text, number)
                held.append(f"{path}\t{'' if size is None else size}\n")
            if len(held) >= AT_ONCE:
                yield sorted(held)
                held = []
        yield sorted(held)

    def _lines(self, stack: ExitStack) -> Iterable[str]:
        """Give the lines; names that are not UTF-8 are written so that they can be."""
        try:
            stream: Any = stack.enter_context(self.path.open("rb"))
            is_packed = stream.read(2) == _GZIP
            stream.seek(0)
            if is_packed:
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
            text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="\n")
            yield from stack.enter_context(text)
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"{self.path} cannot be read: {reason}", hint="list the storage anew"
            ) from error

    def _entry(self, text: str, number: int) -> Entry:
        try:
            if text.startswith("{"):
                document = json.loads(text)
                path, size = str(document["path"]), document.get("size")
            else:
                path, _, word = text.partition("\t")
                size = word or None
            found = None if size is None else int(size)
        except (ValueError, KeyError, TypeError) as error:
            raise self._wrong(number, str(error)) from error
        if not path or (found is not None and found < 0):
            raise self._wrong(number, "its path or its size cannot be")
        return self.prefix + path.translate(_CONTROLS), found

    def _wrong(self, number: int, what: str) -> FormatError:
        hint = 'write PATH, PATH<tab>SIZE or {"path": …, "size": …} on each line'
        return FormatError(f"{self.path}, line {number}: {what}", hint=hint)
