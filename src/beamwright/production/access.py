"""Reading what a production made: collections, histograms, constants, for analysis and for the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.core.errors import StorageError, UnknownNameError
from beamwright.core.histogram import HistogramSet
from beamwright.core.messages import HISTOGRAMS
from beamwright.core.runs import EventKey, Interval
from beamwright.db import schema, views
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.collection import CollectionReader
from beamwright.event.module import Constants
from beamwright.event.sources import SourceFiles
from beamwright.production.workspace import Workspace

BATCH = 4096
READABLE = ("present", "verified")


@dataclass(frozen=True)
class Collection:
    """A valid collection with the paths of its files."""

    name: str
    production: str
    step: str
    stream: str
    tier: str
    series: str
    interval: Interval
    events: int
    is_mc: bool
    is_resampled: bool
    files: tuple[Path, ...]
    parents: tuple[str, ...]

    def open(self, sources: SourceFiles | None = None, banks: BankSet | None = None) -> CollectionReader:
        """Return a reader over its files; ``sources`` finds what pointer skims lead into, ``banks`` are how
        files of other versions are read.

        Raises: StorageError when a file is gone.
        """
        missing = [path for path in self.files if not path.is_file()]
        if missing or not self.files:
            what = f"file {missing[0]}" if missing else "every file"
            raise StorageError(
                f"{what} of collection {self.name} is missing", hint="`beamwright fsck` says what else is"
            )
        return CollectionReader(self.files, sources, banks)


@dataclass(frozen=True)
class Validity:
    """Constants with the interval in which they hold, and how they came to be."""

    interval: Interval
    payload_id: str
    origin: str
    reason: str
    constants: Constants


@dataclass(frozen=True)
class Link:
    """One link of a chain of rolling calibrations: ``start`` and ``result`` give payload ids by tag."""

    step: str
    series: str
    run: int
    sequence: int
    interval: Interval
    state: str
    start: dict[str, str]
    result: dict[str, str]
    figures: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Checked:
    """The value of a checked quantity in one run, with its limits."""

    run: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Delivered:
    """One delivered chunk with its files by role."""

    series: str
    run: int
    sequence: int
    tier: str
    is_mc: bool
    first_section: int
    last_section: int
    reader: str
    files: dict[str, Path]


class Access:
    """Reads what one production of a workspace made, in the order of names and keys."""

    def __init__(self, conn: sa.Connection, production: str | None = None) -> None:
        row = views.find_production(conn, production)
        self.production: str = row["name"]
        self._conn, self._id = conn, int(row["id"])
        self._sources = SourceFiles(look_up=lambda uuid: _path_of(conn, uuid))

    def collections(
        self,
        *,
        step: str | None = None,
        stream: str | None = None,
        tier: str | None = None,
        series: str | None = None,
        run: int | None = None,
        is_mc: bool | None = None,
        is_resampled: bool | None = False,
    ) -> list[Collection]:
        """Return the valid collections of which all that is given is true; resampled ones only on demand."""
        wanted = {
            "step": step,
            "stream": stream,
            "tier": tier,
            "series": series,
            "is_mc": is_mc,
            "is_resampled": is_resampled,
        }
        found = valid_collections(self._conn, self._id)
        kept = [c for c in found if all(v is None or getattr(c, name) == v for name, v in wanted.items())]
        return [c for c in kept if run is None or c.interval.first[0] <= run <= c.interval.last[0]]

    def open(self, collection: Collection | str) -> CollectionReader:
        """Return a reader over a collection, given itself or by name."""
        if isinstance(collection, str):
            collection = named(valid_collections(self._conn, self._id), collection)
        return collection.open(self._sources)

    def batches(
        self, collections: Iterable[Collection], banks: Sequence[str] | None = None, size: int = BATCH
    ) -> Iterator[Batch]:
        """Yield the records of collections, one after the other, in batches of one run."""
        for collection in collections:
            with collection.open(self._sources) as reader:
                yield from batches(reader, banks, size)

    def histograms(self, step: str, *, series: str | None = None, run: int | None = None) -> HistogramSet:
        """Return the sum of the histograms that a step's accepted units filled, all or those of a run."""
        found = views.outputs(self._conn, self._id, HISTOGRAMS)
        rows = [row for row in found if row["step"] == step and row["job_state"] == "ok"]
        rows = list({row["id"]: row for row in rows if row["path"]}.values())  # one replica of each
        rows = [row for row in rows if series in (None, row["series"])]
        rows = [row for row in rows if run is None or row["first_run"] <= run <= row["last_run"]]
        return HistogramSet.merged(
            HistogramSet.from_bytes(Path(r["path"]).read_bytes(), r["name"]) for r in rows
        )

    def checked(self, subject: str, name: str, quantity: str) -> dict[tuple[str, str], list[Checked]]:
        """Return what the verdicts in force say of a quantity, by series and tier, in run order."""
        found: dict[tuple[str, str], list[Checked]] = {}
        for row in views.verdicts(self._conn):
            for check in row["checks"] if row["subject"] == subject else ():
                if (check["name"], check["quantity"]) == (name, quantity) and check["value"] is not None:
                    place = found.setdefault((row["series"], row["tier"]), [])
                    place.append(Checked(row["run"], check["value"], check["low"], check["high"]))
        return found

    def bad_runs(self) -> dict[tuple[str, str], list[str]]:
        """Return the runs of which the verdicts in force call a check bad, by subject and name."""
        found: dict[tuple[str, str], list[str]] = {}
        for row in views.verdicts(self._conn):
            for name in sorted({check["name"] for check in row["checks"] if check["outcome"] == "bad"}):
                found.setdefault((row["subject"], name), []).append(f"{row['series']}/{row['run']}")
        return found

    def constants(self, tag: str) -> list[Validity]:
        """Return the constants of a tag (``global tag/role``) in the order of their intervals.

        Raises: UnknownNameError.
        """
        names = [row["name"] for row in views.tags(self._conn)]
        if tag not in names:
            raise UnknownNameError("tag", tag, names)
        return [self._validity(row) for row in views.validities(self._conn, tag)]

    def payload(self, payload_id: str) -> Constants:
        """Return the constants of a payload."""
        arrays, document = tags.get_payload(self._conn, payload_id).unpack()
        return Constants(arrays, document, payload_id)

    def links(self, step: str | None = None, series: str | None = None) -> list[Link]:
        """Return the links of the chains in order, without those that a skip-back invalidated."""
        rows = [row for row in views.links(self._conn, self._id) if row["state"] != "invalidated"]
        names = ("step", "series", "run", "sequence", "state", "start", "result", "figures", "reason")
        return [
            Link(interval=_interval(row), **{name: row[name] for name in names})
            for row in rows
            if step in (None, row["step"]) and series in (None, row["series"])
        ]

    def deliveries(self, series: str | None = None) -> list[Delivered]:
        """Return the delivered chunks with their raw files."""
        files: dict[int, dict[str, Path]] = {}
        for row in views.chunk_files(self._conn):
            files.setdefault(row["chunk_id"], {})[row["role"]] = Path(row["path"])
        names = ("series", "run", "sequence", "tier", "first_section", "last_section", "reader")
        return [
            Delivered(
                is_mc=bool(row["is_mc"]),
                files=files.get(row["id"], {}),
                **{name: row[name] for name in names},
            )
            for row in views.chunks(self._conn)
            if series in (None, row["series"])
        ]

    def _validity(self, row: dict[str, Any]) -> Validity:
        constants = self.payload(row["payload_id"])
        return Validity(_interval(row), row["payload_id"], row["origin"], row["reason"], constants)


def open_collection(
    name: str, workspace: Path | str | None = None, banks: BankSet | Path | str | None = None
) -> CollectionReader:
    """Open a collection of a workspace (default: the nearest one upwards) by its name, or one file, as it is
    or as the ``banks`` say that are given or declared in a file.

    Raises: UnknownNameError, StorageError, FormatError, SchemaMismatchError.
    """
    declared = BankSet.load(Path(banks)) if isinstance(banks, str | Path) else banks
    if ":" not in name or Path(name).is_file():
        return CollectionReader([_existing(name)], banks=declared)
    found = Workspace.open(Path(workspace)) if workspace else Workspace.find(Path.cwd())
    with found.db.read() as conn:
        return valid_collection(conn, name).open(source_files(found), declared)


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise StorageError(
            f"there is no file {name}", hint="give a path, or the name scope:name of a collection"
        )
    return path


def source_files(workspace: Workspace) -> SourceFiles:
    """Return what finds the files that pointer skims lead into, in the catalogue of a workspace."""

    def look_up(uuid: str) -> Path | None:
        with workspace.db.read() as conn:
            return _path_of(conn, uuid)

    return SourceFiles(look_up=look_up)


def _path_of(conn: sa.Connection, uuid: str) -> Path | None:
    rows = views.files(conn, schema.file.c.uuid == uuid)
    return next((Path(row["path"]) for row in rows if row["path"] and row["replica"] in READABLE), None)


def batches(
    reader: CollectionReader, banks: Sequence[str] | None = None, size: int = BATCH
) -> Iterator[Batch]:
    """Yield all records of a reader in key order, in batches that do not cross a run."""
    return reader.batches(banks, size)


def valid_collections(
    conn: sa.Connection, production_id: int | None = None, ids: Sequence[int] | None = None
) -> list[Collection]:
    """Return the valid collections, all or those of some ids, by name."""
    files = views.files_of_collections(conn, ids)
    known = None if ids is None else [file["id"] for rows in files.values() for file in rows]
    parents = views.parents(conn, known)
    rows = [row for row in views.collections(conn, production_id, ids) if row["state"] == "valid"]
    return [_collection(row, files.get(row["id"], []), parents) for row in rows]


def valid_collection(conn: sa.Connection, name: str) -> Collection:
    """Return the valid collection of a name, without asking for the others.

    Raises: UnknownNameError.
    """
    found = valid_collections(conn, ids=views.collections_called(conn, name))
    return named(found or valid_collections(conn), name)


def collections_holding(conn: sa.Connection, key: EventKey) -> list[Collection]:
    """Return the valid collections whose interval holds a key, by name."""
    return valid_collections(conn, ids=views.collections_at(conn, key.series, key.position))


def named(collections: Sequence[Collection], name: str) -> Collection:
    """Return the collection of this name.

    Raises: UnknownNameError.
    """
    for collection in collections:
        if collection.name == name:
            return collection
    raise UnknownNameError("valid collection", name, [c.name for c in collections])


def _collection(
    row: dict[str, Any], files: list[dict[str, Any]], parents: dict[int, list[dict[str, Any]]]
) -> Collection:
    names = ("stream", "tier", "series", "events")
    return Collection(
        name=row["did"],
        production=row["production"] or "",
        step=row["step"] or "",
        interval=_interval(row),
        is_mc=bool(row["is_mc"]),
        is_resampled=bool(row["is_resampled"]),
        files=_paths(files),
        parents=tuple(sorted({parent["name"] for file in files for parent in parents.get(file["id"], [])})),
        **{name: row[name] for name in names},
    )


def _paths(files: list[dict[str, Any]]) -> tuple[Path, ...]:
    """Return the readable replicas of files, in their order."""
    return tuple(Path(file["path"]) for file in files if file["path"] and file["replica"] in READABLE)


def _interval(row: dict[str, Any]) -> Interval:
    return Interval.from_document(views.interval_of(row))
