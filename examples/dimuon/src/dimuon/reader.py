"""The raw reader: a flat ntuple in which an event has several rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import FormatError
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch, Table
from beamwright.event.keys import Index
from beamwright.event.reader import Positions, Reader

BANKS = BankSet.load(Path(__file__).with_name("banks.toml"))
EVENT = "event"
ROLE = "ntuple"
TREE = "events"
_OF_MUON = {"px": "px{}", "py": "py{}", "pz": "pz{}", "energy": "E{}", "charge": "Q{}"}
_BRANCHES = ["Run", "Event", "Type", *(name.format(i) for name in _OF_MUON.values() for i in (1, 2))]

Array = NDArray[Any]


class NtupleReader(Reader):
    """Reads the events of one run: the first row of each event, the others are alternative choices of muons.

    The file is small and is read whole before the first batch.
    """

    roles = (ROLE,)

    def __init__(self, path: Path, series: str, run: int) -> None:
        self.path, self.series, self.run = path, series, run
        self._rows, self._alternatives = _first_rows(read_rows(path), run)

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        return cls(paths[ROLE], series, run)

    @classmethod
    def warm(cls) -> None:
        import uproot  # noqa: F401

    def records(self) -> tuple[str, ...]:
        return (EVENT,)

    def banks(self, record: str) -> tuple[str, ...]:
        return ("Event", "Muon")

    def index(self, record: str) -> Index:
        # There are no luminosity blocks in the file: a run is one section.
        return Index.build(self.run, 0, self._rows["Event"], name=str(self.path))

    def read(self, record: str, positions: Positions, banks: Iterable[str] | None = None) -> Batch:
        index = self.index(record)
        entry = index.entry[positions]
        wanted = self.banks(record) if banks is None else tuple(banks)
        tables = {"Event": self._event, "Muon": self._muon}
        section, event = index.section[positions], index.event[positions]
        found = {name: tables[name](entry) for name in wanted}
        return Batch(record, self.series, self.run, section, event, found, banks=BANKS)

    def _event(self, entry: Array) -> Table:
        return Table.one("Event", {"alternatives": self._alternatives[entry]})

    def _muon(self, entry: Array) -> Table:
        columns = {
            name: np.column_stack([self._rows[branch.format(i)][entry] for i in (1, 2)]).ravel()
            for name, branch in _OF_MUON.items()
        }
        kinds = self._rows["Type"][entry].astype("U2").view("U1")
        return Table.from_counts("Muon", np.full(len(entry), 2), {**columns, "is_global": kinds == "G"})


def read_rows(path: Path) -> dict[str, Array]:
    """Read the columns of all rows of a file.

    Raises: FormatError naming the file and what it lacks.
    """
    import uproot  # only who reads raw files pays for it

    try:
        # Mapped into memory: uproot's other sources start threads, and workers are forked later.
        with uproot.open(path, handler=uproot.MemmapSource) as file:
            rows = {name: file[TREE][name].array(library="np") for name in _BRANCHES}
    except FileNotFoundError as error:
        raise FormatError(
            f"raw file {path} is not there", hint="deliver it again with its right path"
        ) from error
    except Exception as error:
        raise FormatError(
            f"raw file {path} cannot be read: {type(error).__name__}: {error}",
            hint="is it truncated, or another file? send it again",
        ) from error
    return rows


def _first_rows(rows: dict[str, Array], run: int) -> tuple[dict[str, Array], Array]:
    """Return the first row of each event of a run, in file order, and how many rows each event has."""
    mine = rows["Run"] == run
    _, first, counts = np.unique(rows["Event"][mine], return_index=True, return_counts=True)
    order = np.argsort(first)
    return {name: values[mine][first[order]] for name, values in rows.items()}, counts[order]
