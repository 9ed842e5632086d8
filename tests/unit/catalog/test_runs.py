from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.catalog import files, runs
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import ConflictError, FormatError, StateError, UnknownNameError
from beamwright.db import history, schema
from beamwright.db.engine import Database
from beamwright.durable import Digest


def delivery(
    sequence: int = 1, first: int = 0, last: int = 9, content: str = "raw", **extra: Any
) -> dict[str, Any]:
    path = extra.pop("path", f"/data/{content}.root")
    return {
        "series": "A",
        "run": 7,
        "tier": "raw",
        "sequence": sequence,
        "reader": "daq",
        "files": [
            {"role": "events", "path": path, "size": len(content), "sha256": sha256_hex(content.encode())}
        ],
        "first_section": first,
        "last_section": last,
        "records": {"event": 10},
        "is_mc": False,
        "end_marker": False,
    } | extra


def deliver(conn: sa.Connection, document: dict[str, Any], now: float = 1.0) -> int:
    digests = {f["path"]: Digest(f["size"], f["sha256"], "00000001") for f in document["files"]}
    return runs.deliver(conn, document, digests, now, records=document["records"], index_file="index")


def states(conn: sa.Connection) -> list[str]:
    return [entry.target for entry in history.of(conn, "run", runs.find(conn, "A", 7).id)]


def count(conn: sa.Connection, table: sa.Table) -> int:
    return int(conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_a_delivery_can_say_what_its_run_is_worth(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 9))
        deliver(conn, delivery(2, 10, 19, "more", luminosity=2.5, livetime=60.0))
        deliver(conn, delivery(2, 10, 19, "more", luminosity=2.5))
        row = conn.execute(sa.select(schema.run)).one()
        assert (row.luminosity, row.livetime) == (2.5, 60.0)
        assert states(conn).count("measured") == 1
        with pytest.raises(ConflictError, match="run A:7 has luminosity 2.5; this delivery says 3"):
            deliver(conn, delivery(3, 20, 29, "last", luminosity=3.0))


def test_the_first_chunk_opens_a_run_and_the_marked_one_closes_it(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 9))
        assert runs.find(conn, "A", 7).state == "open"
        deliver(conn, delivery(2, 10, 19, content="more", end_marker=True))
        run = runs.find(conn, "A", 7)
        assert (run.state, run.version, run.chunks, run.records) == ("closed", 1, 2, {"event": 20})
        assert states(conn) == ["announced", "open", "closed"]


def test_the_same_delivery_twice_is_one(database: Database) -> None:
    with database.begin() as conn:
        first = deliver(conn, delivery(end_marker=True))
        before = count(conn, schema.history)
        moved = delivery(end_marker=True, path="/elsewhere/raw.root", after="something")
        assert deliver(conn, moved) == first
        assert count(conn, schema.history) == before
        assert count(conn, schema.file) == count(conn, schema.replica) == 1


@pytest.mark.parametrize(
    "change", [{"content": "other"}, {"last": 5}, {"records": {"event": 11}}, {"end_marker": True}]
)
def test_a_chunk_delivered_with_other_content_is_refused(database: Database, change: dict[str, Any]) -> None:
    with database.begin() as conn:
        deliver(conn, delivery())
        with pytest.raises(ConflictError, match="chunk 1 of run A:7 was delivered with other content"):
            deliver(conn, delivery(**change))


def test_sections_belong_to_one_chunk(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 9))
        with pytest.raises(ConflictError, match=r"sections 9\.\.12 of run A:7 overlap chunk 1"):
            deliver(conn, delivery(2, 9, 12, content="more"))
        with pytest.raises(FormatError, match="backwards"):
            deliver(conn, delivery(2, 12, 10, content="more"))


def test_a_run_waits_for_the_chunks_before_the_marked_one(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(2, 10, 19, content="more", end_marker=True))
        assert runs.find(conn, "A", 7).state == "open"
        deliver(conn, delivery(1, 0, 9))
        assert runs.find(conn, "A", 7).state == "closed"


def test_a_run_waits_for_the_expected_records(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 9, end_marker=True, expected={"event": 15}))
        assert runs.find(conn, "A", 7).state == "open"
        deliver(conn, delivery(2, 10, 19, content="more"))
        assert runs.find(conn, "A", 7).state == "closed"


def test_a_late_chunk_opens_a_new_version(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 9, end_marker=True))
        deliver(conn, delivery(2, 10, 19, content="late"), now=5.0)
        run = runs.find(conn, "A", 7)
        assert (run.state, run.version) == ("closed", 2)
        assert states(conn) == ["announced", "open", "closed", "open", "closed"]


def test_a_run_can_be_given_up_and_still_take_a_late_chunk(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 9))
        runs.give_up(conn, "A", 7, "raw", "no end marker for a day", 9.0)
        assert runs.find(conn, "A", 7).state == "incomplete"
        with pytest.raises(StateError):
            runs.give_up(conn, "A", 7, "raw", "again", 9.0)
        deliver(conn, delivery(2, 10, 19, content="late", end_marker=True))
        assert (runs.find(conn, "A", 7).state, runs.find(conn, "A", 7).version) == ("closed", 2)


def test_two_chunks_of_one_file_share_it(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 4))
        deliver(conn, delivery(2, 5, 9, end_marker=True))
        assert count(conn, schema.file) == count(conn, schema.replica) == 1
        assert count(conn, schema.chunk_file) == 2


def test_delivered_files_are_registered_with_a_verified_replica(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery())
        found = files.show(conn, "raw:A/7/raw.root")
    assert (found.size, found.sha256, found.kind) == (3, sha256_hex(b"raw"), "raw")
    assert [(r.path, r.state, r.verified_by) for r in found.replicas] == [
        ("/data/raw.root", "verified", "intake")
    ]


def test_a_file_name_and_a_path_keep_their_content(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 4))
        with pytest.raises(ConflictError, match="file raw:A/7/raw.root is registered with sha256"):
            deliver(conn, delivery(2, 5, 9, content="new", path="/other/raw.root"))
    with database.begin() as conn:
        with pytest.raises(ConflictError, match="delivered as another file"):
            deliver(conn, delivery(1, 0, 4, content="new", path="/data/raw.root", run=8))


def test_real_and_simulated_data_do_not_mix_in_a_run(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery(1, 0, 4))
        with pytest.raises(ConflictError, match="is_mc False"):
            deliver(conn, delivery(2, 5, 9, content="mc", is_mc=True))


def test_tiers_of_one_run_number_are_runs_of_their_own(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery())
        deliver(conn, delivery(content="dst", tier="dst"))
        assert [(run.tier, run.number) for run in runs.listing(conn)] == [("dst", 7), ("raw", 7)]
        assert len(runs.listing(conn, schema.run.c.tier == "dst")) == 1


def test_an_unknown_run_suggests_the_nearest(database: Database) -> None:
    with database.begin() as conn:
        deliver(conn, delivery())
        with pytest.raises(UnknownNameError, match="did you mean A:7"):
            runs.find(conn, "A", 77)
        with pytest.raises(UnknownNameError, match="did you mean raw:A/7/raw.root"):
            files.show(conn, "raw:A/7/rw.root")


def test_a_refused_delivery_leaves_nothing(database: Database) -> None:
    with pytest.raises(FormatError), database.begin() as conn:
        deliver(conn, delivery(1, 9, 0))
    with database.read() as conn:
        assert count(conn, schema.run) == count(conn, schema.file) == count(conn, schema.history) == 0


def test_a_chunk_that_two_deliver_at_once_is_one(database: Database) -> None:
    def register(_number: int) -> int:
        with database.begin() as conn:
            return deliver(conn, delivery(end_marker=True))

    with ThreadPoolExecutor(2) as pool:
        chunks = set(pool.map(register, range(4)))
    assert len(chunks) == 1
    with database.read() as conn:
        assert states(conn) == ["announced", "open", "closed"]
        assert count(conn, schema.file) == 1
