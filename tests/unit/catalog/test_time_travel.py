"""What was there at a time: states, metadata, verdicts and datasets as of a date, on both databases."""

from __future__ import annotations

import gc
import signal
import warnings
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.catalog import asking, collections, datasets, metadata, replicas
from beamwright.catalog.asking import Question, ask
from beamwright.catalog.registering import Outcome, register
from beamwright.catalog.unknown import unknown
from beamwright.catalog.writers import Source
from beamwright.core.canonical import sha256_hex
from beamwright.core.clock import seconds_of
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, StateError, TooSlowError, UnknownNameError, UsageError
from beamwright.db import history, lookup, schema
from beamwright.db.engine import Database, insert_id
from beamwright.quality import verdicts

DAY = 86400.0
NAME = Did("ana", "good")
CRITERIA = {"stream": "dst", "where": "tier == 'dst'"}


def put(
    db: Database, subject: str, *records: dict[str, Any], day: float = 1.0, supersede: str = ""
) -> Outcome:
    return register(db, subject, enumerate(records, 1), Source("list", day * DAY, "ann", supersede))


def file(name: str) -> dict[str, Any]:
    digest = sha256_hex(name.encode())
    return {"name": f"mc:{name}", "size": 5, "sha256": digest, "adler32": digest[:8], "tier": "dst"}


def collection(run: int, content: str = "a", **extra: Any) -> dict[str, Any]:
    said = {"name": f"mc:c/{run}", "tier": "dst", "stream": "dst", "series": "B", "first": run, "last": run}
    return said | {"events": 10, "files": [f"mc:{content}{run}"], "release": "24.1"} | extra


@pytest.fixture
def catalogue(database: Database) -> Database:
    """Three runs, with a file and a collection each, that came on day 1; a second set of files."""
    runs = [{"series": "B", "number": n, "state": "closed", "luminosity": 2.0} for n in (1, 2, 3)]
    put(database, "run", *runs)
    put(database, "file", *(file(f"{content}{n}") for content in "ab" for n in (1, 2, 3)))
    put(database, "collection", *(collection(n) for n in (1, 2, 3)))
    return database


def found(db: Database, subject: str, where: str | None = None, as_of: float | None = None) -> list[str]:
    with db.read() as conn:
        rows = list(ask(conn, Question(subject, where, None if as_of is None else as_of * DAY)))
    name = "number" if subject == "run" else "name"
    return [str(row[name]) for row in rows]


def test_states_are_those_of_the_time(catalogue: Database) -> None:
    with catalogue.begin() as conn:
        collections.withdraw(conn, Did("mc", "c/2"), "noise", 5 * DAY, "ann")
    assert found(catalogue, "collection", "state == 'valid'") == ["c/1", "c/3"]
    assert found(catalogue, "collection", "state == 'valid'", 4) == ["c/1", "c/2", "c/3"]
    assert found(catalogue, "collection", "state == 'bad'", 4) == []
    assert found(catalogue, "collection", "state == 'bad'", 5) == ["c/2"]
    assert found(catalogue, "collection", None, 0.5) == found(catalogue, "file", None, 0.5) == []
    with catalogue.read() as conn:
        rows = {r["name"]: r["state"] for r in ask(conn, Question.of("collection", as_of="1970-01-04"))}
        assert rows == {"c/1": "valid", "c/2": "valid", "c/3": "valid"}
        entry = history.of(conn, "collection", collections.find(conn, Did("mc", "c/2")).id)[-1]
        assert (entry.target, entry.actor, entry.reason) == ("bad", "ann", "noise")


def test_copies_are_those_of_the_time(database: Database) -> None:
    places = {"replicas": [{"endpoint": "lyon", "path": "/1"}]}
    put(database, "file", file("x") | places, file("y"), day=1)
    with database.begin() as conn:
        for source, target, day in (("present", "suspect", 3), ("suspect", "lost", 4)):
            history.move(conn, schema.replica, 1, source, target, actor="ann", at=day * DAY)

    def lacking(day: float | None) -> list[str]:
        as_of = None if day is None else day * DAY
        found = []
        with database.read() as conn:
            for is_narrow in (False, True):
                condition = replicas.lacking(["lyon"], is_narrow, as_of)
                found.append([row["name"] for row in ask(conn, Question("file", None, as_of), condition)])
            there = replicas.of_files(conn, [1], as_of)[1]
            assert there == ([] if "x" in found[0] or not found[0] else ["lyon"])
        assert found[0] == found[1]
        return found[0]

    assert [lacking(day) for day in (0, 1, 2.9, 3, 5, None)] == [[], ["y"], ["y"], *3 * [["x", "y"]]]
    for where, day, names in (
        ("replica == 'present'", 2, ["x"]), ("replica == 'present'", 3, []),
        ("replica == 'suspect'", 3.5, ["x"]),
        ("replica == 'lost'", None, ["x"]), ("endpoint == 'lyon'", 2, ["x"]), ("endpoint == 'lyon'", 0.5, []),
    ):  # fmt: skip
        assert found(database, "file", where, day) == names, (where, day)
    with database.read() as conn:
        for where in ("replica == 'deleted'", "endpoint == 'leon'"):
            told = unknown(conn, Question("file", where, 2 * DAY))
            assert told == (
                [] if "replica" in where else ["no file has the endpoint 'leon': did you mean lyon?"]
            )
        assert unknown(conn, Question("run", "state == 'incomplete'", 2 * DAY)) == []


def test_metadata_are_those_of_the_time(catalogue: Database) -> None:
    keys = {"energy": {"type": "float", "indexed": True}, "note": {"type": "text"}}
    with catalogue.begin() as conn:
        kind = metadata.declare(conn, {"name": "beam", "subject": "run", "key": keys}, DAY)
        metadata.attach(conn, kind, {1: {"energy": 5.0, "note": "x"}, 2: {"energy": 7.0}}, 2 * DAY)
        assert (
            metadata.attach(conn, kind, {1: {"energy": 5.0, "note": "x"}, 2: {"energy": 8.0}}, 4 * DAY) == 1
        )
        assert metadata.of(conn, "run", [2], 3 * DAY)[2] == {"beam": {"energy": 7.0}}
    assert found(catalogue, "run", "beam.energy > 7.5") == ["2"]
    assert found(catalogue, "run", "beam.energy > 7.5", 3) == []
    assert found(catalogue, "run", "beam.energy == 7", 3) == ["2"]
    assert found(catalogue, "run", "beam.note ~ 'x*'", 3) == ["1"]
    assert found(catalogue, "run", "has('beam')", 1.5) == []
    assert found(catalogue, "run", "has('beam') and not has('beam.note')") == ["2"]


def test_indexed_metadata_follow_every_change(catalogue: Database) -> None:
    keys: dict[str, Any] = {"energy": {"type": "float", "indexed": True}, "on": {"type": "bool"}}
    with catalogue.begin() as conn:
        old = metadata.declare(conn, {"name": "beam", "subject": "run", "key": keys}, DAY)
        metadata.attach(conn, old, {n: {"energy": 5.0, "on": True} for n in (1, 2, 3)}, 2 * DAY)
        metadata.attach(conn, old, {1: {"energy": 6.0, "on": False}, 2: {"on": True}}, 3 * DAY)
        for energy in (7.0, 8.0, 7.0):  # at the same moment the last one counts, and the others never held
            metadata.attach(conn, old, {3: {"energy": energy, "on": False}}, 4 * DAY)
        keys["on"]["indexed"] = True
        metadata.declare(conn, {"name": "beam", "subject": "run", "key": keys}, 5 * DAY)
        metadata.attach(conn, old, {3: {"energy": 7.0, "on": True}}, 6 * DAY)  # as one who missed the index
    for where, day, runs in (
        ("beam.energy == 5", 2, "123"), ("beam.energy == 5", 3, "3"), ("beam.energy == 5", None, ""),
        ("beam.energy == 6", None, "1"), ("beam.energy == 7", 4, "3"), ("beam.energy == 8", 4, ""),
        ("has('beam.energy')", None, "13"), ("beam.on", 2, "123"), ("beam.on", 3, "23"),
        ("beam.on", 4, "2"), ("beam.on", None, "23"), ("beam.on == false", None, "1"),
    ):  # fmt: skip
        assert "".join(found(catalogue, "run", where, day)) == runs, (where, day)
    with catalogue.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(schema.metadata_document)).scalar() == 7


def test_verdicts_are_those_of_the_time(catalogue: Database) -> None:
    def judge(run: int, value: str, day: float) -> None:
        with catalogue.begin() as conn:
            verdicts.override(
                conn, "B", run, "raw", "calo", value, author="ann", reason="seen", now=day * DAY
            )

    judge(1, "good", 2)
    judge(2, "good", 2)
    judge(2, "bad", 4)
    assert found(catalogue, "run", "quality.good('calo')") == ["1"]
    assert found(catalogue, "run", "quality.good('calo', as_of='1970-01-04')") == ["1", "2"]
    assert found(catalogue, "run", "quality.good('calo')", 3) == ["1", "2"]
    assert found(catalogue, "run", "quality.unknown('calo')") == ["3"]
    assert found(catalogue, "run", "quality.bad('calo', tier='dst')") == []
    assert found(catalogue, "collection", "quality.good('calo')") == ["c/1"]
    assert found(catalogue, "collection", "quality.bad('calo') or quality.unknown('calo')") == ["c/2", "c/3"]
    assert found(catalogue, "file", "quality.good('calo', as_of='1970-01-04')") == ["a1", "a2"]


def test_a_collection_over_two_runs_is_good_when_both_are(catalogue: Database) -> None:
    put(catalogue, "collection", collection(1, name="mc:both", last=2))
    with catalogue.begin() as conn:
        for run in (1, 2):
            assert found_in(conn, "name == 'both' and quality.good('calo')") == []
            verdicts.override(conn, "B", run, "raw", "calo", "good", author="a", reason="r", now=DAY)
        assert found_in(conn, "name == 'both' and quality.good('calo')") == ["both"]


def found_in(conn: sa.Connection, where: str) -> list[str]:
    return [row["name"] for row in ask(conn, Question("collection", where))]


def test_same_names_need_a_decision(catalogue: Database) -> None:
    with pytest.raises(ConflictError, match="line 1: collection mc:c/1: a valid collection .* other content"):
        put(catalogue, "collection", collection(1, "b"))
    again = collection(1, "b")
    assert put(catalogue, "collection", again, collection(2), day=3, supersede="new constants") == Outcome(
        1, 1
    )
    assert found(catalogue, "collection", "state == 'valid'") == ["c/1.e2", "c/2", "c/3"]
    assert found(catalogue, "collection", "state == 'superseded'") == ["c/1"]
    assert put(catalogue, "collection", again, day=4) == Outcome(equal=1)
    third = collection(1, "a", events=11)
    assert put(catalogue, "collection", third, day=5, supersede="once more") == Outcome(new=1)
    assert found(catalogue, "collection", "state == 'valid' and run == 1") == ["c/1.e3"]
    with catalogue.read() as conn:
        decision = conn.execute(sa.select(schema.supersession)).first()
        assert decision is not None and (decision.actor, decision.reason) == ("ann", "new constants")


def test_a_dataset_is_compared_with_what_it_was(catalogue: Database) -> None:
    with catalogue.begin() as conn:
        datasets.create(conn, NAME, CRITERIA, 2 * DAY)
        first = datasets.freeze(conn, NAME, 2 * DAY)
        datasets.create(conn, NAME, CRITERIA, 3 * DAY)
    put(catalogue, "collection", collection(1, "b"), collection(3, "b", name="mc:c/4"), day=4, supersede="x")
    with catalogue.begin() as conn:
        collections.withdraw(conn, Did("mc", "c/2"), "noise", 5 * DAY, "ann")
        made = collections.supersede(conn, Did("mc", "c/3"), Did("mc", "c/4"), "better", 6 * DAY, "ann")
        assert made.frozen == ("ana:good@1",) and made.successor == "mc:c/4"
        dataset = datasets.find(conn, NAME)
        found = collections.since(conn, dataset, 3 * DAY)
        assert found.replaced == (("mc:c/1", "mc:c/1.e2"), ("mc:c/3", "mc:c/4"))
        assert (found.added, found.removed, found.kept, found.events) == ((), ("mc:c/2",), 0, -10)
        assert datasets.freeze(conn, NAME, 7 * DAY, as_of=3 * DAY) == first
        one, two = (datasets.cited(conn, f"ana:good@{version}") for version in (1, 2))
        assert collections.compare(
            conn, datasets.collections(conn, one), datasets.collections(conn, two)
        ) == collections.Difference((), (), (), 3, 0)
        assert datasets.cited(conn, f"ana:good#{first[:10]}") == two
        assert [str(c.did) for c in datasets.collections(conn, two, 6.5 * DAY)] == ["mc:c/1.e2", "mc:c/4"]


def test_citations_that_lead_nowhere_are_named(catalogue: Database) -> None:
    with catalogue.begin() as conn:
        datasets.create(conn, NAME, CRITERIA, DAY)
        datasets.freeze(conn, NAME, DAY)
        for name in ("ana:good@7", "ana:good#123", "ana:goo", "ana:good#"):
            with pytest.raises(UnknownNameError):
                datasets.cited(conn, name)
        with pytest.raises(UsageError, match="is no version"):
            datasets.cited(conn, "ana:good@x")
        with pytest.raises(UsageError, match="needs a reason"):
            datasets.withdraw(conn, datasets.cited(conn, "ana:good@1"), " ", 2 * DAY, "ann")
        datasets.withdraw(conn, datasets.cited(conn, "ana:good@1"), "wrong cut", 2 * DAY, "ann")
        assert datasets.cited(conn, "ana:good@1").state == "withdrawn"
        with pytest.raises(StateError):
            datasets.withdraw(conn, datasets.cited(conn, "ana:good@1"), "again", 2 * DAY, "ann")


def test_a_mixed_dataset_is_frozen_with_a_reason_only(catalogue: Database) -> None:
    put(catalogue, "file", file("x9"))
    put(catalogue, "collection", collection(9, "x", release="24.2"))
    with catalogue.begin() as conn:
        datasets.create(conn, NAME, CRITERIA, DAY)
        with pytest.raises(ConflictError, match=r"is mixed: release: 24.1, 24.2"):
            datasets.freeze(conn, NAME, DAY)
        with pytest.raises(ConflictError):
            datasets.freeze(conn, NAME, DAY, allow_mixed=True, reason="  ")
        assert datasets.freeze(conn, NAME, DAY, allow_mixed=True, reason="a test of both")


def test_decisions_need_reasons_and_successors_that_fit(catalogue: Database) -> None:
    one, two = Did("mc", "c/1"), Did("mc", "c/2")
    with catalogue.begin() as conn:
        with pytest.raises(UsageError, match="needs a reason"):
            collections.withdraw(conn, one, " ", DAY, "ann")
        with pytest.raises(ConflictError, match="holds none of the events"):
            collections.supersede(conn, one, two, "x", DAY, "ann")
        with pytest.raises(ConflictError, match="its own place"):
            collections.supersede(conn, one, one, "x", DAY, "ann")
        with pytest.raises(UnknownNameError, match="did you mean|mc:c/7"):
            collections.withdraw(conn, Did("mc", "c/7"), "x", DAY, "ann")
        collections.withdraw(conn, one, "x", DAY, "ann")
        with pytest.raises(StateError):
            collections.withdraw(conn, one, "x", DAY, "ann")


def endless(catalogue: Database) -> sa.ColumnElement[bool]:
    """A condition that no database decides in the time of a test."""
    with catalogue.begin() as conn:
        rows = [{"key_id": 10**6, "value": n, "object": n, "added": 0.0} for n in range(2000)]
        conn.execute(sa.insert(schema.metadata_integer), rows)
    table = schema.metadata_integer
    many: sa.FromClause = table
    for _ in range(4):
        many = many.join(table.alias(), sa.true())
    return sa.select(sa.func.count()).select_from(many).scalar_subquery() < 0


def test_a_question_is_bounded_in_time_and_says_what_would_help(catalogue: Database) -> None:
    condition = endless(catalogue)
    for where, words in (("size > 3", "add a condition on one of"), (None, "narrow it with --where")):
        with catalogue.read() as conn, pytest.raises(TooSlowError, match=r"within 0.05 s") as caught:
            list(ask(conn, Question("file", where, seconds=0.05), condition))
        assert words in caught.value.hint
    with catalogue.read() as conn:
        assert len(list(ask(conn, Question("file")))) == 6
        with pytest.raises(UsageError, match="needs time"):
            list(ask(conn, Question("file", seconds=0)))


def test_a_question_can_be_interrupted(catalogue: Database) -> None:
    condition = endless(catalogue)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt), catalogue.read() as conn:
            list(ask(conn, Question("file", seconds=60), condition))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # the server's cursor goes with the connection, which psycopg finds worth a warning
    with catalogue.read() as conn:
        assert len(list(ask(conn, Question("file")))) == 6


def test_the_plan_and_the_time_of_a_question_are_shown(catalogue: Database) -> None:
    with catalogue.read() as conn:
        told = asking.explain(conn, Question("file", "scope == 'mc' and name ~ 'a*'"))
    assert told["rows"] == 3 and told["seconds"] > 0
    assert told["plan"] and any("file" in line for line in told["plan"])


def test_what_is_not_said_is_found_by_one_look_at_what_is(postgresql_database: Database) -> None:
    keys = {"energy": {"type": "float", "indexed": True}, "note": {"type": "text"}}
    with postgresql_database.begin() as conn:
        metadata.declare(conn, {"name": "dq", "subject": "file", "key": keys}, DAY)
    said = [{}, {"metadata": {"dq": {"energy": 1.0}}}, {"metadata": {"dq": {"energy": 2.0, "note": "x"}}}]
    put(postgresql_database, "file", *(file(f"f{n}") | more for n, more in enumerate(said)))
    for where, names in (
        ("not dq.energy > 1.5", ["f0", "f1"]), ("not (dq.energy > 1.5 or dq.energy == 1)", ["f0"]),
        ("not has('dq')", ["f0"]), ("not dq.note == 'x' and dq.energy > 0", ["f1"]),
        ("not not dq.energy == 1", ["f1"]), ("not dq.energy == 1 or size < 3", ["f0", "f2"]),
    ):  # fmt: skip
        assert found(postgresql_database, "file", where) == names, where
        if " or size" not in where:
            with postgresql_database.read() as conn:
                plan = asking.explain(conn, Question("file", where))["plan"]
            assert not any("SubPlan" in line for line in plan), plan


def test_files_are_found_by_their_hashes_and_how_these_begin(catalogue: Database) -> None:
    one, two = (sha256_hex(name.encode()) for name in ("a1", "b2"))
    for where, names in (
        (f"sha256 == '{one}'", ["a1"]), (f"sha256 == '{one[:8]}'", []), (f"sha256 ~ '{one[:8]}*'", ["a1"]),
        (f"sha256 in ['{one}', '{two}']", ["a1", "b2"]), (f"sha256 ~ '{two[:3]}*'", ["b2"]),
        (f"sha256 ~ '{two[:9]}?*'", ["b2"]), (f"sha256 ~ '*{one[3:]}'", ["a1"]), ("sha256 == ''", []),
        (f"sha256 != '{one}' and name ~ 'a*'", ["a2", "a3"]), ("sha256 ~ 'X*'", []),
    ):  # fmt: skip
        assert found(catalogue, "file", where) == names, where
    with catalogue.read() as conn:
        assert [f.kind for f in lookup.find(conn, one)] == ["file"]
        assert [f.name for f in lookup.find(conn, one[:6])] == [one]
        assert lookup.find(conn, one[:10] + "0" * 10) == []


def test_indexed_metadata_lead_to_their_objects(sqlite_database: Database) -> None:
    key = {"run": {"type": "int", "indexed": True}}
    with sqlite_database.begin() as conn:
        metadata.declare(conn, {"name": "dq", "subject": "file", "key": key}, DAY)
    with sqlite_database.read() as conn:
        for where in ("dq.run == 5", "dq.run in 4..9", "dq.run == 5 and size > 3"):
            plan = asking.explain(conn, Question("file", where))["plan"]
            assert "SEARCH file USING INTEGER PRIMARY KEY (rowid=?)" in plan, plan
        plan = asking.explain(conn, Question("file", "scope == 'mc' and name ~ 'a*'"))["plan"]
        assert any("scope=? AND name>? AND name<?" in line for line in plan), plan


def test_the_start_of_a_hash_is_found_by_its_index(sqlite_database: Database) -> None:
    with sqlite_database.read() as conn:
        for where in ("sha256 == 'abcdef0123'", "sha256 ~ 'abc*'", "sha256 in ['abcdef0123', 'abcdef0124']"):
            plan = asking.explain(conn, Question("file", where))["plan"]
            assert any("ix_file_sha256_start" in line for line in plan), plan


def test_a_collection_that_no_job_made_is_of_no_production(catalogue: Database) -> None:
    with catalogue.begin() as conn:
        made = {"name": "p", "experiment": "e", "release": "r", "spec": {}, "spec_hash": "", "created": 1.0}
        production = insert_id(conn, schema.production, **made)
        step = {"step": "s", "kind": "k", "state": "active", "config_version": 1, "config": {}}
        step |= {"config_hash": "", "uniform": True, "created": 1.0, "production_id": production}
        ends = dict.fromkeys(("first_run", "first_section", "first_event"), 1)
        ends |= dict.fromkeys(("last_run", "last_section", "last_event"), 1)
        work = {"key": "k", "kind": "k", "series": "B", "record": "e", "config_version": 1, "stream": "s"}
        work |= {"config_hash": "", "resolved_hash": "", "definition": {}, "priority": 1, "created": 1.0}
        insert_id(conn, schema.unit, task_id=insert_id(conn, schema.task, **step), **work, **ends)
    assert found(catalogue, "collection", "production == 'p'") == []
    assert found(catalogue, "collection", "not production == 'p'") == ["c/1", "c/2", "c/3"]


def test_a_declaration_can_be_widened_and_indexed_later(catalogue: Database) -> None:
    keys: dict[str, Any] = {"energy": {"type": "float"}, "on": {"type": "bool"}}
    with catalogue.begin() as conn:
        kind = metadata.declare(conn, {"name": "beam", "subject": "run", "key": keys}, DAY)
        metadata.attach(conn, kind, {1: {"energy": 5.0, "on": True}, 2: {"energy": 7.0, "on": False}}, DAY)
    before = found(catalogue, "run", "beam.energy in 4..6 and beam.on")
    wider = {name: key | {"indexed": True} for name, key in keys.items()} | {"site": {"type": "text"}}
    with catalogue.begin() as conn:
        metadata.declare(conn, {"name": "beam", "subject": "run", "key": wider}, 2 * DAY)
        metadata.declare(conn, {"name": "beam", "subject": "run", "key": wider}, 3 * DAY)
        assert len(history.of(conn, "metadata_kind", "beam")) == 2
        for other in (
            {"name": "beam", "subject": "file", "key": wider},
            {"name": "beam", "subject": "run", "key": {"energy": {"type": "text"}}},
            {"name": "beam", "subject": "run", "key": {"new": {"type": "text", "required": True}}},
        ):
            with pytest.raises(ConflictError):
                metadata.declare(conn, other, 4 * DAY)
    assert found(catalogue, "run", "beam.energy in 4..6 and beam.on") == before == ["1"]
    assert found(catalogue, "run", "not beam.on") == ["2", "3"]


@pytest.mark.parametrize(
    "document",
    [
        {"name": "Beam", "subject": "run", "key": {"a": {"type": "int"}}},
        {"name": "quality", "subject": "run", "key": {"a": {"type": "int"}}},
        {"name": "beam", "subject": "event", "key": {"a": {"type": "int"}}},
        {"name": "beam", "subject": "run", "key": {}},
        {"name": "beam", "subject": "run", "key": {"a b": {"type": "int"}}},
        {"name": "beam", "subject": "run", "key": {"a": {"type": "complex"}}},
        {"name": "beam", "subject": "run", "key": {"a": {"type": "int", "index": True}}},
        {"name": "beam", "subject": "run", "key": {"a": "int"}},
        {"name": "beam", "subject": "run", "keys": {}},
    ],
)
def test_a_declaration_that_is_wrong_is_refused(sqlite_database: Database, document: dict[str, Any]) -> None:
    with sqlite_database.begin() as conn, pytest.raises(UsageError):
        metadata.declare(conn, document, 1.0)


def test_times_are_read_as_dates_or_seconds() -> None:
    assert seconds_of("1970-01-02") == seconds_of("1970-01-02T01:00:00+01:00") == seconds_of(86400) == DAY
