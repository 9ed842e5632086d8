"""Datasets: named sets of collections, a query while open, a fixed list with a hash once frozen.

A dataset is cited as ``scope:name@version`` or ``scope:name#hash``. What an open one held at a time is asked
of the history; what a frozen one holds never changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import asking, query
from beamwright.catalog.coverage import covered
from beamwright.catalog.vocabulary import Vocabulary, there
from beamwright.core.canonical import content_hash
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, UnknownNameError, UsageError, nearest
from beamwright.core.owners import owner
from beamwright.core.runs import Interval, overlaps
from beamwright.db import history, schema
from beamwright.db.engine import insert_id

ACTOR = "catalogue"
PAGE = 5000

# What a query may say; ``where`` is an expression of ``catalog.query``.
CRITERIA = ("tier", "stream", "series", "production", "step", "is_mc", "is_resampled", "where")


@dataclass(frozen=True)
class Collection:
    """A collection as datasets see it."""

    id: int
    did: Did
    tier: str
    stream: str
    interval: Interval
    events: int
    release: str
    config_hash: str
    global_tag: str
    resolved_hash: str
    is_mc: bool
    is_resampled: bool
    unit_id: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A version of a dataset."""

    id: int
    did: Did
    version: int
    state: str
    query: dict[str, Any]
    content_hash: str | None
    created: float = 0.0
    frozen: float | None = None

    @property
    def citation(self) -> str:
        """The name by which this version is found for ever."""
        return f"{self.did}@{self.version}"


def find_collections(
    conn: sa.Connection, criteria: Mapping[str, Any], as_of: float | None = None
) -> list[Collection]:
    """Return the collections that meet the criteria and are, or were at a time, valid; in key order.

    Raises: UsageError for an unknown criterion or a wrong expression.
    """
    known = asking.words(conn, "collection", as_of)
    assert known.state is not None
    valid = [known.state == "valid", *there(known.table, as_of)]
    rows = conn.execute(sa.select(known.table).where(*valid, *conditions(criteria, known)))
    return _in_order(_collection(row) for row in rows)


def create(
    conn: sa.Connection, did: Did, criteria: Mapping[str, Any], now: float, actor: str = ACTOR
) -> Dataset:
    """Make an open dataset, or find it; after a frozen one this is its next version.

    Raises: ConflictError when an open one of this name has another query.
    """
    conditions(criteria, asking.words(conn, "collection"))
    _check_owner(did, str(criteria.get("production", "")))
    latest = _latest(conn, did)
    if latest is not None and latest.state == "open":
        if latest.query != dict(criteria):
            raise ConflictError(
                f"dataset {did} is open with another query", hint="freeze it first, or use another name"
            )
        return latest
    dataset_id = insert_id(
        conn,
        schema.dataset,
        scope=did.scope,
        name=did.name,
        version=latest.version + 1 if latest else 1,
        state="open",
        query=dict(criteria),
        content_hash=None,
        created=now,
        frozen=None,
    )
    history.record(conn, "dataset", dataset_id, "open", actor=actor, at=now)
    return find(conn, did)


def _check_owner(did: Did, production: str) -> None:
    """Nothing that an analyst made enters anybody else's datasets.

    Raises: UsageError, naming it.
    """
    if owner(production) not in ("", owner(did.scope)):
        message = f"dataset {did} cannot hold what {production} made: it belongs to {owner(production)}"
        raise UsageError(message, hint=f"make a dataset in the scope {production}")


def find(conn: sa.Connection, did: Did, version: int | None = None) -> Dataset:
    """Return a dataset, its newest version unless another is asked for.

    Raises: UnknownNameError.
    """
    found = _latest(conn, did, version)
    if found is None:
        table = schema.dataset
        known = conn.execute(sa.select(table.c.scope, table.c.name, table.c.version))
        if version is None:
            raise UnknownNameError("dataset", str(did), [f"{row.scope}:{row.name}" for row in known])
        versions = [f"{row.scope}:{row.name}@{row.version}" for row in known]
        raise UnknownNameError("dataset", f"{did}@{version}", versions)
    return found


def cited(conn: sa.Connection, name: str) -> Dataset:
    """Return the dataset of a citation: ``scope:name``, ``scope:name@version`` or ``scope:name#hash``.

    Raises: UnknownNameError, UsageError.
    """
    plain, mark, content = name.partition("#")
    if mark:
        did, table = Did.parse(plain), schema.dataset
        mine = (table.c.scope == did.scope, table.c.name == did.name)
        rows = list(conn.execute(sa.select(table).where(*mine).order_by(table.c.version)))
        same = [row for row in rows if content and (row.content_hash or "").startswith(content)]
        if not same:
            raise UnknownNameError("dataset", name, [f"{plain}#{(r.content_hash or '')[:12]}" for r in rows])
        return _dataset(same[-1])
    plain, mark, version = name.rpartition("@")
    if not mark:
        return find(conn, Did.parse(name))
    if not version.isdigit() or len(version) > 9:
        raise UsageError(f"{version!r} is no version", hint="write scope:name@2")
    return find(conn, Did.parse(plain), int(version))


def collections(conn: sa.Connection, dataset: Dataset, as_of: float | None = None) -> list[Collection]:
    """Return what is in a dataset: by its list once it is frozen, by its query before.

    With a time, what was in it then.
    """
    if dataset.state == "open" or (as_of is not None and (dataset.frozen or 0.0) > as_of):
        found = find_collections(conn, dataset.query, as_of)
        return [one for one in found if owner(one.did.scope) in ("", owner(dataset.did.scope))]
    table, link = schema.collection, schema.dataset_collection
    listed = sa.select(table).join(link, link.c.collection_id == table.c.id)
    rows = conn.execute(listed.where(link.c.dataset_id == dataset.id))
    return _in_order(_collection(row) for row in rows)


def freeze(
    conn: sa.Connection,
    did: Did,
    now: float,
    actor: str = ACTOR,
    reason: str = "",
    *,
    allow_mixed: bool = False,
    as_of: float | None = None,
) -> str:
    """Fix the list of an open dataset, as it is or was at a time; return its content hash.

    Raises: ConflictError when two of its collections hold the same input keys of one stream, or when it mixes
    releases, constants, or data and simulation, unless that is allowed with a reason.
    """
    dataset = find(conn, did)
    if dataset.state == "frozen" and dataset.content_hash:
        return dataset.content_hash
    found = collections(conn, dataset, as_of)
    _check_single(conn, did, found)
    if not (allow_mixed and reason.strip()):
        _check_uniform(did, found)
    content = hash_collections(conn, found)
    if found:
        rows = [{"dataset_id": dataset.id, "collection_id": c.id} for c in found]
        conn.execute(sa.insert(schema.dataset_collection), rows)
    values: dict[str, Any] = {"content_hash": content, "frozen": now}
    history.move(
        conn, schema.dataset, dataset.id, "open", "frozen", actor=actor, reason=reason, at=now, **values
    )
    return content


def withdraw(conn: sa.Connection, dataset: Dataset, reason: str, now: float, actor: str) -> None:
    """Say that a frozen dataset must not be used any more; it can still be looked up.

    Raises: UsageError without a reason, StateError.
    """
    if not reason.strip():
        raise UsageError("withdrawing a dataset needs a reason", hint="say what is wrong with it")
    table = schema.dataset
    history.move(conn, table, dataset.id, dataset.state, "withdrawn", actor=actor, reason=reason, at=now)


def mixture(found: Sequence[Collection]) -> dict[str, list[str]]:
    """Return in what collections of one set should not differ and do: by name, the values."""
    values = {
        "release": {c.release for c in found},
        "global tag": {c.global_tag for c in found},
        "configuration": {c.config_hash for c in found},
        "simulated": {str(c.is_mc) for c in found},
        "resampled": {str(c.is_resampled) for c in found},
    }
    return {name: sorted(several) for name, several in values.items() if len(several) > 1}


def hash_collections(conn: sa.Connection, found: Sequence[Collection]) -> str:
    """Return the hash over names and file contents of collections."""
    file, link = schema.file, schema.collection_file
    wanted = sa.select(link.c.collection_id, link.c.position, file.c.sha256).join(
        file, link.c.file_id == file.c.id
    )
    contents: dict[int, list[list[Any]]] = defaultdict(list)
    for start in range(0, len(found), PAGE):
        part = link.c.collection_id.in_([c.id for c in found[start : start + PAGE]])
        for row in conn.execute(wanted.where(part)):
            contents[row.collection_id].append([row.position, row.sha256])
    return content_hash(sorted([str(c.did), sorted(contents[c.id])] for c in found))


def conditions(criteria: Mapping[str, Any], known: Vocabulary) -> list[query.Condition]:
    """Return the conditions on collections that criteria state.

    Raises: UsageError.
    """
    found = []
    for name, value in criteria.items():
        if name not in CRITERIA:
            raise UsageError(f"{name!r} is no criterion of a dataset", hint=nearest(name, CRITERIA))
        if name == "where":
            found.append(query.compile(value, known.fields, known.functions))
        elif isinstance(value, list | tuple):
            found.append(sa.or_(sa.false(), *(known.fields[name].is_value(one) for one in value)))
        else:
            found.append(known.fields[name].is_value(value))
    return found


def _in_order(found: Iterable[Collection]) -> list[Collection]:
    return sorted(found, key=lambda c: (c.stream, c.interval, c.did))


def _latest(conn: sa.Connection, did: Did, version: int | None = None) -> Dataset | None:
    table = schema.dataset
    chosen = sa.select(table).where(table.c.scope == did.scope, table.c.name == did.name)
    if version is not None:
        chosen = chosen.where(table.c.version == version)
    row = conn.execute(chosen.order_by(table.c.version.desc()).limit(1)).first()
    if row is None:
        return None
    return _dataset(row)


def _dataset(row: Any) -> Dataset:
    did, hashed = Did(row.scope, row.name), row.content_hash
    return Dataset(row.id, did, row.version, row.state, row.query, hashed, row.created, row.frozen)


def _collection(row: Any) -> Collection:
    first = (row.first_run, row.first_section, row.first_event)
    return Collection(
        id=row.id,
        did=Did(row.scope, row.name),
        tier=row.tier,
        stream=row.stream,
        interval=Interval(row.series, first, (row.last_run, row.last_section, row.last_event)),
        events=row.events,
        release=row.release,
        config_hash=row.config_hash,
        global_tag=row.global_tag,
        resolved_hash=row.resolved_hash,
        is_mc=row.is_mc,
        is_resampled=row.is_resampled,
        unit_id=row.unit_id,
    )


def _check_uniform(did: Did, found: Sequence[Collection]) -> None:
    """One release, one set of constants, one configuration; data and simulation apart."""
    mixed = mixture(found)
    if mixed:
        told = "; ".join(
            f"{name}: {', '.join(v[:19] or 'none' for v in values)}" for name, values in mixed.items()
        )
        raise ConflictError(
            f"dataset {did} is mixed: {told}",
            hint="narrow its query, or freeze it with --allow-mixed and a reason",
            mixed=mixed,
        )


def _check_single(conn: sa.Connection, did: Did, found: Sequence[Collection]) -> None:
    """One valid output per input key and stream."""
    groups: dict[tuple[str, bool], list[Collection]] = defaultdict(list)
    for c in found:
        groups[c.stream, c.is_resampled].append(c)
    for (stream, _), group in sorted(groups.items()):
        if not overlaps(c.interval for c in group):
            continue
        for one, other in overlaps(covered(conn, [(c.unit_id, c.interval) for c in group])):
            raise ConflictError(
                f"dataset {did} holds {one} and {other} of stream {stream}: the same events twice",
                hint="narrow the query to one production and step, or supersede one of the collections",
            )
