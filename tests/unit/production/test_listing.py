"""Lists of jobs: what is asked for, page by page, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from beamwright.core.errors import UnknownNameError
from beamwright.db import schema
from beamwright.db.engine import Database
from beamwright.production import explain, listing
from beamwright.production.listing import Wanted
from kill import production

JOBS = 30


@pytest.fixture
def conn(database: Database) -> Iterator[sa.Connection]:
    """Jobs of the trivial production: an attempt at every third failed, and at every tenth, for good."""
    with database.begin() as made:
        production.insert_production(made)
        rows = [
            production.unit_row("pass", "process", ((2, n, 0), (2, n, 9)), [], (), farms=[])
            for n in range(JOBS)
        ]
        ids = production.add_units(made, "pass", rows)
        assert ids == list(range(ids[0], ids[0] + JOBS))
        attempts = [_attempt(ids[n], 1, n) for n in range(0, JOBS, 3)]
        attempts += [_attempt(ids[n], 2, n) for n in range(0, JOBS, 10)]
        made.execute(sa.insert(schema.attempt), attempts)
        where = schema.job.c.id.in_(ids[::10])
        made.execute(sa.update(schema.job).where(where).values(state="failed", reason="memory: too much"))
        step = {"state": [{"name": "parked", "stands_for": "held"}]}
        made.execute(sa.update(schema.task).values(config={"step": step}))
        parked = sa.update(schema.job).where(schema.job.c.id == ids[1])
        made.execute(parked.values(state="held", label="parked"))
    with database.read() as reading:
        yield reading


def _attempt(job_id: int, number: int, n: int) -> dict[str, object]:
    end = {"state": "rejected", "failure_class": "time" if number == 1 else "memory", "message": ""}
    place = {"farm": f"farm{number}", "directory": "", "nonce": f"{n}-{number}", "cpu_s": 0.0, "wall_s": 0.0}
    times = {"leased": 100.0 * number, "deadline": 0.0, "ended": 100.0 * number + n}
    return {"job_id": job_id, "number": number} | end | place | times


def _ids(conn: sa.Connection, wanted: Wanted, limit: int | None = None) -> list[int]:
    """Return the places of the jobs that are asked for; there are as many as are counted."""
    found = [int(row["id"]) for row in listing.jobs(conn, wanted, limit)]
    assert limit is not None or len(found) == listing.number(conn, wanted)
    first = conn.execute(sa.select(sa.func.max(schema.job.c.id))).scalar_one() - JOBS + 1
    return [one - first for one in found if one >= first]


def test_jobs_are_asked_for_by_state_failure_farm_and_time(conn: sa.Connection) -> None:
    assert _ids(conn, Wanted(states=("failed",))) == [0, 10, 20]
    assert _ids(conn, Wanted(states=("failed", "held"))) == [0, 1, 10, 20]
    assert _ids(conn, Wanted(states=("parked",))) == [1]
    assert _ids(conn, Wanted(states=("failed", "parked"))) == [0, 1, 10, 20]
    assert _ids(conn, Wanted(failure="time")) == list(range(0, JOBS, 3))
    assert _ids(conn, Wanted(failure="time", farm="farm2")) == []  # one attempt must be all of it
    assert _ids(conn, Wanted(failure="memory", farm="farm2")) == [0, 10, 20]
    assert _ids(conn, Wanted(since=115.0)) == [0, 10, 15, 18, 20, 21, 24, 27]
    assert _ids(conn, Wanted(None, ("prepared",), "time", since=115.0)) == [15, 18, 21, 24, 27]
    assert _ids(conn, Wanted(listing.tasks(conn, name="p/pass"), ("failed",))) == [0, 10, 20]


def test_pages_hold_each_job_once_in_the_order_in_which_they_were_made(
    conn: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 7)
    assert _ids(conn, Wanted()) == list(range(JOBS))
    assert _ids(conn, Wanted(failure="time")) == list(range(0, JOBS, 3))
    some = [row["id"] for row in listing.jobs(conn, Wanted(), 9)]
    assert len(some) == 9
    rest = [row["id"] for row in listing.jobs(conn, Wanted(after=some[-1]))]
    assert [*some, *rest] == [row["id"] for row in listing.jobs(conn, Wanted())]
    assert list(listing.jobs(conn, Wanted(after=rest[-1]))) == []


def test_a_job_is_told_with_its_unit_task_and_own_state(conn: sa.Connection) -> None:
    (row,) = listing.page(conn, Wanted(states=("parked",)), 5)
    assert row["state"] == "parked" and (row["production"], row["step"], row["kind"]) == (
        "p",
        "pass",
        "process",
    )
    assert row["interval"][1:] == [[2, 1, 0], [2, 1, 9]] and len(row["unit"]) >= 12


def test_what_nothing_has_is_refused_with_what_is_near(conn: sa.Connection) -> None:
    listing.check(conn, Wanted(states=("parked", "ok"), failure="memory", farm="farm1"))
    for wrong, near in (
        (Wanted(states=("parkd",)), "parked"),
        (Wanted(failure="memry"), "memory"),
        (Wanted(farm="farm3"), "farm"),
    ):
        with pytest.raises(UnknownNameError) as error:
            listing.check(conn, wrong)
        assert near in error.value.hint
    assert listing.tasks(conn) is None and len(listing.tasks(conn, step="pass") or ()) == 1
    with pytest.raises(UnknownNameError, match="paas"):
        listing.tasks(conn, step="paas")
    with pytest.raises(UnknownNameError, match="p/paas"):
        listing.tasks(conn, name="p/paas")


def test_a_task_names_the_first_units_in_its_way_and_counts_the_others(conn: sa.Connection) -> None:
    told = explain.explain(conn, "p/pass")
    waiting = listing.number(
        conn, replace(Wanted(listing.tasks(conn, name="p/pass")), states=tuple(explain.WAITING))
    )
    named = [line for line in told.holds if line.startswith("it waits for unit")]
    assert len(named) == explain.SHOWN and f"and {waiting - explain.SHOWN} more units" in told.holds
    assert f"{listing.number(conn, Wanted())} units" in told.what
    assert explain.explain(conn, "p").holds == told.holds
