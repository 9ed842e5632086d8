"""Readers: what gives the records of files as batches, by position in the order of their keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import FormatError, UnknownNameError
from beamwright.core.runs import EventKey
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.keys import Index

Positions = NDArray[np.int64]


class Reader(ABC):
    """Reads the records of one delivery, or of some files, of one series.

    Records may lie in the files in any order: ``index`` gives their keys in order, ``read`` takes positions
    in it.
    """

    series: str
    roles: ClassVar[tuple[str, ...]] = ()
    """The roles of the files that a delivery for this reader may have; () for any."""
    reads_ahead: ClassVar[bool] = False
    """Whether ``read`` may be called from another thread, one call at a time: a gain where unpacking does not
    hold the interpreter."""
    is_request: ClassVar[bool] = False
    """Whether the records are to be generated: then what is read counts as requested."""

    @classmethod
    @abstractmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        """Open the files of a delivery, by role; records of other runs in them are left out."""

    @abstractmethod
    def records(self) -> tuple[str, ...]:
        """Return the kinds of records in the files."""

    @abstractmethod
    def banks(self, record: str) -> tuple[str, ...]:
        """Return the names of the banks that records of this kind have."""

    @abstractmethod
    def index(self, record: str) -> Index:
        """Return the keys of the records of one kind, in order."""

    @abstractmethod
    def read(self, record: str, positions: Positions, banks: Iterable[str] | None = None) -> Batch:
        """Return the records at ascending positions of the index, all of one run, with these banks (None:
        all).

        Positions are consecutive, but for a prescale and while a faulty record is being searched.
        """

    def missing(self) -> Sequence[EventKey]:
        """Return the keys of records that were requested and that nobody made."""
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod  # noqa: B027 - most readers need nothing
    def warm(cls) -> None:
        """Import what opening files takes; a process that forks one child per job does it once for all.

        No thread may be left running.
        """

    def reopen(self) -> None:  # noqa: B027 - most readers have nothing to do
        """Prepare for reading in a forked process; needed where a file position is shared."""

    def close(self) -> None:  # noqa: B027 - most readers have nothing to do
        """Close the files."""


class OneKindReader(Reader):
    """A reader of files that hold records of one kind, ``record``, with the banks of ``declarations``."""

    record: str
    declarations: BankSet

    @property
    @abstractmethod
    def place(self) -> str:
        """What errors name: the file, or the first of several."""

    def records(self) -> tuple[str, ...]:
        """Return the record kinds: one."""
        return (self.record,)

    def banks(self, record: str) -> tuple[str, ...]:
        """Return the names of the banks.

        Raises: UnknownNameError for another kind.
        """
        self._check_record(record)
        return tuple(self.declarations)

    def _check_record(self, record: str) -> None:
        if record != self.record:
            raise UnknownNameError(f"record kind of {self.place}", record, [self.record])


class JoinedReader(Reader):
    """Several readers of one series as one: the chunks of a run, read together."""

    def __init__(self, parts: Sequence[Reader]) -> None:
        self.parts = tuple(parts)
        self.series = self.parts[0].series
        others = {part.series for part in self.parts} - {self.series}
        if others:
            raise FormatError(
                f"series {self.series} and {others.pop()} cannot be read as one",
                hint="keys count in one series",
            )
        self._positions: dict[str, tuple[Positions, Positions]] = {}

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        raise FormatError("a joined reader is made of readers", hint="open the parts first")

    def records(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(record for part in self.parts for record in part.records()))

    def banks(self, record: str) -> tuple[str, ...]:
        sets = [part.banks(record) for part in self._with(record)]
        return tuple(name for name in sets[0] if all(name in other for other in sets)) if sets else ()

    def index(self, record: str) -> Index:
        parts = self._with(record)
        indices = [part.index(record) for part in parts]
        sizes = [index.size for index in indices if index.size is not None]
        joined = Index.build(
            np.concatenate([i.run for i in indices]), np.concatenate([i.section for i in indices]),
            np.concatenate([i.event for i in indices]), name=f"the files of series {self.series}",
            size=np.concatenate(sizes) if len(sizes) == len(indices) else None,
        )  # fmt: skip
        owner = np.repeat(np.arange(len(parts)), [len(i) for i in indices])
        within = np.concatenate([np.arange(len(i)) for i in indices])
        self._positions[record] = (owner[joined.entry[:]], within[joined.entry[:]])
        return joined

    def read(self, record: str, positions: Positions, banks: Iterable[str] | None = None) -> Batch:
        if record not in self._positions:
            self.index(record)
        owner, within = (column[positions] for column in self._positions[record])
        parts, names = self._with(record), None if banks is None else tuple(banks)
        cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        pieces = [parts[int(owner[a])].read(record, within[a:b], names) for a, b in pairwise(cuts) if b > a]
        return Batch.concatenate(pieces) if pieces else parts[0].read(record, within, names)

    def reopen(self) -> None:
        for part in self.parts:
            part.reopen()

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def _with(self, record: str) -> list[Reader]:
        found = [part for part in self.parts if record in part.records()]
        return found or list(self.parts[:1])
