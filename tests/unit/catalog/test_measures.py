"""What runs are worth: corrected with a reason, with the old value kept and found at its time."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.catalog import datasets, measures, runs
from beamwright.catalog.asking import Question, ask
from beamwright.catalog.registering import Outcome, register, rehearse
from beamwright.catalog.worth import worth
from beamwright.catalog.writers import Source
from beamwright.core.canonical import sha256_hex
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, UsageError
from beamwright.db import history, schema
from beamwright.db.engine import Database

DAY = 86400.0


def put(db: Database, subject: str, *records: dict[str, Any], day: float = 1.0, correct: str = "") -> Outcome:
    return register(db, subject, enumerate(records, 1), Source("list", day * DAY, "ann", correct))


def run(number: int, **extra: Any) -> dict[str, Any]:
    return {"series": "B", "number": number, "state": "closed", "luminosity": 2.0} | extra


@pytest.fixture
def corrected(database: Database) -> Database:
    """Run 1 had 2 /nb on day 1 and 2.5 from day 5, run 2 none until day 3, then 4, and 3 from day 7."""
    put(database, "run", run(1), run(2, luminosity=None), run(3))
    put(database, "run", run(2, luminosity=4.0), day=3)
    assert put(database, "run", run(1, luminosity=2.5), run(3), day=5, correct="new survey") == Outcome(
        0, 1, 1
    )
    assert put(database, "run", run(2, luminosity=3.0, livetime=9.0), day=7, correct="again") == Outcome(
        0, 0, 1
    )
    return database


def found(db: Database, where: str, day: float | None) -> str:
    with db.read() as conn:
        rows = ask(conn, Question("run", where, None if day is None else day * DAY))
        return "".join(str(row["number"]) for row in rows)


def known(db: Database, day: float | None = None) -> list[float | None]:
    with db.read() as conn:
        return [
            row["luminosity"] for row in ask(conn, Question("run", None, None if day is None else day * DAY))
        ]


def test_a_correction_holds_from_its_time_on(corrected: Database) -> None:
    assert known(corrected) == [2.5, 3.0, 2.0]
    assert known(corrected, 1) == known(corrected, 2.9) == [2.0, None, 2.0]
    assert known(corrected, 3) == known(corrected, 4.9) == [2.0, 4.0, 2.0]
    assert known(corrected, 5) == [2.5, 4.0, 2.0]
    assert known(corrected, 7) == [2.5, 3.0, 2.0]
    assert found(corrected, "luminosity > 2", 4) == "2"
    assert found(corrected, "luminosity > 2", None) == "12"
    assert found(corrected, "livetime == 9", 6) == ""
    assert found(corrected, "livetime == 9", 8) == "2"


def test_the_history_keeps_who_corrected_what_and_why(corrected: Database) -> None:
    with corrected.read() as conn:
        line = history.of(conn, "run", 1)[-1]
        assert (line.target, line.actor, line.at) == ("corrected", "ann", 5 * DAY)
        assert line.reason == "luminosity 2 → 2.5: new survey"
        assert line.data == {"luminosity": 2.5, "was": {"luminosity": 2.0}}


def test_lists_that_say_the_old_value_are_passed_over(corrected: Database) -> None:
    assert put(corrected, "run", run(1), run(3), day=8) == Outcome(equal=2)
    assert put(corrected, "run", run(1, luminosity=2.5), day=8, correct="the same") == Outcome(equal=1)
    assert known(corrected) == [2.5, 3.0, 2.0]
    with pytest.raises(ConflictError, match=r"line 1: run B/1 \(raw\): luminosity is 2.5, not 7.0") as caught:
        put(corrected, "run", run(1, luminosity=7.0), day=8)
    assert "--correct" in caught.value.hint
    assert put(corrected, "run", run(1), day=9, correct="the survey was wrong") == Outcome(corrected=1)
    assert known(corrected) == [2.0, 3.0, 2.0]


def test_only_measures_are_corrected(corrected: Database) -> None:
    for correct in ("", "all of it"):
        with pytest.raises(ConflictError, match="is_mc is False, not True"):
            put(corrected, "run", run(1, luminosity=9.0, is_mc=True), day=8, correct=correct)
    with corrected.begin() as conn:
        with pytest.raises(UsageError, match="needs a reason"):
            measures.correct(conn, 1, {"luminosity": 1.0}, "  ", 8 * DAY, "ann")
    assert known(corrected) == [2.5, 3.0, 2.0]


def test_a_rehearsal_counts_corrections_and_makes_none(corrected: Database) -> None:
    with corrected.read() as conn:
        said = enumerate([run(1, luminosity=9.0), run(3), run(4)], 1)
        outcome, problems = rehearse(conn, "run", said, Source("list", 9 * DAY, "ann", "why not"))
    assert (outcome, problems) == (Outcome(1, 1, 1), [])
    assert known(corrected) == [2.5, 3.0, 2.0]


def test_a_late_chunk_may_say_what_was_known_before(corrected: Database) -> None:
    said: dict[str, Any] = {
        "series": "B", "run": 1, "tier": "raw", "sequence": 1, "reader": "x", "first_section": 1,
        "last_section": 9, "records": {}, "files": [], "end_marker": False,
    }  # fmt: skip
    with corrected.begin() as conn:
        with pytest.raises(ConflictError, match="has luminosity 2.5; this delivery says 8"):
            runs.deliver(conn, said | {"luminosity": 8.0}, {}, 8 * DAY, records={}, index_file="")
    with corrected.begin() as conn:
        runs.deliver(conn, said | {"luminosity": 2.0}, {}, 8 * DAY, records={}, index_file="")
    assert known(corrected) == [2.5, 3.0, 2.0]
    with corrected.read() as conn:
        versions = [next(ask(conn, Question("run", "run == 1", day * DAY)))["version"] for day in (7, 8)]
    assert versions == [1, 2]


def test_a_dataset_was_worth_what_was_known_then(corrected: Database) -> None:
    digest = sha256_hex(b"x")
    put(
        corrected, "file", {"name": "mc:f", "size": 1, "sha256": digest, "adler32": digest[:8], "tier": "dst"}
    )
    said = {"name": "mc:c", "tier": "dst", "stream": "dst", "series": "B", "first": 1, "last": 2}
    put(corrected, "collection", said | {"events": 10, "files": ["mc:f"], "release": "24.1"})
    with corrected.begin() as conn:
        datasets.create(conn, Did("ana", "d"), {"tier": "dst"}, DAY)
        members = datasets.collections(conn, datasets.find(conn, Did("ana", "d")))
        totals = [
            worth(conn, members, "luminosity", at).document()["total"] for at in (4 * DAY, 6 * DAY, None)
        ]
        assert totals == [6.0, 6.5, 5.5]
        assert conn.execute(sa.select(sa.func.count()).select_from(schema.run)).scalar() == 3
