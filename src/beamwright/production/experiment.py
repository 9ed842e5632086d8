"""Experiments: what a plug-in brings, how it is found, and the deliveries of raw data.

An experiment is found by the name of its entry point in the group ``beamwright.experiments``, or, where it
is not installed, as
``module:attribute``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from beamwright.conditions.payload import Payload
from beamwright.core.errors import ConfigError, FormatError, UnknownNameError
from beamwright.core.runs import MEASURES, Interval
from beamwright.event.banks import BankSet
from beamwright.event.calibration import Calibration
from beamwright.event.path import Path as EventPath
from beamwright.event.reader import JoinedReader, Reader

if TYPE_CHECKING:
    from beamwright.production.access import Access
    from beamwright.production.figures import Figures
    from beamwright.production.spec import ProductionSpec

T = TypeVar("T")

GROUP = "beamwright.experiments"
Parameters = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class LoadedConstants:
    """Constants that are loaded by hand: for which role, where they hold, and what they are."""

    tag: str
    interval: Interval
    payload: Payload


@dataclass(frozen=True)
class DeliveredFile:
    """A raw file of a delivery, with what its sender says of it."""

    role: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Delivery:
    """One chunk of a run: its files, the sections it covers, and how many records of each kind it holds.

    ``after`` (``step@series:run:sequence``) lets a source wait with it until that step has started on that
    chunk.
    """

    series: str
    run: int
    tier: str
    sequence: int
    reader: str
    files: tuple[DeliveredFile, ...]
    first_section: int
    last_section: int
    records: Mapping[str, int]
    is_mc: bool = False
    is_resampled: bool = False
    end_marker: bool = False
    luminosity: float | None = None
    livetime: float | None = None
    after: str = ""

    @property
    def interval(self) -> Interval:
        return Interval.sections(self.series, self.run, self.first_section, self.last_section)

    def document(self) -> dict[str, Any]:
        """Return the form that lies in an inbox."""
        return {
            "series": self.series, "run": self.run, "tier": self.tier, "sequence": self.sequence,
            "reader": self.reader, "files": [vars(file) for file in self.files],
            "first_section": self.first_section, "last_section": self.last_section,
            "records": dict(self.records), "is_mc": self.is_mc, "is_resampled": self.is_resampled,
            "end_marker": self.end_marker,
            **{name: getattr(self, name) for name in MEASURES if getattr(self, name) is not None},
        }  # fmt: skip

    @classmethod
    def from_document(cls, document: Any) -> Delivery:
        """Read the form that ``document()`` writes.

        Raises: FormatError.
        """
        try:
            files = tuple(
                DeliveredFile(_text(f["role"]), _text(f["path"]), _count(f["size"]), _text(f["sha256"]))
                for f in document["files"]
            )
            texts = {name: _text(document[name]) for name in ("series", "tier", "reader")}
            names = ("run", "sequence", "first_section", "last_section")
            counts = {name: _count(document[name]) for name in names}
            records = {_text(kind): _count(number) for kind, number in document["records"].items()}
            flags = {name: bool(document.get(name, False)) for name in _FLAGS}
            measures = {name: _amount(document[name]) for name in MEASURES if document.get(name) is not None}
        except KeyError as error:
            raise FormatError(
                f"the delivery lacks {error}", hint="write it with Delivery.document()"
            ) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"the delivery is malformed: {error}", hint="write it with Delivery.document()"
            ) from error
        if not files or counts["first_section"] > counts["last_section"]:
            raise FormatError("the delivery has no file, or its sections run backwards", hint="see Delivery")
        said: dict[str, Any] = {**texts, **counts, **flags, **measures}
        return cls(files=files, records=records, **said)


_FLAGS = ("is_mc", "is_resampled", "end_marker")


def _no_constants(name: str) -> list[LoadedConstants]:
    raise UnknownNameError("set of constants", name, ())


def _no_deliveries(name: str) -> list[Delivery]:
    raise UnknownNameError("set of deliveries", name, ())


@dataclass(frozen=True)
class Experiment:
    """What a plug-in brings. ``distributions`` are those whose code makes the release, beside beamwright
    itself.

    ``constants`` and ``deliveries`` are called with the names that a production file uses; ``figures`` with
    access to a finished
    production. ``references`` are files of quality references. ``enlarge`` adds so many resampled events to a
    production, for tests of load: it returns the production with more datasets and their deliveries, and may
    write to the folder it is given.
    """

    name: str
    distributions: Sequence[str]
    banks: BankSet
    readers: Mapping[str, type[Reader]]
    paths: Mapping[str, Callable[[], EventPath]] = field(default_factory=dict)
    calibrations: Mapping[str, Callable[[], Calibration]] = field(default_factory=dict)
    productions: Mapping[str, Path] = field(default_factory=dict)
    references: Sequence[Path] = ()
    constants: Callable[[str], list[LoadedConstants]] = _no_constants
    deliveries: Callable[[str], list[Delivery]] = _no_deliveries
    figures: Callable[[Access], Figures] | None = None
    enlarge: Callable[[ProductionSpec, int, Path], tuple[ProductionSpec, list[Delivery]]] | None = None

    def make_path(self, name: str, parameters: Parameters | None = None) -> EventPath:
        """Return a new path with its parameters set (by module, then name).

        Raises: UnknownNameError, ConfigError.
        """
        path = _chosen(self.paths, "path", name, self.name)()
        path.configure(parameters or {})
        return path

    def make_calibration(self, name: str, parameters: Parameters | None = None) -> Calibration:
        """Return a new calibration with its own parameters set (by calibration, then name).

        Raises: UnknownNameError, ConfigError.
        """
        calibration = _chosen(self.calibrations, "calibration", name, self.name)()
        for owner, values in (parameters or {}).items():
            if owner not in self.calibrations:
                raise UnknownNameError(f"calibration of {self.name}", owner, self.calibrations)
            for key, value in values.items() if owner == name else ():
                calibration.set(key, value)
        return calibration

    def load_constants(self, name: str) -> list[LoadedConstants]:
        """Return a set of constants by the name that the experiment gives it."""
        return self.constants(name)

    def open_reader(self, name: str, files: Iterable[tuple[str, Path]], series: str, run: int) -> Reader:
        """Open the files of a delivery, or of several of one run, as one reader.

        Raises: UnknownNameError, FormatError.
        """
        kind = _chosen(self.readers, "reader", name, self.name)
        chunks: list[dict[str, Path]] = []
        for role, path in dict.fromkeys(files):
            if kind.roles and role not in kind.roles:
                raise UnknownNameError(f"role of a file for reader {name}", role, kind.roles)
            target = next((chunk for chunk in chunks if role not in chunk), None)
            if target is None:
                target = {}
                chunks.append(target)
            target[role] = path
        if not chunks:
            raise FormatError(f"reader {name} is given no file", hint="a delivery has at least one")
        parts = [kind.open(chunk, series=series, run=run) for chunk in chunks]
        return parts[0] if len(parts) == 1 else JoinedReader(parts)


def installed() -> dict[str, metadata.EntryPoint]:
    """Return the entry points of the installed experiments by name."""
    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


def load(name: str) -> Experiment:
    """Return an installed experiment by name, or any by ``module:attribute``.

    Raises: UnknownNameError, ConfigError.
    """
    module, colon, attribute = name.partition(":")
    try:
        if colon:
            found = getattr(importlib.import_module(module), attribute)
        else:
            found = _chosen(installed(), "experiment", name, "this installation").load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"experiment {name} cannot be imported: {error}", hint="is it installed?"
        ) from error
    if not isinstance(found, Experiment):
        raise ConfigError(
            f"{name} is a {type(found).__name__}, no Experiment", hint="name the Experiment object"
        )
    return found


def _chosen(known: Mapping[str, T], kind: str, name: str, owner: str) -> T:
    if name not in known:
        raise UnknownNameError(f"{kind} of {owner}", name, known)
    return known[name]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _amount(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e300:
        raise ValueError(f"{value!r} is no amount")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
