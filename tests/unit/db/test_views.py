"""What is read for people and reports is the same on both databases, row by row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.core.runs import EventKey, Interval
from beamwright.db import lookup, schema, views
from beamwright.db.engine import Database
from support.sample_production import Sample

Found = dict[str, Any]


@pytest.fixture
def both(
    sqlite_database: Database, postgresql_database: Database, tmp_path: Path
) -> Iterator[list[sa.Connection]]:
    databases = [sqlite_database, postgresql_database]
    for database in databases:
        with database.begin() as conn:
            Sample(conn, folder=tmp_path).build()
    with databases[0].read() as one, databases[1].read() as other:
        yield [one, other]


def asked_of_everything(module: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions that need a connection and nothing else."""
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        == ["conn"]
    }


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, Iterator) else value


def test_every_list_is_the_same_on_both(both: list[sa.Connection]) -> None:
    functions = asked_of_everything(views) | asked_of_everything(lookup)
    assert len(functions) >= 20
    filled = set()
    for name, function in functions.items():
        one, other = (plain(function(conn)) for conn in both)
        assert one == other, name
        filled |= {name} if one else set()
    assert set(functions) - filled <= {"datasets"}  # the sample has none


def test_lists_of_one_production_are_the_same_on_both(both: list[sa.Connection]) -> None:
    for name in (
        "tasks",
        "units",
        "attempts",
        "ledger_lines",
        "quarantined",
        "collections",
        "outputs",
        "links",
    ):
        one, other = (getattr(views, name)(conn, 1) for conn in both)
        assert one == other and len(one) > 0, name
        assert all(getattr(views, name)(conn, 99) == [] for conn in both), name


def test_every_thing_is_found_by_every_name_on_both(both: list[sa.Connection]) -> None:
    names = [str(name) for name in lookup.names(both[0])]
    hashes = [conn.execute(sa.select(c)).scalars().all() for conn in both[:1] for c in (
        schema.file.c.sha256, schema.unit.c.key, schema.payload.c.id, schema.attempt.c.nonce
    )]  # fmt: skip
    names += [text[:12] for column in hashes for text in column] + [
        "1",
        "sample/reco",
        "A/2",
        "nothing of the kind",
    ]
    assert len(names) > 40
    for name in names:
        one, other = (lookup.find(conn, name) for conn in both)
        assert one == other, name
    assert all(lookup.find(both[1], name) for name in names[:-1])


def test_what_stands_around_a_thing_is_the_same_on_both(both: list[sa.Connection]) -> None:
    key, whole = EventKey.parse("A:2:1:1"), Interval.runs("A", 1, 2)
    payload = both[0].execute(sa.select(schema.payload.c.id)).scalars().first()
    calls: list[Callable[[sa.Connection], Any]] = [
        lambda conn: lookup.units_at(conn, key),
        lambda conn: lookup.units_in(conn, whole),
        lambda conn: lookup.quarantine_at(conn, key),
        lambda conn: lookup.users_of_payload(conn, str(payload)),
        lambda conn: [lookup.global_tags_of(conn, id) for id in (1, 2, 3)],
        lambda conn: [lookup.inputs_of(conn, id) for id in range(1, 12)],
        lambda conn: [views.children(conn, id) for id in range(1, 12)],
        lambda conn: views.parents(conn, range(1, 12)),
        lambda conn: [views.dataset_members(conn, id) for id in range(1, 6)],
        lambda conn: views.history_of(conn, "job", ["1", "2"]),
        lambda conn: lookup.one(conn, schema.job, 1),
        lambda conn: lookup.where(conn, schema.unit, schema.unit.c.key, kind="merge"),
    ]
    for number, call in enumerate(calls):
        one, other = (call(conn) for conn in both)
        assert one == other, number
    assert lookup.units_in(both[1], whole) and views.parents(both[1])


def test_a_file_with_several_replicas_is_one_file(both: list[sa.Connection]) -> None:
    for conn in both:
        files = views.files_of_collections(conn)
        (collection_id, found) = next((n, files[n]) for n in sorted(files) if files[n])
        mine = schema.replica.c.file_id == found[0]["id"]
        verified = conn.execute(sa.select(sa.func.count()).where(mine, schema.replica.c.state == "verified"))
        assert verified.scalar_one() == 1 and found[0]["replica"] == "verified"
        assert len({file["id"] for file in found}) == len(found)


def test_of_several_replicas_the_best_one_is_shown(database: Database, tmp_path: Path) -> None:
    with database.begin() as conn:
        Sample(conn, folder=tmp_path).build()
        before = views.files_of_collections(conn)
        (number, (first, *_)) = next((n, files) for n, files in sorted(before.items()) if files)
        table = schema.replica
        values = {"file_id": first["id"], "state": "lost", "verified_by": None, "verified_at": None}
        conn.execute(sa.insert(table).values(values | {"endpoint": "far", "path": "/far/1"}))
        assert views.files_of_collections(conn) == before
        mine = table.c.file_id == first["id"]
        conn.execute(sa.update(table).where(mine, table.c.endpoint != "far").values(state="suspect"))
        conn.execute(sa.update(table).where(mine, table.c.endpoint == "far").values(state="present"))
        (best, *others) = views.files_of_collections(conn)[number]
        assert (best["path"], best["replica"]) == ("/far/1", "present")
        assert len(others) == len(before[number]) - 1
