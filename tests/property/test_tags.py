"""Tags, global tags and snapshots against a dictionary of positions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot, coalesce, hash_pieces
from beamwright.core.errors import ConflictError, NotCoveredError
from beamwright.core.runs import EventKey, Interval, overlaps, union
from beamwright.db.engine import Database
from beamwright.testing.strategies import intervals, payloads, positions, probes

PROBES = probes()
Model = dict[tuple[int, int, int], str]
numbers = count()
quick = settings(max_examples=60)

rows = st.lists(st.tuples(intervals(), payloads()), min_size=1, max_size=3)
steps = st.lists(st.tuples(rows, st.booleans()), min_size=1, max_size=6)


def points(interval: Interval) -> set[tuple[int, int, int]]:
    return {p for p in PROBES if interval.contains(EventKey("A", *p))}


def apply(conn: sa.Connection, tag: str, history: list[Model], step: Any) -> None:
    """Do one step on the tag and on the model; both must agree on whether it is allowed."""
    wanted, replace = step
    held = {(v.interval, v.payload_id) for v in tags.intervals(conn, tag)}
    for _, payload in wanted:
        tags.put_payload(conn, payload, 0.0)
    given_rows = [(interval, payload.id, "loaded", "") for interval, payload in wanted]
    fresh = [(interval, payload.id) for interval, payload in wanted if (interval, payload.id) not in held]
    taken = set().union(*(points(interval) for interval, _ in fresh))
    clash = bool(overlaps(interval for interval, _ in wanted)) or (
        not replace and bool(taken & set(history[-1]))
    )
    if clash:
        with pytest.raises(ConflictError):
            tags.append(conn, tag, given_rows, 0.0, replace=replace)
        return
    version = tags.append(conn, tag, given_rows, 0.0, replace=replace)
    if fresh:
        history.append(
            history[-1] | {p: payload_id for interval, payload_id in fresh for p in points(interval)}
        )
    assert version == len(history) - 1


def in_tag(database: Database, steps: Any, check: Callable[[sa.Connection, str, list[Model]], None]) -> None:
    name = f"g{next(numbers)}/Role"
    with database.begin() as conn:
        tags.create_tag(conn, name, "arrays", 0.0)
        history: list[Model] = [{}]
        for step in steps:
            apply(conn, name, history, step)
        check(conn, name, history)
        conn.rollback()


@quick
@given(steps=steps)
def test_every_version_answers_as_it_did_when_it_was_the_newest(
    sqlite_database: Database, steps: Any
) -> None:
    def check(conn: sa.Connection, tag: str, history: list[Model]) -> None:
        for version, model in enumerate(history):
            held = tags.intervals(conn, tag, version)
            assert overlaps(v.interval for v in held) == []
            assert {p: v.payload_id for v in held for p in points(v.interval)} == model

    in_tag(sqlite_database, steps, check)


@quick
@given(steps=steps, asked=intervals())
def test_resolving_gives_the_pieces_and_the_gaps(
    sqlite_database: Database, steps: Any, asked: Interval
) -> None:
    def check(conn: sa.Connection, tag: str, history: list[Model]) -> None:
        name = tag.split("/", maxsplit=1)[0]
        tags.create_global_tag(conn, name, 0.0)
        for version in range(1, len(history)):
            assert tags.sweep(conn, name, {tag: version}, 0.0) == version
        for version in range(1, len(history)):
            found = tags.resolve(conn, name, ["Role"], asked, version)
            model = {p: history[version][p] for p in points(asked) if p in history[version]}
            assert {p: payload_id for _, part, payload_id in found.pieces for p in points(part)} == model
            missing = set().union(*(points(gap) for _, gap in found.gaps))
            assert missing == points(asked) - set(model)

    in_tag(sqlite_database, steps, check)


@quick
@given(steps=steps, asked=intervals(), at=positions())
def test_a_snapshot_says_what_the_database_says(
    sqlite_database: Database, steps: Any, asked: Interval, at: tuple[int, int, int]
) -> None:
    def check(conn: sa.Connection, tag: str, history: list[Model]) -> None:
        name = tag.split("/", maxsplit=1)[0]
        tags.create_global_tag(conn, name, 0.0)
        tags.sweep(conn, name, {tag: len(history) - 1}, 0.0) if len(history) > 1 else None
        found = tags.resolve(conn, name, ["Role"], asked)
        data = tags.export(conn, name, [asked], ["Role"])
        snapshot = Snapshot.from_bytes(data)
        assert snapshot.to_bytes() == data
        if found.gaps:
            with pytest.raises(NotCoveredError, match=name):
                snapshot.pieces(["Role"], asked)
        else:
            assert snapshot.pieces(["Role"], asked) == found.pieces
            assert snapshot.resolved_hash(["Role"], asked) == found.hash
            parts = snapshot.boundaries(["Role"], asked)
            assert coalesce(("all", part, "") for part in parts) == [("all", asked, "")]
            assert [part for _, part, _ in found.pieces] == parts
        if at in history[-1] and asked.contains(EventKey("A", *at)):
            assert snapshot.resolve("Role", EventKey("A", *at))[1] == history[-1][at]

    in_tag(sqlite_database, steps, check)


@given(st.lists(st.tuples(intervals(), payloads(2)), max_size=5), st.randoms())
def test_the_resolved_hash_knows_neither_order_nor_cuts(
    found: list[tuple[Interval, Payload]], random: Any
) -> None:
    pieces = [("R", interval, payload.id) for interval, payload in found if interval.first != interval.last]
    if overlaps(interval for _, interval, _ in pieces):
        pieces = pieces[:1]
    cut = []
    for role, interval, payload_id in pieces:
        head = Interval(interval.series, interval.first, interval.first)
        cut += [(role, part, payload_id) for part in [head, *interval.subtract(head)]]
    random.shuffle(cut)
    assert hash_pieces(cut) == hash_pieces(pieces)


@given(intervals(), payloads(), payloads())
def test_the_resolved_hash_knows_role_interval_and_payload(
    interval: Interval, a: Payload, b: Payload
) -> None:
    assert (hash_pieces([("R", interval, a.id)]) == hash_pieces([("R", interval, b.id)])) == (a.id == b.id)
    assert hash_pieces([("R", interval, a.id)]) != hash_pieces([("S", interval, a.id)])
    other = Interval("B", interval.first, interval.last)
    assert hash_pieces([("R", interval, a.id)]) != hash_pieces([("R", other, a.id)])


@settings(quick, max_examples=30)
@given(steps=steps, asked=st.lists(intervals(), min_size=1, max_size=5))
def test_many_places_asked_for_at_once_give_what_each_gives(
    database: Database, steps: Any, asked: list[Interval], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(conn: sa.Connection, tag: str, history: list[Model]) -> None:
        places, row = union(asked), tags._tag(conn, tag)
        for version in range(len(history)):
            each = {v for place in places for v in tags.intervals(conn, tag, version, place)}
            assert set(tags._meeting(conn, row.id, version, places)) == each

    monkeypatch.setattr(tags, "_PLACES", 0)  # as if five were many
    in_tag(database, steps, check)
