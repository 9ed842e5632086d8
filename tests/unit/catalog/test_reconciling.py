"""Files at endpoints: what a site lacks, and what a storage's listings prove, on both databases."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.catalog import listings, reconciling, replicas
from beamwright.catalog.listings import Listing
from beamwright.core.errors import ConflictError, FormatError, StorageError, UnknownNameError, UsageError
from beamwright.db import history, schema
from beamwright.db.engine import Database, insert_id
from beamwright.db.migrations import guards

DAY = 86_400.0
NOW = 1_000_000.0
BRAKES = reconciling.Brakes(DAY, 10, 10_000, 50.0)


def add_file(conn: sa.Connection, name: str, size: int = 100) -> int:
    sums = {"sha256": f"{hash(name) & (2**63 - 1):064x}", "adler32": "00000001", "uuid": None}
    facts = {"kind": "external", "tier": "dst", "attempt_id": None, "lineage": {}, "created": 0.0}
    return insert_id(conn, schema.file, scope="s", name=name, size=size, **sums, **facts)


def add_replica(
    conn: sa.Connection, file_id: int, path: str, endpoint: str = "lyon", state: str = "verified"
) -> int:
    facts = {"verified_by": "mover", "verified_at": 1.0, "inode": None, "mtime_ns": None}
    return insert_id(
        conn, schema.replica, file_id=file_id, endpoint=endpoint, path=path, state=state, **facts
    )


@pytest.fixture
def storage(database: Database) -> Database:
    """Twenty files at lyon, the first ten of them at bari as well."""
    with database.begin() as conn:
        for number in range(20):
            file_id = add_file(conn, f"f{number:02}")
            add_replica(conn, file_id, f"/data/f{number:02}")
            if number < 10:
                add_replica(conn, file_id, f"/bari/f{number:02}", "bari")
    return database


def listing(folder: Path, paths: dict[str, int | None], name: str = "listing") -> Listing:
    path = folder / name
    path.write_text("".join(f"{p}\t{size}\n" if size is not None else f"{p}\n" for p, size in paths.items()))
    return Listing(path)


def whole() -> dict[str, int | None]:
    return {f"/data/f{number:02}": 100 for number in range(20)}


def without(*names: str, **more: int | None) -> dict[str, int | None]:
    kept = {path: size for path, size in whole().items() if path.removeprefix("/data/") not in names}
    return kept | {f"/data/{name}": size for name, size in more.items()}


def reconcile(
    database: Database,
    folder: Path,
    paths: dict[str, int | None],
    taken: float,
    brakes: reconciling.Brakes = BRAKES,
    reason: str = "",
) -> reconciling.Scan:
    said = listing(folder, paths)
    with database.begin() as conn:
        found = reconciling.differences(conn, "lyon", said, taken)
        scan = reconciling.confirm(conn, "lyon", found, taken, brakes.apart)
        id = reconciling.record(conn, "lyon", said, taken, found, taken + 1)
    done = replace(scan, id=id)
    database.transact(lambda conn: reconciling.act(conn, "lyon", done, brakes, taken, taken + 2, reason))
    return scan


def states(database: Database) -> dict[str, str]:
    with database.read() as conn:
        rows = conn.execute(sa.select(schema.replica.c.path, schema.replica.c.state))
        return {row.path: row.state for row in rows if row.state != "verified"}


def kinds(scan: reconciling.Scan) -> dict[str, str]:
    return {finding.path: finding.kind for finding in scan.findings}


def broken(database: Database, folder: Path) -> list[tuple[int, str]]:
    found = fsck.run(database, folder, now=NOW)
    return [(v.invariant, v.object) for v in found if v.invariant in (17, 19)]


# --- where files are -----------------------------------------------------------------------------


def names(conn: sa.Connection, places: list[str]) -> list[str]:
    """The names of the files that places lack, asked for of all files and of a few."""
    query = sa.select(schema.file.c.name).order_by(schema.file.c.name)
    of_all, of_few = (query.where(replicas.lacking(places, is_narrow)) for is_narrow in (False, True))
    found = list(conn.execute(of_all).scalars())
    held = list(conn.execute(query.where(sa.not_(replicas.lacking(places)))).scalars())
    assert found == list(conn.execute(of_few).scalars())
    assert sorted(found + held) == list(conn.execute(query).scalars())
    return found


def test_a_site_lacks_what_none_of_its_endpoints_holds(storage: Database) -> None:
    with storage.begin() as conn:
        known = replicas.endpoints(conn, {"bari-tape": "italy", "bari": "italy"}, "home")
        assert known == {"local": "home", "lyon": "lyon", "bari": "italy", "bari-tape": "italy"}
        assert replicas.at(known, "italy") == ["bari", "bari-tape"]
        assert names(conn, ["bari"]) == [f"f{n:02}" for n in range(10, 20)]
        assert names(conn, ["lyon"]) == []
        add_replica(conn, 12, "/tape/f11", "bari-tape")
        assert names(conn, ["bari", "bari-tape"]) == [f"f{n:02}" for n in range(10, 20) if n != 11]


@pytest.mark.parametrize("state", ["planned", "copying", "suspect", "lost", "deleting", "deleted"])
def test_what_is_not_surely_there_is_lacking(storage: Database, state: str) -> None:
    with storage.begin() as conn:
        at_bari = sa.and_(schema.replica.c.endpoint == "bari", schema.replica.c.file_id == 1)
        conn.execute(sa.update(schema.replica).where(at_bari).values(state=state))
        assert names(conn, ["bari"])[0] == "f00"
        there = replicas.of_files(conn, [1])[1]
        assert there == [f"bari ({state})"] * (state in replicas.COMING) + ["lyon"]


def test_an_unknown_place_is_named_with_the_nearest(storage: Database) -> None:
    with storage.read() as conn, pytest.raises(UnknownNameError, match="lyom") as caught:
        replicas.at(replicas.endpoints(conn, {}, "home"), "lyom")
    assert "lyon" in caught.value.hint


def test_the_search_uses_an_index_and_no_scan_of_replicas(storage: Database) -> None:
    with storage.begin() as conn:
        query = sa.select(schema.file.c.name).where(replicas.lacking(["bari"]))
        text = str(query.compile(dialect=conn.dialect, compile_kwargs={"literal_binds": True}))
        if storage.is_postgresql:
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        words = "EXPLAIN " if storage.is_postgresql else "EXPLAIN QUERY PLAN "
        plan = "\n".join(str(row) for row in conn.exec_driver_sql(words + text))
    assert "ix_replica_endpoint_file_id_state" in plan


def test_the_summary_counts_files_and_bytes(storage: Database) -> None:
    with storage.read() as conn:
        found = replicas.summary(conn)
    assert [(row["endpoint"], row["files"], row["bytes"]) for row in found] == [
        ("bari", 10, 1000),
        ("lyon", 20, 2000),
    ]


# --- the two-scan rule ---------------------------------------------------------------------------


def test_a_listing_that_agrees_finds_nothing(storage: Database, tmp_path: Path) -> None:
    assert reconcile(storage, tmp_path, whole(), NOW).findings == []
    assert states(storage) == {} and broken(storage, tmp_path) == []


def test_one_listing_changes_nothing(storage: Database, tmp_path: Path) -> None:
    scan = reconcile(storage, tmp_path, without("f03", f05=99, dark=7), NOW)
    assert kinds(scan) == {"/data/dark": "dark", "/data/f03": "lost", "/data/f05": "differs"}
    assert scan.confirmed == [] and states(storage) == {} and broken(storage, tmp_path) == []


def test_two_listings_far_enough_apart_prove_it(storage: Database, tmp_path: Path) -> None:
    reconcile(storage, tmp_path, without("f03", "f04", f05=99, dark=7), NOW)
    scan = reconcile(storage, tmp_path, without("f03", "f06", f05=99, dark=7), NOW + DAY)
    assert {f.path for f in scan.confirmed} == {"/data/f03", "/data/f05", "/data/dark"}
    assert states(storage) == {"/data/f03": "lost", "/data/f05": "suspect"}
    with storage.read() as conn:
        lost = history.of(conn, "replica", 4 + 3)
        assert [(e.source, e.target, e.actor) for e in lost] == [
            ("verified", "suspect", "reconciler"),
            ("suspect", "lost", "reconciler"),
        ]
        assert lost[-1].reason.startswith("missing or different in all listings from")
    assert broken(storage, tmp_path) == [(17, "lyon /data/dark")]


def test_two_listings_too_close_prove_nothing(storage: Database, tmp_path: Path) -> None:
    reconcile(storage, tmp_path, without("f03"), NOW)
    assert reconcile(storage, tmp_path, without("f03"), NOW + DAY - 1).confirmed == []
    assert states(storage) == {}


def test_a_listing_between_that_disagrees_saves_the_file(storage: Database, tmp_path: Path) -> None:
    reconcile(storage, tmp_path, without("f03"), NOW)
    reconcile(storage, tmp_path, whole(), NOW + DAY / 2)
    assert reconcile(storage, tmp_path, without("f03"), NOW + DAY).confirmed == []
    assert states(storage) == {}


def test_fsck_tells_what_was_proved_and_not_acted_on(storage: Database, tmp_path: Path) -> None:
    tight = reconciling.Brakes(DAY, 0, 0, 0.0)
    reconcile(storage, tmp_path, without("f03", f05=99), NOW)
    with pytest.raises(ConflictError):
        reconcile(storage, tmp_path, without("f03", f05=99), NOW + DAY, tight)
    assert broken(storage, tmp_path) == [(17, "lyon /data/f03"), (17, "lyon /data/f05")]


@pytest.mark.parametrize("state", ["planned", "copying", "deleting", "lost"])
def test_what_is_on_its_way_is_not_lost(storage: Database, tmp_path: Path, state: str) -> None:
    with storage.begin() as conn:
        mine = schema.replica.c.path == "/data/f03"
        conn.execute(sa.update(schema.replica).where(mine).values(state=state))
    assert reconcile(storage, tmp_path, without("f03"), NOW).findings == []


def test_what_came_after_the_listing_was_begun_is_not_lost(storage: Database, tmp_path: Path) -> None:
    with storage.begin() as conn:
        add_replica(conn, add_file(conn, "new1"), "/data/new1", state="present")
        history.move(conn, schema.replica, 31, "present", "verified", actor="mover", at=NOW + 5)
        late = add_replica(conn, add_file(conn, "new2"), "/data/new2")
        conn.execute(sa.update(schema.replica).where(schema.replica.c.id == late).values(verified_at=NOW + 1))
    assert reconcile(storage, tmp_path, whole(), NOW).findings == []


def test_a_lost_file_that_turns_up_is_dark(storage: Database, tmp_path: Path) -> None:
    with storage.begin() as conn:
        mine = schema.replica.c.path == "/data/f03"
        conn.execute(sa.update(schema.replica).where(mine).values(state="lost"))
    assert kinds(reconcile(storage, tmp_path, whole(), NOW)) == {"/data/f03": "dark"}


def test_outputs_of_attempts_that_are_not_settled_are_not_dark(storage: Database, tmp_path: Path) -> None:
    from support.world import World

    World(storage, tmp_path, kind="bundle").build()
    with storage.begin() as conn:
        nonces = [f"{number:032x}" for number in (1, 2, 3)]
        for number, (nonce, state) in enumerate(
            zip(nonces, ("running", "rejected", "accepted"), strict=True)
        ):
            row = conn.execute(sa.select(schema.attempt)).first()
            assert row is not None
            values = row._asdict() | {"nonce": nonce, "state": state, "number": 50 + number}
            insert_id(conn, schema.attempt, **{k: v for k, v in values.items() if k != "id"})
    more: dict[str, int | None] = {f"/data/unit/{nonce}/out.root": 5 for nonce in nonces}
    more[f"/data/unit/{nonces[2]}/report.json"] = 5
    scan = reconcile(storage, tmp_path, whole() | more, NOW)
    assert kinds(scan) == {f"/data/unit/{nonces[2]}/out.root": "dark"}


# --- brakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("brakes", "message"),
    [
        (reconciling.Brakes(DAY, 2, 10_000, 50.0), "3 files are more than max_files = 2"),
        (reconciling.Brakes(DAY, 10, 299, 50.0), "300 bytes are more than max_bytes = 299"),
        (
            reconciling.Brakes(DAY, 10, 10_000, 14.9),
            r"15 % of 20 replicas are more than max_per_cent = 14\.9",
        ),
    ],
)
def test_each_brake_trips_and_nothing_is_changed(
    storage: Database, tmp_path: Path, brakes: reconciling.Brakes, message: str
) -> None:
    gone = without("f03", "f04", f05=99)
    reconcile(storage, tmp_path, gone, NOW, brakes)
    with pytest.raises(ConflictError, match=message):
        reconcile(storage, tmp_path, gone, NOW + DAY, brakes)
    assert states(storage) == {}


def test_brakes_at_their_limits_hold_nothing_back(storage: Database, tmp_path: Path) -> None:
    brakes = reconciling.Brakes(DAY, 3, 300, 15.0)
    for taken in (NOW, NOW + DAY):
        reconcile(storage, tmp_path, without("f03", "f04", f05=99), taken, brakes)
    assert len(states(storage)) == 3 and broken(storage, tmp_path) == []


def test_an_empty_listing_trips_the_brake_by_share(storage: Database, tmp_path: Path) -> None:
    reconcile(storage, tmp_path, {}, NOW)
    with pytest.raises(ConflictError, match="100 % of 20"):
        reconcile(storage, tmp_path, {}, NOW + DAY)
    assert states(storage) == {}


def test_a_person_releases_the_brakes_for_a_reason_that_is_kept(storage: Database, tmp_path: Path) -> None:
    tight = reconciling.Brakes(DAY, 0, 0, 0.0)
    reconcile(storage, tmp_path, without("f03"), NOW, tight)
    with pytest.raises(ConflictError):
        reconcile(storage, tmp_path, without("f03"), NOW + DAY, tight)
    reconcile(storage, tmp_path, without("f03"), NOW + DAY, tight, reason="the disk burnt")
    assert states(storage) == {"/data/f03": "lost"} and broken(storage, tmp_path) == []
    with storage.read() as conn:
        row = conn.execute(sa.select(schema.reconciliation)).one()
    assert (row.lost, row.suspect, row.bytes, row.live, row.reason) == (1, 0, 100, 20, "the disk burnt")


def test_fsck_finds_brakes_that_were_gone_past(storage: Database, tmp_path: Path) -> None:
    for taken in (NOW, NOW + DAY):
        reconcile(storage, tmp_path, without("f03", "f04"), taken)
    assert broken(storage, tmp_path) == []
    with storage.begin() as conn:
        guards.release(conn, "reconciliation")
        conn.execute(sa.update(schema.reconciliation).values(brakes=BRAKES.document() | {"max_files": 1}))
    assert broken(storage, tmp_path) == [(19, "reconciliation of listing 2")]
    with storage.begin() as conn:
        conn.execute(sa.update(schema.reconciliation).values(brakes=BRAKES.document(), lost=1))
    assert broken(storage, tmp_path) == [(19, "reconciliations")]


# --- listings ------------------------------------------------------------------------------------


def test_the_same_listing_again_is_the_same(storage: Database, tmp_path: Path) -> None:
    reconcile(storage, tmp_path, without("f03"), NOW)
    for _ in range(2):
        reconcile(storage, tmp_path, without("f03"), NOW + DAY)
    assert states(storage) == {"/data/f03": "lost"}
    with storage.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(schema.listing)) == 2


def test_older_and_other_listings_of_a_moment_are_refused(storage: Database, tmp_path: Path) -> None:
    reconcile(storage, tmp_path, whole(), NOW)
    for taken, paths in ((NOW, without("f03")), (NOW - 1, whole())):
        with pytest.raises(ConflictError, match="as new or newer"):
            reconcile(storage, tmp_path, paths, taken)


def test_a_listing_of_the_future_is_refused(storage: Database, tmp_path: Path) -> None:
    with storage.begin() as conn, pytest.raises(UsageError, match="future"):
        reconciling.record(conn, "lyon", listing(tmp_path, {}), NOW + 10, [], NOW)


def test_next_to_nothing_in_common_is_refused(
    storage: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "MOST_FINDINGS", 30)
    wrong = {f"/elsewhere/f{number:02}": 100 for number in range(20)}
    with storage.read() as conn, pytest.raises(ConflictError, match="more than 30 files") as caught:
        reconciling.differences(conn, "lyon", listing(tmp_path, dict(wrong)), NOW)
    assert "--prefix" in caught.value.hint


def entries(path: Path, prefix: str = "") -> list[tuple[str, int | None]]:
    return list(Listing(path, prefix).entries())


@pytest.mark.parametrize("packed", [False, True])
def test_all_forms_of_lines_are_read_in_order(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "AT_ONCE", 2)
    text = '# a remark\nb\t5\n\n{"path": "a", "size": 3}\nÄ\nc d\t0\na/b\n{"path": "z"}\r\n'
    path = tmp_path / "listing"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert entries(path, "/x/") == [
        ("/x/a", 3), ("/x/a/b", None), ("/x/b", 5), ("/x/c d", 0), ("/x/z", None), ("/x/Ä", None)
    ]  # fmt: skip
    assert len({tuple(entries(path)), tuple(entries(path))}) == 1


def test_names_that_no_catalogue_holds_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "listing"
    path.write_bytes(b"bad\xff\t1\n" + json.dumps({"path": "a\tb\nc", "size": 2}).encode() + b"\n")
    assert entries(path) == [("a\\x09b\\x0ac", 2), ("bad\\xff", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\t5\nb\tfive\n", "line 2: invalid literal"),
        ('{"size": 5}\n', "line 1: 'path'"),
        ("a\t-5\n", "line 1: its path or its size"),
        ("{broken\n", "line 1"),
        ("a\nb\na\n", "names a twice"),
        ("a\t1\na\t2\n", "names a twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "listing"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        entries(path)


def cut(data: bytes) -> bytes:
    return data[:-9]


@pytest.mark.parametrize("spoil", [cut, lambda data: data[:20]])
def test_a_cut_listing_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "listing.gz"
    path.write_bytes(spoil(gzip.compress(b"".join(b"/data/%d\t5\n" % n for n in range(1000)))))
    with pytest.raises(StorageError, match="cannot be read"):
        entries(path)


def test_paths_are_in_one_order_on_both_sides(database: Database, tmp_path: Path) -> None:
    odd = [
        "/data/a",
        "/data/A",
        "/data/a b",
        "/data/a-b",
        "/data/a/b",
        "/data/é",
        "/data/z",
        "/data/日",
        "/data/a_b",
    ]
    with database.begin() as conn:
        for number, path in enumerate(odd):
            add_replica(conn, add_file(conn, f"odd{number}"), path)
    assert reconcile(database, tmp_path, dict.fromkeys(odd, 100), NOW).findings == []
