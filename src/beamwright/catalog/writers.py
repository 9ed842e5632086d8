"""What a batch of records becomes in the tables, for files, runs and collections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from beamwright.catalog import collections, measures, metadata
from beamwright.catalog.records import CollectionRecord, FileRecord, RunRecord
from beamwright.core.canonical import canonical_json
from beamwright.core.errors import ConflictError, UnknownNameError
from beamwright.core.runs import MEASURES
from beamwright.db import bulk, history, schema

ACTOR = "registrar"
PAGE = 5000
_ENDS = ("first_run", "first_section", "first_event", "last_run", "last_section", "last_event")

_FLAGS = ("is_mc", "is_resampled")

R = TypeVar("R", FileRecord, RunRecord, CollectionRecord)
Metadata = list[tuple[metadata.Kind, int, metadata.Content]]


@dataclass(frozen=True)
class Source:
    """Where records come from, when they came and who says so.

    ``supersede`` is the reason why what is said takes the place of what is known: collections that of those
    which have their name, measures of runs that of others.
    """

    name: str
    now: float
    actor: str = ACTOR
    supersede: str = ""


@dataclass(frozen=True)
class Ready:
    """A batch of files in the form of the database, made while it still wrote the one before."""

    records: list[Any]
    files: bulk.Rows
    kinds: Mapping[str, metadata.Kind]
    said: metadata.Ready


class Writer(ABC, Generic[R]):
    """Writes batches of records of one subject in a transaction."""

    subject: str
    tables: tuple[sa.Table, ...] = ()
    hint = "new content needs a new name"

    def __init__(self, conn: sa.Connection, source: Source, ready: Ready | None = None) -> None:
        self.conn = conn
        self.source = source
        self.ready = ready
        self.replaced: dict[Any, Any] = {}

    @classmethod
    def make_ready(
        cls, batch: Sequence[R], source: Source, dialect: str, kinds: Mapping[str, metadata.Kind]
    ) -> Ready | None:
        """Return what can be done of writing a batch without asking the database.

        Raises: ConflictError when two records of one name differ.
        """
        return None

    def write(self, batch: Sequence[R], expect_known: bool) -> tuple[int, int]:
        """Write what is new; return how many are, and how many were there alike.

        The database is asked for what it knows only where that is expected: a batch is mostly new.

        Raises: ConflictError, and sqlalchemy's IntegrityError when something was known after all.
        """
        if expect_known:
            self.ready = None
            fresh, _, missing = self.sort_out(batch)
            if missing:
                metadata.write(self.conn, missing, self.source.now)
            self._complete()
        else:
            fresh = self.single(batch, self.source) if self.ready is None else list(self.ready.records)
        if fresh:
            self._tell(fresh)
            self._describe(fresh, self._insert(fresh))
        return len(fresh), len(batch) - len(fresh)

    def _describe(self, fresh: Sequence[R], ids: Sequence[int]) -> None:
        """Write what records say of themselves under declared kinds."""
        ready = self.ready
        if ready is not None and metadata.kinds(self.conn, self.subject, lock="share") == ready.kinds:
            metadata.put(self.conn, ready.said, ids)
            return
        said = [(k, n, c) for n, record in zip(ids, fresh, strict=True) for k, c in record.metadata]
        if said:
            metadata.write(self.conn, said, self.source.now)

    def sort_out(self, batch: Sequence[R]) -> tuple[list[R], int, Metadata]:
        """Return what is new, how much is known alike, and the metadata that the known lack.

        Raises: ConflictError for what is known with other content.
        """
        single = self.single(batch, self.source)
        known = self._known(single)
        same = {record.key: record for record in single if record.key in known}
        for key, record in same.items():
            if not self._is_same(record, known[key]) and not self._replaces(record, known[key]):
                raise self._contradiction(record, self._difference(record, known[key]))
        known = {key: row for key, row in known.items() if key not in self.replaced}
        same = {key: record for key, record in same.items() if key in known}
        missing = self._missing({known[key].id: record for key, record in same.items() if record.metadata})
        return [r for r in single if r.key not in known], len(batch) - len(single) + len(same), missing

    @classmethod
    def single(cls, batch: Sequence[R], source: Source) -> list[R]:
        """Return the records without repetitions, in the order of their names.

        Raises: ConflictError when two of one name differ.
        """
        found: dict[Any, R] = {}
        for record in batch:
            other = found.setdefault(record.key, record)
            if other is not record and other.identity != record.identity:
                raise cls.contradiction(source, record, f"line {other.line} says otherwise")
        return [found[key] for key in sorted(found)]

    @property
    def changed(self) -> int:
        """How many of those that are known the last batch corrects."""
        return 0

    def _is_same(self, record: R, row: Any) -> bool:
        """Tell whether a record says what is known."""
        return self._identity(row) == record.identity

    def _replaces(self, record: R, row: Any) -> bool:
        """Tell whether a record takes the place of what is known under its name."""
        return False

    def _complete(self) -> None:
        """Write what records say of what was known without it."""

    def _missing(self, said: dict[int, R]) -> Metadata:
        present = metadata.of(self.conn, self.subject, said) if said else {}
        missing: Metadata = []
        for n, record in said.items():
            for kind, content in record.metadata:
                held = present[n].get(kind.name)
                if held is None:
                    missing.append((kind, n, content))
                elif held != content:
                    raise self._contradiction(record, f"it has other metadata {kind.name}")
        return missing

    def _contradiction(self, record: R, how: str) -> ConflictError:
        return self.contradiction(self.source, record, how)

    @classmethod
    def contradiction(cls, source: Source, record: R, how: str) -> ConflictError:
        """Return the error that says how a record contradicts another."""
        place = f"{source.name}, line {record.line}: " if source.name else ""
        return ConflictError(f"{place}{cls.subject} {record.did}: {how}", hint=cls.hint, line=record.line)

    def _tell(self, batch: Sequence[R]) -> None:
        """Write one line of history for the batch."""
        source, name = self.source, self.source.name or "-"
        data = {"number": len(batch), "first": str(batch[0].did), "last": str(batch[-1].did)}
        what = f"{self.subject}s"
        history.record(self.conn, "registration", name, what, actor=source.actor, at=source.now, data=data)

    def _created(self, kind: str, ids: Iterable[int], states: Iterable[str]) -> None:
        """Write the lines of history of objects that begin in a state."""
        said = {"at": self.source.now, "kind": kind, "source": None, "actor": self.source.actor}
        said |= {"reason": f"from {self.source.name}", "data": "{}"}
        objects = [str(n) for n in ids]
        bulk.load(self.conn, schema.history, {"object": objects, "target": list(states), **said})

    @abstractmethod
    def _known(self, batch: Sequence[R]) -> dict[Any, Any]:
        """Return the rows of what is registered, by key; each has an ``id``."""

    @abstractmethod
    def _identity(self, row: Any) -> tuple[Any, ...]:
        """Return of a row what a record calls its identity."""

    @abstractmethod
    def _difference(self, record: R, row: Any) -> str:
        """Say how a registered row contradicts a record."""

    @abstractmethod
    def _insert(self, batch: Sequence[R]) -> list[int]:
        """Write the records; return their ids."""


class FileWriter(Writer[FileRecord]):
    """Files, with the replicas and parents that their records name."""

    subject = "file"
    tables = (schema.file, schema.replica, schema.file_parent, *metadata.TABLES)

    def _known(self, batch: Sequence[FileRecord]) -> dict[Any, Any]:
        found = by_did(self.conn, schema.file, [r.key for r in batch])
        self._check_places([r for r in batch if r.replicas], found)
        return found

    def _identity(self, row: Any) -> tuple[Any, ...]:
        return row.size, row.sha256, row.adler32

    def _difference(self, record: FileRecord, row: Any) -> str:
        if row.sha256 != record.sha256:
            return f"it is registered with sha256 {row.sha256[:12]}, this says {record.sha256[:12]}"
        return f"it is registered with {row.size} bytes and adler32 {row.adler32}"

    def _check_places(self, batch: Sequence[FileRecord], known: dict[Any, Any]) -> None:
        """Refuse a path that is the place of another file."""
        table, file = schema.replica, schema.file
        places = {place: record for record in batch for place in record.replicas}
        query = sa.select(table.c.endpoint, table.c.path, file.c.scope, file.c.name).join(file)
        for endpoint in sorted({endpoint for endpoint, _ in places}):
            paths = sorted(path for e, path in places if e == endpoint)
            for start in range(0, len(paths), PAGE):
                here = (table.c.endpoint == endpoint, table.c.path.in_(paths[start : start + PAGE]))
                for row in self.conn.execute(query.where(*here)):
                    record = places[row.endpoint, row.path]
                    if (row.scope, row.name) != record.key:
                        how = f"{row.path} at {row.endpoint} is file {row.scope}:{row.name}"
                        raise self._contradiction(record, how)

    @classmethod
    def make_ready(
        cls, batch: Sequence[FileRecord], source: Source, dialect: str, kinds: Mapping[str, metadata.Kind]
    ) -> Ready | None:
        if not batch:
            return None
        records = cls.single(batch, source)
        said = [(kind, at, content) for at, r in enumerate(records) for kind, content in r.metadata]
        ready = metadata.ready(dialect, kinds, said, source.now)
        return Ready(records, cls._rows(dialect, records, source), kinds, ready)

    @staticmethod
    def _rows(dialect: str, batch: Sequence[FileRecord], source: Source) -> bulk.Rows:
        """Return the rows of files, but for their numbers."""
        registered = {"by": source.actor, "source": source.name}
        plain = canonical_json({"registered": registered}).decode()
        columns = dict(zip(FileRecord._fields, zip(*batch, strict=True), strict=True))
        lineages = [
            canonical_json({**o, "registered": registered}).decode() if o else plain
            for o in columns["origin"]
        ]
        copied = ("scope", "name", "size", "sha256", "adler32", "kind", "tier", "uuid")
        made = {"lineage": lineages, "created": source.now}
        return bulk.prepare(dialect, schema.file, {name: columns[name] for name in copied} | made, "id")

    def _insert(self, batch: Sequence[FileRecord]) -> list[int]:
        ids = bulk.reserve(self.conn, schema.file, len(batch))
        rows = self.ready.files if self.ready else self._rows(self.conn.dialect.name, batch, self.source)
        bulk.put(self.conn, rows, ids)
        self._add_parents([(n, r) for n, r in zip(ids, batch, strict=True) if r.parents])
        self._add_replicas([(n, r) for n, r in zip(ids, batch, strict=True) if r.replicas])
        return ids

    def _add_parents(self, files: Sequence[tuple[int, FileRecord]]) -> None:
        if files:
            known = _named(self.conn, {name for _, record in files for name in record.parents}, "parent")
            children = [n for n, record in files for _ in record.parents]
            parents = [known[name] for _, record in files for name in record.parents]
            bulk.load(self.conn, schema.file_parent, {"file_id": children, "parent_id": parents})

    def _add_replicas(self, files: Sequence[tuple[int, FileRecord]]) -> None:
        """Add replicas as present: nobody here has read them yet."""
        if files:
            places = [(n, *place) for n, record in files for place in record.replicas]
            owners, endpoints, paths = zip(*places, strict=True)
            ids = bulk.reserve(self.conn, schema.replica, len(places))
            columns = {"id": ids, "file_id": owners, "endpoint": endpoints, "path": paths}
            bulk.load(self.conn, schema.replica, columns | {"state": "present"})
            self._created("replica", ids, ["present"] * len(ids))


class RunWriter(Writer[RunRecord]):
    """Runs; what was announced waits for its chunks, and what is closed is known from elsewhere."""

    subject = "run"
    tables = (schema.run, *metadata.TABLES)
    hint = "another run needs another number; `--correct REASON` corrects what a run is worth"

    def __init__(self, conn: sa.Connection, source: Source, ready: Ready | None = None) -> None:
        super().__init__(conn, source, ready)
        self.measured: dict[int, dict[str, float]] = {}
        self.corrected: dict[int, dict[str, float]] = {}
        self._former: dict[int, list[tuple[str, Any]]] = {}

    @property
    def changed(self) -> int:
        return len(self.corrected)

    def _known(self, batch: Sequence[RunRecord]) -> dict[Any, Any]:
        table, found = schema.run, {}
        for series, tier in sorted({(r.series, r.tier) for r in batch}):
            numbers = [r.number for r in batch if (r.series, r.tier) == (series, tier)]
            for start in range(0, len(numbers), PAGE):
                here = (table.c.series == series, table.c.tier == tier)
                part = table.c.number.in_(numbers[start : start + PAGE])
                for row in self.conn.execute(sa.select(table).where(*here, part)):
                    found[series, row.number, tier] = row
        self.measured, self.corrected = {}, {}
        self._former = measures.former(self.conn, [row.id for row in found.values()])
        return found

    def _identity(self, row: Any) -> tuple[Any, ...]:
        return row.luminosity, row.livetime, bool(row.is_mc), bool(row.is_resampled)

    def _differences(self, record: RunRecord, row: Any) -> list[tuple[str, Any, Any]]:
        """Return what both say, and not alike, as (name, known, said)."""
        names = (*MEASURES, "is_mc", "is_resampled")
        pairs = zip(names, self._identity(row), record.identity, strict=True)
        return [(n, old, new) for n, old, new in pairs if old != new and None not in (old, new)]

    def _difference(self, record: RunRecord, row: Any) -> str:
        return ", ".join(f"{name} is {old}, not {new}" for name, old, new in self._differences(record, row))

    def _is_same(self, record: RunRecord, row: Any) -> bool:
        """A measure may come later than its run, or be corrected; a list may say still what it was before."""
        wrong = {name: new for name, _, new in self._differences(record, row)}
        if self.source.supersede.strip() and wrong and wrong.keys() <= set(MEASURES):
            self.corrected[row.id] = wrong
        elif not set(wrong.items()) <= set(self._former.get(row.id, ())):
            return False
        new = {name: getattr(record, name) for name in MEASURES if getattr(row, name) is None}
        if found := {name: value for name, value in new.items() if value is not None}:
            self.measured[row.id] = found
        return True

    def _complete(self) -> None:
        for id, values in sorted(self.measured.items()):
            measures.measure(self.conn, id, values, self.source.now, self.source.actor)
        by = (self.source.supersede, self.source.now, self.source.actor)
        for id, values in sorted(self.corrected.items()):
            measures.correct(self.conn, id, values, *by)

    def _insert(self, batch: Sequence[RunRecord]) -> list[int]:
        ids = bulk.reserve(self.conn, schema.run, len(batch))
        columns = dict(zip(RunRecord._fields, zip(*batch, strict=True), strict=True))
        copied = ("series", "number", "tier", "state", "luminosity", "livetime", "is_mc", "is_resampled")
        expected = [canonical_json({"records": r.expected}).decode() if r.expected else None for r in batch]
        made = {
            "id": ids,
            "expected": expected,
            "created": self.source.now,
            "version": 1,
            "end_marker": False,
        }
        conditions = {"conditions": [canonical_json(r.conditions).decode() for r in batch]}
        bulk.load(self.conn, schema.run, {name: columns[name] for name in copied} | made | conditions)
        self._created("run", ids, [r.state for r in batch])
        return ids


class CollectionWriter(Writer[CollectionRecord]):
    """Collections over files that are registered: visible only when all of them are."""

    subject = "collection"
    tables = (schema.collection, schema.collection_file, schema.history, *metadata.TABLES)
    hint = "say that it takes its place, and why: `beamwright collection register --supersede REASON`"

    def _known(self, batch: Sequence[CollectionRecord]) -> dict[Any, Any]:
        """Return the newest editions: what was decided to take the place of what has the name."""
        found = by_did(self.conn, schema.collection, [r.key for r in batch])
        while following := collections.successors(self.conn, [row.id for row in found.values()]):
            table, ids = schema.collection, sorted(set(following.values()))
            rows = {row.id: row for row in self.conn.execute(sa.select(table).where(table.c.id.in_(ids)))}
            found = {key: rows[following[r.id]] if r.id in following else r for key, r in found.items()}
        names: dict[int, list[str]] = {row.id: [] for row in found.values()}
        link, file, ids = schema.collection_file, schema.file, sorted(names)
        query = sa.select(link.c.collection_id, file.c.scope, file.c.name).join(file)
        query = query.order_by(link.c.position)
        for start in range(0, len(ids), PAGE):
            for row in self.conn.execute(query.where(link.c.collection_id.in_(ids[start : start + PAGE]))):
                names[row.collection_id].append(f"{row.scope}:{row.name}")
        self._files = {n: tuple(files) for n, files in names.items()}
        return found

    def _identity(self, row: Any) -> tuple[Any, ...]:
        interval = (row.series, *(getattr(row, end) for end in _ENDS))
        return row.tier, row.stream, interval, row.events, bool(row.is_mc), self._files[row.id]

    def _difference(self, record: CollectionRecord, row: Any) -> str:
        return f"a {row.state} collection of this name holds other content"

    def _replaces(self, record: CollectionRecord, row: Any) -> bool:
        if self.source.supersede.strip() and row.state in ("valid", "superseded"):
            self.replaced[record.key] = row
            return True
        return False

    def _name(self, record: CollectionRecord) -> str:
        """Return the name of a record's edition."""
        row = self.replaced.get(record.key)
        if row is None:
            return record.did.name
        plain, mark, edition = row.name.rpartition(".e")
        is_later = bool(mark) and edition.isdigit() and row.name != record.did.name
        return f"{plain}.e{int(edition) + 1}" if is_later else f"{row.name}.e2"

    def _supersede(self, batch: Sequence[CollectionRecord], ids: Sequence[int]) -> None:
        reason, now, actor = self.source.supersede, self.source.now, self.source.actor
        for record, new_id in zip(batch, ids, strict=True):
            row = self.replaced.get(record.key)
            if row is None:
                continue
            if row.state == "valid":
                table, move = schema.collection, history.move
                move(self.conn, table, row.id, "valid", "superseded", actor=actor, reason=reason, at=now)
            collections.replace(self.conn, row.id, new_id, reason, now, actor)

    def _insert(self, batch: Sequence[CollectionRecord]) -> list[int]:
        known = _named(self.conn, {name for r in batch for name in r.files}, "file")
        ids, now = bulk.reserve(self.conn, schema.collection, len(batch)), self.source.now
        columns = dict(zip(CollectionRecord._fields, zip(*batch, strict=True), strict=True))
        copied = (
            "tier",
            "stream",
            "events",
            "release",
            "config_hash",
            "global_tag",
            "resolved_hash",
            *_FLAGS,
        )
        ends = dict(zip(("series", *_ENDS), zip(*columns["interval"], strict=True), strict=True))
        names = {"scope": [r.did.scope for r in batch], "name": [self._name(r) for r in batch]}
        made = {"id": ids, "state": "valid", "created": now}
        bulk.load(self.conn, schema.collection, {n: columns[n] for n in copied} | ends | names | made)
        links = [(n, known[f], i) for n, r in zip(ids, batch, strict=True) for i, f in enumerate(r.files)]
        linked = zip(("collection_id", "file_id", "position"), zip(*links, strict=True), strict=True)
        bulk.load(self.conn, schema.collection_file, dict(linked))
        self._created("collection", ids, ["valid"] * len(ids))
        self._supersede(batch, ids)
        return ids


WRITERS: dict[str, type[Writer[Any]]] = {"file": FileWriter, "run": RunWriter, "collection": CollectionWriter}


def by_did(
    conn: sa.Connection, table: sa.Table, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Any]:
    """Return the rows of these (scope, name) that are there."""
    wanted: dict[str, list[str]] = {}
    for scope, name in keys:
        wanted.setdefault(scope, []).append(name)
    found = {}
    for scope, names in wanted.items():
        for start in range(0, len(names), PAGE):
            part = table.c.name.in_(names[start : start + PAGE])
            for row in conn.execute(sa.select(table).where(table.c.scope == scope, part)):
                found[row.scope, row.name] = row
    return found


def _named(conn: sa.Connection, names: Iterable[str], what: str) -> dict[str, int]:
    """Return the ids of files.

    Raises: UnknownNameError.
    """
    wanted = sorted(names)
    rows = by_did(conn, schema.file, [(n.partition(":")[0], n.partition(":")[2]) for n in wanted])
    found = {f"{scope}:{name}": int(row.id) for (scope, name), row in rows.items()}
    for name in wanted:
        if name not in found:
            raise UnknownNameError(f"registered {what}", name)
    return found
