"""What the language of the catalogue can speak of: the fields and functions of runs, collections and files.

With ``as_of`` everything is asked as it stood then: states are what the history says, metadata and verdicts
those that held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import measures, metadata
from beamwright.catalog.query import Among, Condition, Field, Function
from beamwright.core import states
from beamwright.core.errors import UsageError, nearest
from beamwright.db import schema

VERDICTS = ("good", "bad", "unknown")
JUDGED = ("run", "collection", "file")


@dataclass(frozen=True)
class Vocabulary:
    """What can be said of one subject; ``state`` is its state at the time that is asked for.

    ``then`` holds the columns that were otherwise then, as they were.
    """

    table: sa.Table
    fields: dict[str, Field]
    functions: dict[str, Function]
    state: sa.ColumnElement[str] | None
    then: dict[str, sa.ColumnElement[Any]]

    @property
    def names(self) -> list[str]:
        """Every name, of functions with an opening parenthesis."""
        return sorted([*self.fields, *(f"{name}(" for name in self.functions)])


def vocabulary(subject: str, kinds: Iterable[metadata.Kind] = (), as_of: float | None = None) -> Vocabulary:
    """Return what can be said of a ``run``, ``collection`` or ``file``; ``kinds`` are those of metadata."""
    table = metadata.SUBJECTS[subject]
    state = state_then(table, as_of) if "state" in table.c else None
    fields = dict(_FIELDS[subject])
    then = {} if as_of is None else _then(subject, as_of) | ({} if state is None else {"state": state})
    fields |= {name: replace(fields[name], column=column) for name, column in then.items()}
    if subject == "file" and as_of is not None:
        was_there = sa.select(schema.replica.c.file_id).where(then["replica"].is_not(None))
        fields["endpoint"] = replace(fields["endpoint"], through=_within(table.c.id, was_there))
    known = list(kinds)
    for kind in known:
        for key in kind.keys.values():
            found = _metadata_field(kind, key, as_of)
            if kind.subject == subject:
                fields[f"{kind.name}.{key.name}"] = found
            elif kind.subject == "task" and subject == "collection":
                fields[f"{kind.name}.{key.name}"] = _of_task(found)
    functions = {f"quality.{v}": _verdict_function(subject, v, as_of) for v in VERDICTS if subject in JUDGED}
    own = {kind.name: kind for kind in known if kind.subject == subject}
    functions["has"] = Function(("metadata",), partial(_has, table, own, as_of))
    return Vocabulary(table, fields, functions, state, then)


def there(table: sa.Table, as_of: float | None) -> list[Condition]:
    """Return the condition that a row was there at a time."""
    return [] if as_of is None else [table.c.created <= as_of]


# --- states, as the history tells them ----------------------------------------------------------------


def state_then(table: sa.Table, as_of: float | None) -> sa.ColumnElement[str]:
    """Return the state that a row is in, or was in at a time; NULL where it was not there yet."""
    kind, line = table.name, schema.history
    if as_of is None:
        column: sa.ColumnElement[str] = table.c.state
        return column
    mine = (line.c.kind == kind, line.c.object == sa.cast(table.c.id, sa.Text), line.c.at <= as_of)
    known = line.c.target.in_(sorted(states.states(kind)))
    newest = sa.select(line.c.target).where(*mine, known).order_by(line.c.at.desc(), line.c.id.desc())
    return newest.limit(1).correlate(table).scalar_subquery()


def _then(subject: str, as_of: float) -> dict[str, sa.ColumnElement[Any]]:
    """Return what else was otherwise: copies come and go, runs are corrected and get new versions."""
    if subject == "file":
        return {"replica": state_then(schema.replica, as_of)}
    if subject != "run":
        return {}
    table, line = schema.run, schema.history
    mine = (line.c.kind == "run", line.c.object == sa.cast(table.c.id, sa.Text), line.c.at <= as_of)
    again = (line.c.target == "open", line.c.source.in_(("closed", "incomplete")))
    opened = sa.select(sa.func.count()).where(*mine, *again).correlate(table).scalar_subquery()
    return {"version": opened + 1} | measures.then(as_of)


# --- fields ---------------------------------------------------------------------------------------


def _plain(table: sa.Table, *names: str, quick: tuple[str, ...] = ()) -> dict[str, Field]:
    return {
        name: Field(
            table.c[name],
            is_time=name in ("created", "frozen"),
            is_quick=name in quick,
            values=known_states(table.name) if name == "state" else (),
        )
        for name in names
    }


def known_states(kind: str) -> tuple[str, ...]:
    """Return all states that a kind of object can have."""
    return tuple(sorted(states.states(kind)))


def _within(owner: sa.Column[Any], link: sa.Select[Any]) -> Callable[[Condition], Condition]:
    """Return what turns a condition on rows of ``link`` into one on their ``owner``."""
    return lambda condition: Among(owner, link.where(condition))


def _named(table: sa.Table) -> Field:
    """Return the field of names, which are unique in their scope: the index has the scope first.

    So a name is looked for in one scope after the other; there are few, and one step leads to the next.
    """
    first = sa.select(sa.func.min(table.c.scope).label("scope")).cte("scopes", recursive=True)
    following = sa.select(sa.func.min(table.c.scope)).where(table.c.scope > first.c.scope)
    walk = first.union_all(sa.select(following.scalar_subquery()).where(first.c.scope.is_not(None)))
    known = sa.select(walk.c.scope).where(walk.c.scope.is_not(None))

    def anywhere(condition: Condition) -> Condition:
        return sa.and_(condition, Among(table.c.scope, known))

    return Field(table.c.name, through=anywhere, is_quick=True)


def _run_fields() -> dict[str, Field]:
    table = schema.run
    names = ("series", "tier", "state", "version", "end_marker", "is_mc", "is_resampled", "created")
    plain = _plain(table, *names, "luminosity", "livetime", quick=("series",))
    return {"run": Field(table.c.number), **plain}


def _collection_fields() -> dict[str, Field]:
    table, unit, task, production = schema.collection, schema.unit, schema.task, schema.production
    names = ("scope", "name", "tier", "stream", "state", "events", "series", "release", "config_hash")
    quick = ("scope", "tier", "series")
    made = sa.select(unit.c.id).join(task, unit.c.task_id == task.c.id)
    made = made.join(production, task.c.production_id == production.c.id)
    link, dataset = schema.dataset_collection, schema.dataset
    listed = sa.select(link.c.collection_id).join(dataset, link.c.dataset_id == dataset.c.id)
    return {
        "run": Field(table.c.first_run, table.c.last_run),
        **_plain(
            table, *names, "global_tag", "resolved_hash", "is_mc", "is_resampled", "created", quick=quick
        ),
        "name": _named(table),
        "production": Field(production.c.name, through=_within(table.c.unit_id, made), is_quick=True),
        "step": Field(task.c.step, through=_within(table.c.unit_id, made), is_quick=True),
        "dataset": Field(dataset.c.scope + ":" + dataset.c.name, through=_within(table.c.id, listed)),
    }


def _file_fields() -> dict[str, Field]:
    table, replica, attempt = schema.file, schema.replica, schema.attempt
    kept = sa.select(replica.c.file_id)
    made = sa.select(attempt.c.id)
    job, unit, task, production = schema.job, schema.unit, schema.task, schema.production
    work = made.join(job, attempt.c.job_id == job.c.id).join(unit, job.c.unit_id == unit.c.id)
    work = work.join(task, unit.c.task_id == task.c.id)
    work = work.join(production, task.c.production_id == production.c.id)
    covered = _covered()
    in_run = _within(table.c.id, sa.select(covered.c.file_id))
    names = ("scope", "name", "kind", "tier", "size", "sha256", "adler32", "uuid", "created")
    by_attempt = partial(_within, table.c.attempt_id)
    return {
        **_plain(table, *names, quick=("scope", "uuid")),
        "name": _named(table),
        "sha256": Field(table.c.sha256, is_quick=True, is_hash=True),
        "endpoint": Field(replica.c.endpoint, through=_within(table.c.id, kept), is_quick=True),
        "replica": Field(replica.c.state, through=_within(table.c.id, kept), values=known_states("replica")),
        "series": Field(covered.c.series, through=in_run),
        "run": Field(covered.c.first_run, covered.c.last_run, through=in_run),
        "release": Field(attempt.c.release, through=by_attempt(made)),
        "farm": Field(attempt.c.farm, through=by_attempt(made)),
        "production": Field(production.c.name, through=by_attempt(work)),
        "step": Field(task.c.step, through=by_attempt(work)),
    }


def _covered() -> sa.Subquery:
    """The runs of files: those of delivered chunks, and those of collections."""
    link, chunk, run = schema.chunk_file, schema.chunk, schema.run
    delivered = sa.select(
        link.c.file_id, run.c.series, run.c.number.label("first_run"), run.c.number.label("last_run")
    )
    delivered = delivered.join(chunk, link.c.chunk_id == chunk.c.id).join(run, chunk.c.run_id == run.c.id)
    member, collection = schema.collection_file, schema.collection
    ends = (collection.c.series, collection.c.first_run, collection.c.last_run)
    held = sa.select(member.c.file_id, *ends).join(collection, member.c.collection_id == collection.c.id)
    return sa.union_all(delivered, held).subquery("covered")


_FIELDS: dict[str, dict[str, Field]] = {
    "run": _run_fields(),
    "collection": _collection_fields(),
    "file": _file_fields(),
}
RUNS, COLLECTIONS, FILES = _FIELDS["run"], _FIELDS["collection"], _FIELDS["file"]


# --- metadata -------------------------------------------------------------------------------------


def _metadata_field(kind: metadata.Kind, key: metadata.Key, as_of: float | None) -> Field:
    owner, document = metadata.SUBJECTS[kind.subject], schema.metadata_document
    is_time = key.type == "time"
    if key.is_indexed:
        table = metadata.INDEXES[key.type]
        found = sa.select(table.c.object).where(table.c.key_id == key.id, metadata.live(table, as_of))
        column: sa.ColumnElement[Any] = table.c.value
        if key.type == "bool":  # kept as 0 and 1
            column = sa.case((table.c.value == 1, sa.true()), else_=sa.false())
        through, mine = _within(owner.c.id, found), table.c.key_id == key.id
        return Field(column, through=through, is_time=is_time, is_quick=True, of=mine)
    mine = document.c.kind_id == kind.id
    column = sa.case((mine, _extracted(document.c.content[key.name], key.type)))
    found = sa.select(document.c.object).where(mine, metadata.live(document, as_of))
    return Field(column, through=_within(owner.c.id, found), is_time=is_time, of=mine)


def _extracted(member: Any, type_: str) -> sa.ColumnElement[Any]:
    read = {"int": member.as_integer, "float": member.as_float, "time": member.as_float}
    read |= {"bool": member.as_boolean, "text": member.as_string}
    found: sa.ColumnElement[Any] = read[type_]()
    return found


def _of_task(field: Field) -> Field:
    """Return a field of tasks as one of the collections that they made."""
    unit, task, through = schema.unit, schema.task, field.through
    assert through is not None
    made = sa.select(unit.c.id).join(task, unit.c.task_id == task.c.id)

    def of_collections(condition: Condition) -> Condition:
        return Among(schema.collection.c.unit_id, made.where(through(condition)))

    return replace(field, through=of_collections, is_quick=False)


def _has(
    table: sa.Table, kinds: Mapping[str, metadata.Kind], as_of: float | None, metadata: str
) -> Condition:
    name, _, key = metadata.partition(".")
    if name not in kinds:
        raise UsageError(f"no kind of metadata is called {name!r}", hint=nearest(name, kinds))
    if key and key not in kinds[name].keys:
        raise UsageError(f"{name} has no key {key!r}", hint=nearest(key, kinds[name].keys))
    document = schema.metadata_document
    said = sa.select(document.c.object).where(document.c.kind_id == kinds[name].id, _live(document, as_of))
    if key:
        said = said.where(document.c.content[key].as_string().is_not(None))
    return Among(table.c.id, said)


_live = metadata.live


# --- verdicts -------------------------------------------------------------------------------------


def _verdict_function(owner: str, value: str, now: float | None) -> Function:
    of = {"run": _of_run, "collection": _of_collection, "file": _of_file}[owner]

    def make(subject: str, tier: str | None = None, as_of: float | None = now) -> Condition:
        return of(value, subject, tier, as_of)

    columns = {"subject": schema.verdict.c.subject, "tier": schema.verdict.c.tier}
    return Function(("subject", "tier", "as_of"), make, columns)


def _judged(run: Any, value: str, about: str, tier: str | None, as_of: float | None) -> Condition:
    """Return the condition on a row of runs: every verdict in force is good, or one is bad, or neither."""
    newest, later = schema.verdict.alias(), schema.verdict.alias()
    same = [newest.c[name] == later.c[name] for name in ("series", "run", "tier", "subject")]
    known = [] if as_of is None else [later.c.created <= as_of]
    replaced = sa.exists().where(*same, later.c.version > newest.c.version, *known)
    mine = [newest.c.series == run.c.series, newest.c.run == run.c.number, newest.c.subject == about]
    mine += [newest.c.tier == tier] if tier else []
    mine += [] if as_of is None else [newest.c.created <= as_of]
    said = sa.exists().where(*mine, sa.not_(replaced))
    good = sa.and_(said.where(newest.c.value == "good"), sa.not_(said.where(newest.c.value != "good")))
    bad = said.where(newest.c.value == "bad")
    return {"good": good, "bad": bad, "unknown": sa.not_(sa.or_(good, bad))}[value]


def _of_run(value: str, about: str, tier: str | None, as_of: float | None) -> Condition:
    return _judged(schema.run, value, about, tier, as_of)


def _of_collection(value: str, about: str, tier: str | None, as_of: float | None) -> Condition:
    """A collection is good when every run of it is, bad when one is."""
    run, table = schema.run.alias(), schema.collection
    within = (run.c.series == table.c.series, run.c.number.between(table.c.first_run, table.c.last_run))
    some = sa.exists().where(*within, run.c.is_mc == table.c.is_mc)
    bad = some.where(_judged(run, "bad", about, tier, as_of))
    other = some.where(sa.not_(_judged(run, "good", about, tier, as_of)))
    good = sa.and_(some, sa.not_(other))
    return {"good": good, "bad": bad, "unknown": sa.not_(sa.or_(good, bad))}[value]


def _of_file(value: str, about: str, tier: str | None, as_of: float | None) -> Condition:
    """A file is as good as the run that it was delivered for, or as a collection that holds it."""
    link, chunk, run = schema.chunk_file, schema.chunk, schema.run.alias()
    delivered = sa.select(link.c.file_id).join(chunk, link.c.chunk_id == chunk.c.id)
    delivered = delivered.join(run, chunk.c.run_id == run.c.id).where(_judged(run, value, about, tier, as_of))
    member, collection = schema.collection_file, schema.collection
    held = sa.select(member.c.file_id).join(collection, member.c.collection_id == collection.c.id)
    held = held.where(_of_collection(value, about, tier, as_of))
    return sa.or_(Among(schema.file.c.id, delivered), Among(schema.file.c.id, held))
