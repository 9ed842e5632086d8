"""The files that pointer skims lead into: found by their UUIDs, read for those who borrow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import FormatError, StorageError
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.rntuple import NTupleFile
from beamwright.event.table import Array, Table

if TYPE_CHECKING:
    from beamwright.event.collection import CollectionReader

HALF = 2**64


class SourceFiles:
    """Finds files by UUID: in a map of paths, by asking ``look_up``, then among the files of folders."""

    def __init__(
        self,
        paths: Mapping[str, Path] | None = None,
        folders: Iterable[Path | str] = (),
        look_up: Callable[[str], Path | None] | None = None,
    ) -> None:
        self.paths = dict(paths or {})
        self.folders = tuple(sorted(Path(folder) for folder in folders))
        self._look_up = look_up or (lambda _: None)

    @classmethod
    def of(cls, places: Iterable[Path]) -> SourceFiles:
        """Take files and folders."""
        found = list(places)
        files = {str(uuid): path for path in found if path.is_file() and (uuid := _uuid(path))}
        return cls(files, [path for path in found if path.is_dir()])

    def find(self, uuid: str) -> Path:
        """Return the path of a file.

        Raises: StorageError.
        """
        path = self.paths.get(uuid) or self._look_up(uuid) or self._in_folders.get(uuid)
        if path is None or not path.is_file():
            where = f" at {path}" if path else f" in {', '.join(map(str, self.folders)) or 'any folder'}"
            raise StorageError(
                f"the file {uuid}, which a pointer skim leads into, is not{where}",
                hint="name the folder that holds it, or bring it back",
            )
        return path

    @cached_property
    def _in_folders(self) -> dict[str, Path]:
        files = [path for folder in self.folders for path in sorted(folder.glob("*.root"))]
        return {uuid: path for path in reversed(files) if (uuid := _uuid(path))}


def _uuid(path: Path) -> str | None:
    """Return the UUID of a file; None where it is no tuple file."""
    try:
        with NTupleFile(path) as file:
            return str(file.uuid)
    except (FormatError, OSError):
        return None


def halves(uuid: str) -> tuple[int, int]:
    """Return a UUID as two numbers of 64 bits."""
    return divmod(UUID(uuid).int, HALF)


def joined(high: int, low: int) -> str:
    """Return the UUID of two halves."""
    return str(UUID(int=high * HALF + low))


def stretches(sources: Sequence[Array]) -> Iterator[tuple[str, int, int]]:
    """Yield UUID, begin and end of each stretch of records that lie in one file."""
    high, low = sources[:2]
    breaks = np.flatnonzero((high[1:] != high[:-1]) | (low[1:] != low[:-1])) + 1
    for begin, end in pairwise([0, *breaks.tolist(), len(high)]):
        if end > begin:
            yield joined(int(high[begin]), int(low[begin])), begin, end


class Borrower:
    """Reads the banks that records of a pointer skim have in other files."""

    def __init__(self, files: SourceFiles, open_file: Callable[[Path], CollectionReader]) -> None:
        self._files, self._open_file = files, open_file
        self._readers: dict[str, CollectionReader] = {}
        self._stack = ExitStack()

    def reader(self, uuid: str) -> CollectionReader:
        """Return the reader of a file.

        Raises: StorageError where it cannot be found, FormatError where it is another one.
        """
        if uuid not in self._readers:
            path = self._files.find(uuid)
            reader = self._stack.enter_context(self._open_file(path))
            found = str(reader.files[0].uuid)
            if found != uuid:
                raise FormatError(
                    f"{path} is the file {found}, not {uuid}", hint="a pointer skim leads to one exact file"
                )
            self._readers[uuid] = reader
        return self._readers[uuid]

    def tables(self, path: Path, batch: Batch, sources: Sequence[Array], banks: BankSet) -> dict[str, Table]:
        """Return banks of the records of a batch; ``sources`` are their columns of pointers.

        Raises: FormatError where a pointer leads to a record of another key.
        """
        if not len(banks):
            return {}
        parts = []
        for uuid, begin, end in stretches(sources):
            reader = self.reader(uuid)
            entries = sources[2][begin:end].astype(np.int64)
            part = self._read(path, reader, entries, batch, banks)
            if not (
                np.array_equal(part.section, batch.section[begin:end])
                and np.array_equal(part.event, batch.event[begin:end])
            ):
                raise FormatError(
                    f"{path}: a pointer into {reader.files[0].path} leads to another record than "
                    f"one from {batch.key(begin)} to {batch.key(end - 1)}",
                    hint="check both files with `beamwright validate`",
                )
            parts.append(part)
        found = Batch.concatenate(parts)
        return {name: found.tables[name] for name in banks}

    @staticmethod
    def _read(
        path: Path, reader: CollectionReader, entries: NDArray[np.int64], batch: Batch, banks: BankSet
    ) -> Batch:
        held = reader.files[0].n_entries
        if len(entries) and (int(entries.min()) < 0 or int(entries.max()) >= held):
            raise FormatError(
                f"{path}: a pointer leads to entry {entries.max()} of {held} in {reader.files[0].path}",
                hint="check both files with `beamwright validate`",
            )
        return reader.read_entries(entries, batch.run, reader.declarations.subset(banks))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
