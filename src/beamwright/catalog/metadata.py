"""Metadata that people declare: kinds of typed keys for runs, files, collections, datasets and tasks.

A kind is a row, not a column: declaring one changes no table. What an object says under a kind is one
document, kept with the times from and until which it held; the keys that are declared as indexed stand in a
table of their type as well, where queries find them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_json

from beamwright.core.canonical import canonical_json
from beamwright.core.clock import seconds_of
from beamwright.core.errors import ConfigError, ConflictError, FormatError, UnknownNameError, nearest
from beamwright.db import bulk, history, schema
from beamwright.db.engine import insert_id

ACTOR = "catalogue"
SUBJECTS: dict[str, sa.Table] = {
    "run": schema.run,
    "file": schema.file,
    "collection": schema.collection,
    "dataset": schema.dataset,
    "task": schema.task,
}
INDEXES: dict[str, sa.Table] = {
    "int": schema.metadata_integer,
    "bool": schema.metadata_integer,
    "float": schema.metadata_number,
    "time": schema.metadata_number,
    "text": schema.metadata_text,
}
TYPES = tuple(INDEXES)
TABLES = (schema.metadata_document, *dict.fromkeys(INDEXES.values()))
MAX_DOCUMENT, MAX_TEXT, MAX_INDEXED = 64_000, 10_000, 500
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_WORDS = frozenset({"and", "or", "not", "in", "true", "false", "quality"})
_INTEGERS = range(-(2**63), 2**63)
_PAGE = 5000

Value = str | int | float | bool
Content = dict[str, Value]


@dataclass(frozen=True)
class Key:
    """A declared key; ``unit`` is for people."""

    id: int
    name: str
    type: str
    unit: str
    doc: str
    is_required: bool
    is_indexed: bool


@dataclass(frozen=True)
class Kind:
    """A declared kind of metadata of one subject."""

    id: int
    name: str
    subject: str
    doc: str
    keys: dict[str, Key]

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        keys = [{k: v for k, v in asdict(key).items() if k != "id"} for key in self.keys.values()]
        return {"name": self.name, "subject": self.subject, "doc": self.doc, "keys": keys}

    def checked(self, content: Any) -> Content:
        """Return the content as it is stored.

        Raises: FormatError for an unknown key, a missing one, a value of another type, NaN, or too much.
        """
        if not isinstance(content, dict):
            raise FormatError(f"the metadata {self.name} are no table of keys", hint="write key: value")
        found: Content = {}
        for name, value in content.items():
            key = self.keys.get(name)
            if key is None:
                hint = nearest(str(name)[:80], self.keys)
                raise FormatError(f"{self.name} has no key {str(name)[:80]!r}", hint=hint)
            found[name] = _value(self.name, key, value)
        for name in self.required:
            if name not in found:
                raise FormatError(f"{self.name}.{name} is missing", hint="it is a required key")
        if len(found) > 6 and len(canonical_json(found)) > MAX_DOCUMENT:
            raise FormatError(
                f"the metadata {self.name} have more than {MAX_DOCUMENT} bytes", hint=_FILE_HINT
            )
        return found

    @cached_property
    def required(self) -> list[str]:
        """The names of the keys that each document must have."""
        return [key.name for key in self.keys.values() if key.is_required]

    @cached_property
    def indexed(self) -> list[Key]:
        """The keys that queries find by an index."""
        return [key for key in self.keys.values() if key.is_indexed]


_FILE_HINT = "metadata describe; what is long belongs into a file"


def declare(conn: sa.Connection, document: Mapping[str, Any], now: float, actor: str = ACTOR) -> Kind:
    """Declare a kind, or widen it by keys and indexes; doing it again changes nothing.

    ``document`` holds name, subject, doc and a table ``key`` of name → type, unit, doc, indexed, required.

    Raises: ConfigError when it is malformed, ConflictError when it contradicts what was declared.
    """
    name, subject, doc, keys = _declared(document)
    known = kinds(conn, lock=True).get(name)
    if known is None:
        values = {"name": name, "subject": subject, "doc": doc, "created": now}
        kind_id = insert_id(conn, schema.metadata_kind, **values)
        known = Kind(kind_id, name, subject, doc, {})
    elif known.subject != subject:
        raise ConflictError(
            f"metadata {name} are declared for a {known.subject}", hint="declare them under another name"
        )
    changes = [change for key in keys for change in _declare_key(conn, known, key, now)]
    if changes or not known.keys:
        data = {"changes": changes}
        history.record(conn, "metadata_kind", name, "declared", actor=actor, at=now, data=data)
    return kinds(conn)[name]


def kinds(conn: sa.Connection, subject: str | None = None, *, lock: bool | str = False) -> dict[str, Kind]:
    """Return the declared kinds by name; ``lock`` keeps them as they are ("share") or to oneself (True)."""
    kind, key = schema.metadata_kind, schema.metadata_key
    chosen = sa.select(kind).order_by(kind.c.name)
    if lock:
        chosen = chosen.with_for_update(read=lock == "share")
    rows = [row for row in conn.execute(chosen) if subject in (None, row.subject)]
    keys: dict[int, dict[str, Key]] = {row.id: {} for row in rows}
    for row in conn.execute(sa.select(key).order_by(key.c.id)):
        if row.kind_id in keys:
            flags = (bool(row.is_required), bool(row.is_indexed))
            keys[row.kind_id][row.name] = Key(row.id, row.name, row.type, row.unit, row.doc, *flags)
    return {row.name: Kind(row.id, row.name, row.subject, row.doc, keys[row.id]) for row in rows}


def find_kind(conn: sa.Connection, name: str, subject: str | None = None) -> Kind:
    """Return a kind.

    Raises: UnknownNameError with the nearest name.
    """
    known = kinds(conn, subject)
    if name not in known:
        what = f"kind of metadata of a {subject}" if subject else "kind of metadata"
        raise UnknownNameError(what, name, known)
    return known[name]


def attach(
    conn: sa.Connection, kind: Kind, contents: Mapping[int, Mapping[str, Any]], now: float, actor: str = ACTOR
) -> int:
    """Say something of objects under a kind, in place of what was said; return how many documents are new.

    Raises: FormatError.
    """
    table = schema.metadata_kind
    conn.execute(sa.select(table.c.id).where(table.c.id == kind.id).with_for_update())
    kind = kinds(conn)[kind.name]  # it may have got an index meanwhile
    present = _live(conn, kind, contents)
    checked = {n: kind.checked(dict(c)) for n, c in contents.items()}
    fresh = {n: content for n, content in checked.items() if n not in present or present[n][1] != content}
    _end(conn, kind, {n: present[n] for n in fresh if n in present}, now)
    write(conn, [(kind, n, content) for n, content in fresh.items()], now)
    for n, content in fresh.items():
        data = {"kind": kind.name, "content": content}
        history.record(conn, "metadata", f"{kind.subject}:{n}", "attached", actor=actor, at=now, data=data)
    return len(fresh)


@dataclass(frozen=True)
class Ready:
    """Checked documents and entries in the form of their database, and whose they are."""

    documents: bulk.Rows
    owners: list[int]
    entries: list[tuple[bulk.Rows, list[int]]]


def ready(
    dialect: str, known: Mapping[str, Kind], rows: Iterable[tuple[Kind, int, Content]], now: float
) -> Ready:
    """Bring checked documents of objects that have none of these kinds into the form of a database.

    The objects may be places in a list of numbers that are drawn later.
    """
    indexes: dict[str, list[tuple[int, Value, int]]] = {type_: [] for type_ in TYPES}
    keys = {name: [(key, indexes[key.type].append) for key in kind.indexed] for name, kind in known.items()}
    kinds_, texts, owners = list[int](), list[str](), list[int]()
    for kind, n, content in rows:
        kinds_.append(kind.id)
        owners.append(n)
        texts.append(to_json(content).decode())
        for key, enter in keys[kind.name]:
            value = content.get(key.name)
            if value is not None:
                _check_indexed(kind.name, key, value)
                enter((key.id, value, n))
    said = {"kind_id": kinds_, "content": texts, "added": now}
    documents = bulk.prepare(dialect, schema.metadata_document, said, "object")
    found = [_entries(dialect, type_, entries, now) for type_, entries in indexes.items() if entries]
    return Ready(documents, owners, found)


def put(conn: sa.Connection, said: Ready, numbers: Sequence[int] | None = None) -> None:
    """Write documents with their entries; with ``numbers`` their objects are places in that list."""
    for rows, owners in ((said.documents, said.owners), *said.entries):
        bulk.put(conn, rows, owners if numbers is None else list(map(numbers.__getitem__, owners)))


def write(conn: sa.Connection, rows: Iterable[tuple[Kind, int, Content]], now: float) -> None:
    """Write checked documents of objects that have none of these kinds, with their indexes."""
    # A key may have got its index since the documents were checked; from here on none does.
    put(conn, ready(conn.dialect.name, kinds(conn, lock="share"), rows, now))


def _entries(
    dialect: str, type_: str, entries: list[tuple[int, Value, int]], now: float
) -> tuple[bulk.Rows, list[int]]:
    keys, values, owners = zip(*entries, strict=True)
    kept = [_kept(type_, value) for value in values] if type_ == "bool" else values
    said = {"key_id": keys, "value": kept, "added": now}
    return bulk.prepare(dialect, INDEXES[type_], said, "object"), list(owners)


def of(
    conn: sa.Connection, subject: str, objects: Iterable[int], as_of: float | None = None
) -> dict[int, dict[str, Content]]:
    """Return what is, or was at a time, said of objects: by object and kind."""
    kind, table = schema.metadata_kind, schema.metadata_document
    wanted = sorted(set(objects))
    found: dict[int, dict[str, Content]] = {n: {} for n in wanted}
    chosen = sa.select(table.c.object, kind.c.name, table.c.content).join(kind, kind.c.id == table.c.kind_id)
    chosen = chosen.where(kind.c.subject == subject, live(table, as_of)).order_by(kind.c.name)
    for start in range(0, len(wanted), _PAGE):
        part = table.c.object.in_(wanted[start : start + _PAGE])
        for row in conn.execute(chosen.where(part)):
            found[row.object][row.name] = row.content
    return found


def live(table: sa.Table, as_of: float | None) -> sa.ColumnElement[bool]:
    """Return the condition that a document, or an entry of an index, holds now or held at a time."""
    if as_of is None:
        return table.c.removed.is_(None)
    return sa.and_(table.c.added <= as_of, sa.or_(table.c.removed.is_(None), table.c.removed > as_of))


# --- declaring ------------------------------------------------------------------------------------


def _declared(document: Mapping[str, Any]) -> tuple[str, str, str, list[Key]]:
    _only(document, ("name", "subject", "doc", "key"), "a kind of metadata")
    name, subject, keys = document.get("name"), document.get("subject"), document.get("key")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _WORDS:
        raise ConfigError(
            f"{str(name)[:80]!r} is no name for a kind of metadata", hint="small letters, digits and _"
        )
    if subject not in SUBJECTS:
        hint = nearest(str(subject), SUBJECTS)
        raise ConfigError(f"metadata {name}: {subject!r} has no metadata", hint=hint)
    if not isinstance(keys, dict) or not keys:
        raise ConfigError(f"metadata {name} declare no key", hint='write [key.energy] and type = "float"')
    return name, subject, str(document.get("doc", "")), [_key(name, n, said) for n, said in keys.items()]


def _key(kind: str, name: str, said: Any) -> Key:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} is no name for a key of {kind}", hint="small letters, digits and _")
    if not isinstance(said, dict):
        raise ConfigError(f"key {kind}.{name} is no table", hint=f'write [key.{name}] and type = "float"')
    _only(said, ("type", "unit", "doc", "indexed", "required"), f"key {kind}.{name}")
    if said.get("type") not in TYPES:
        raise ConfigError(
            f"key {kind}.{name} has the type {said.get('type')!r}", hint=nearest(str(said.get("type")), TYPES)
        )
    is_required, is_indexed = (said.get(n, False) is True for n in ("required", "indexed"))
    return Key(
        0, name, said["type"], str(said.get("unit", "")), str(said.get("doc", "")), is_required, is_indexed
    )


def _only(document: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for name in document:
        if name not in known:
            raise ConfigError(f"{what} has no member {str(name)[:80]!r}", hint=nearest(str(name), known))


def _declare_key(conn: sa.Connection, kind: Kind, key: Key, now: float) -> Iterator[str]:
    table, known = schema.metadata_key, kind.keys.get(key.name)
    if known is None:
        if key.is_required and kind.keys and _is_used(conn, kind):
            raise ConflictError(
                f"{kind.name}.{key.name} cannot be required: documents without it are there",
                hint="declare it without `required`",
            )
        values = {n: v for n, v in asdict(key).items() if n != "id"}
        conn.execute(sa.insert(table).values(kind_id=kind.id, created=now, **values))
        yield f"key {key.name}"
        return
    if known.type != key.type:
        raise ConflictError(
            f"{kind.name}.{key.name} holds {known.type}, not {key.type}", hint="declare a key of another name"
        )
    if key.is_indexed and not known.is_indexed:
        conn.execute(sa.update(table).where(table.c.id == known.id).values(is_indexed=True))
        _fill(conn, kind, known)
        yield f"index {key.name}"


def _is_used(conn: sa.Connection, kind: Kind) -> bool:
    table = schema.metadata_document
    said = sa.select(table.c.object).where(table.c.kind_id == kind.id).limit(1)
    return conn.execute(said).first() is not None


def _fill(conn: sa.Connection, kind: Kind, key: Key) -> None:
    """Index a key in the documents that are there."""
    table, place = schema.metadata_document, (0, 0.0)
    here = sa.tuple_(table.c.object, table.c.added)
    mine = sa.select(table).where(table.c.kind_id == kind.id).order_by(table.c.object, table.c.added)
    while rows := conn.execute(mine.where(here > place).limit(_PAGE)).all():
        found = [row for row in rows if key.name in row.content]
        for row in found:
            _check_indexed(kind.name, key, row.content[key.name])
        values = [_kept(key.type, row.content[key.name]) for row in found]
        times = {name: [getattr(row, name) for row in found] for name in ("object", "added", "removed")}
        bulk.load(conn, INDEXES[key.type], {"key_id": key.id, "value": values} | times)
        place = (rows[-1].object, rows[-1].added)


def _live(conn: sa.Connection, kind: Kind, objects: Iterable[int]) -> dict[int, tuple[float, Content]]:
    table, wanted, found = schema.metadata_document, sorted(objects), {}
    for start in range(0, len(wanted), _PAGE):
        part = table.c.object.in_(wanted[start : start + _PAGE])
        mine = (table.c.kind_id == kind.id, part, live(table, None))
        for row in conn.execute(sa.select(table).where(*mine)):
            found[row.object] = (row.added, row.content)
    return found


def _end(conn: sa.Connection, kind: Kind, said: Mapping[int, tuple[float, Content]], now: float) -> None:
    """Let documents and their entries hold until now; those of this very moment have never held."""
    ended: dict[sa.Table, list[dict[str, Any]]] = {}
    for n, (added, content) in said.items():
        place = {"object_": n, "added_": added}
        ended.setdefault(schema.metadata_document, []).append({"kind_id_": kind.id, **place})
        for key in kind.indexed:
            if key.name in content:
                named = {"key_id_": key.id, "value_": _kept(key.type, content[key.name])}
                ended.setdefault(INDEXES[key.type], []).append(named | place)
    for table, rows in ended.items():
        for part, change in (
            ([row for row in rows if row["added_"] == now], sa.delete(table)),
            ([row for row in rows if row["added_"] != now], sa.update(table).values(removed=now)),
        ):
            if part:
                here = [table.c[name[:-1]] == sa.bindparam(name) for name in part[0]]
                conn.execute(change.where(*here), part)


def _kept(type_: str, value: Value) -> Value:
    """Return a value as it stands in its index."""
    return int(value) if type_ == "bool" else value


# --- values ---------------------------------------------------------------------------------------


def _value(kind: str, key: Key, value: Any) -> Value:
    """Return a value as it is stored."""
    type_, found = key.type, type(value)
    if type_ == "text" and found is str:
        _check_text(kind, key, value)
        return str(value)
    if type_ == "int" and found is int and value in _INTEGERS:
        return int(value)
    if type_ == "float" and found is float and math.isfinite(value):
        return float(value)
    if type_ == "float" and found is int and abs(value) < 2**1000:
        return float(value)
    if type_ == "bool" and found is bool:
        return bool(value)
    if type_ == "time" and found in (str, int, float):
        return seconds_of(value, f"{kind}.{key.name}")
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:60]}… ({len(shown)} characters)"
    wanted = {"int": "a whole number of 64 bits", "float": "a finite number", "bool": "true or false"}
    raise FormatError(f"{kind}.{key.name} is {shown}", hint=f"it holds {wanted.get(type_, type_)}")


def _check_text(kind: str, key: Key, value: str) -> None:
    if len(value) > MAX_TEXT:
        told = f"{kind}.{key.name} has {len(value)} characters, {MAX_TEXT} are allowed"
        raise FormatError(told, hint=_FILE_HINT)
    if key.is_indexed:
        _check_indexed(kind, key, value)
    if "\0" in value or not (value.isascii() or _is_unicode(value)):
        told = f"{kind}.{key.name} holds a character that is no text"
        raise FormatError(told, hint="write Unicode without NUL")


def _check_indexed(kind: str, key: Key, value: Any) -> None:
    if key.type == "text" and len(value) > MAX_INDEXED:
        told = f"{kind}.{key.name} has {len(value)} characters; indexed are at most {MAX_INDEXED}"
        raise FormatError(told, hint="declare the key without an index, or shorten the value")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
