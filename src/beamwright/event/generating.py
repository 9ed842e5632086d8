"""Generated events: the keys that are asked for, and random numbers that follow from them alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beamwright.core.errors import FormatError
from beamwright.core.runs import EventKey
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.keys import Index, key_hash
from beamwright.event.reader import OneKindReader, Positions, Reader

Requested = Sequence[Sequence[int]]
"""What is asked for of one run: (section, first event, number of events), in key order."""


def requested_keys(requested: Requested) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Return the sections and the numbers of all events that are asked for."""
    sections = [np.full(n, section, np.uint32) for section, _, n in requested]
    events = [np.arange(first, first + n, dtype=np.uint64) for _, first, n in requested]
    return np.concatenate([*sections, np.zeros(0, np.uint32)]), np.concatenate([*events, np.zeros(0, "u8")])


def uniform(seeds: ArrayLike, lane: ArrayLike = 0) -> NDArray[np.float64]:
    """Return a number from 0 up to 1 for each seed (``batch.seeds()``).

    It is number ``lane`` of the seed's stream: no state, so the order in which numbers are drawn is of no
    account. ``lane`` may be an array, one for each seed.
    """
    bits = key_hash(0, lane, np.asarray(seeds, np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) / 2**53


def normal(seeds: ArrayLike, lane: int = 0) -> NDArray[np.float64]:
    """Return a normally distributed number for each seed, made of numbers 2 ``lane`` and 2 ``lane`` + 1."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(seeds, 2 * lane)))
    found: NDArray[np.float64] = radius * np.cos(2.0 * np.pi * uniform(seeds, 2 * lane + 1))
    return found


def generator(seed: int) -> np.random.Generator:
    """Return NumPy's generator on the stream of one seed, for code that works event by event."""
    return np.random.Generator(np.random.Philox(key=int(seed)))


class RequestReader(OneKindReader):
    """Gives the records that are to be generated, by their keys and without banks: modules make these.

    With ``made``, the file of a generator that is a program, the banks are those of its records: the first of
    them is the first that was asked for, and so on; what it has not made is missing.
    """

    is_request = True

    def __init__(
        self, record: str, series: str, run: int, requested: Requested, made: Reader | None = None
    ) -> None:
        self.record, self.series, self.run = record, series, run
        self._made = made
        self._section, self._event = requested_keys(requested)
        self._given = len(self._section) if made is None else len(made.index(record))
        self.declarations = BankSet()
        if self._given > len(self._section):
            raise FormatError(
                f"the generator made {self._given} {record} records, {len(self._section)} were asked for",
                hint="let it make as many as it is told to",
            )

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        raise FormatError("what is to be generated lies in no file", hint="it stands in the job document")

    @property
    def place(self) -> str:
        return f"what is asked for of run {self.series}:{self.run}"

    def banks(self, record: str) -> tuple[str, ...]:
        self._check_record(record)
        return () if self._made is None else self._made.banks(record)

    def index(self, record: str) -> Index:
        self._check_record(record)
        given = slice(self._given)
        return Index.build(self.run, self._section[given], self._event[given], name=self.place)

    def missing(self) -> Sequence[EventKey]:
        keys = zip(self._section[self._given :], self._event[self._given :], strict=True)
        return [EventKey(self.series, self.run, int(section), int(event)) for section, event in keys]

    def read(self, record: str, positions: Positions, banks: Iterable[str] | None = None) -> Batch:
        self._check_record(record)
        names = self.banks(record) if banks is None else tuple(banks)
        section, event = self._section[positions], self._event[positions]
        if self._made is None:
            return Batch(record, self.series, self.run, section, event, banks=self.declarations)
        held = self._made.read(record, positions, names)
        tables: dict[str, Any] = {name: held.tables[name] for name in names}
        return Batch(record, self.series, self.run, section, event, tables, banks=held.banks)

    def reopen(self) -> None:
        if self._made is not None:
            self._made.reopen()

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
