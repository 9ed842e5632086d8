"""Registration in bulk: streamed, taken up again, refused by name and line, on both databases."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.catalog import metadata, registering, runs
from beamwright.catalog.asking import Question, ask
from beamwright.catalog.registering import Outcome, register, rehearse
from beamwright.catalog.streams import Line, read_records
from beamwright.catalog.writers import Source
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import BeamwrightError, ConflictError, FormatError, UnknownNameError
from beamwright.db import bulk, history, schema
from beamwright.db.engine import Database

Record = dict[str, Any]
SOURCE = Source("list.jsonl", 10.0, "ann")
DQ = {
    "name": "dq",
    "subject": "file",
    "key": {
        "energy": {"type": "float", "unit": "GeV", "indexed": True, "required": True},
        "site": {"type": "text", "indexed": True},
        "note": {"type": "text"},
        "count": {"type": "int"},
        "ok": {"type": "bool", "indexed": True},
        "taken": {"type": "time", "indexed": True},
    },
}


def file(n: int, **extra: Any) -> Record:
    digest = sha256_hex(str(n).encode())
    said = {"name": f"mc:f/{n:05d}", "size": n, "sha256": digest, "adler32": digest[:8], "tier": "dst"}
    return said | extra


def numbered(records: list[Record]) -> Iterator[tuple[int, Record]]:
    return iter(list(enumerate(records, 1)))


def put(db: Database, *records: Record, subject: str = "file", source: Source = SOURCE) -> Outcome:
    return register(db, subject, numbered(list(records)), source)


def count(db: Database, table: sa.Table) -> int:
    with db.read() as conn:
        return int(conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


@pytest.fixture
def kinds(database: Database) -> Database:
    with database.begin() as conn:
        metadata.declare(conn, DQ, 1.0)
    return database


def test_files_come_with_metadata_replicas_and_parents(kinds: Database) -> None:
    place = {"endpoint": "far", "path": "/store/1"}
    said = {"energy": 2, "site": "é", "ok": True, "taken": "1970-01-02"}
    found = put(
        kinds,
        file(1, replicas=[place], metadata={"dq": said}, origin={"release": "24.1"}, uuid="u-1"),
        file(2),
    )
    assert found == Outcome(new=2)
    put(kinds, file(3, parents=["mc:f/00001", "mc:f/00002"]))
    with kinds.read() as conn:
        row = conn.execute(sa.select(schema.file).where(schema.file.c.name == "f/00001")).one()
        assert (row.size, row.kind, row.uuid, row.created) == (1, "external", "u-1", 10.0)
        assert row.lineage == {"release": "24.1", "registered": {"by": "ann", "source": "list.jsonl"}}
        replica = conn.execute(sa.select(schema.replica)).one()
        assert (replica.endpoint, replica.path, replica.state) == ("far", "/store/1", "present")
        assert [e.target for e in history.of(conn, "replica", replica.id)] == ["present"]
        assert metadata.of(conn, "file", [row.id])[row.id] == {
            "dq": {"energy": 2.0, "site": "é", "ok": True, "taken": 86400.0}
        }
        (entry, _) = history.of(conn, "registration", "list.jsonl")
        assert (entry.target, entry.actor, entry.data["number"]) == ("files", "ann", 2)
    assert count(kinds, schema.file_parent) == 2
    assert count(kinds, schema.metadata_integer) == count(kinds, schema.metadata_text) == 1


def test_equal_records_are_passed_over_and_others_refused_by_name_and_line(kinds: Database) -> None:
    put(kinds, file(1), file(2, metadata={"dq": {"energy": 1.0}}))
    again = (file(3), file(2, metadata={"dq": {"energy": 1.0}}), file(1, metadata={"dq": {"energy": 5.0}}))
    assert put(kinds, *again) == Outcome(new=1, equal=2)
    with kinds.read() as conn:
        assert sorted(d["dq"]["energy"] for d in metadata.of(conn, "file", [1, 2]).values()) == [1.0, 5.0]
    with pytest.raises(ConflictError, match=r"list.jsonl, line 2: file mc:f/00001: .* sha256") as caught:
        put(kinds, file(4), file(1, sha256="0" * 64))
    assert caught.value.data["line"] == 2
    with pytest.raises(ConflictError, match="bytes"):
        put(kinds, file(1, size=77))
    with pytest.raises(ConflictError, match="other metadata dq"):
        put(kinds, file(1, metadata={"dq": {"energy": 6.0}}))
    with pytest.raises(ConflictError, match="line 1 says otherwise"):
        put(kinds, file(8), file(8, size=3))
    assert put(kinds, file(9), file(9)) == Outcome(new=1, equal=1)
    assert count(kinds, schema.file) == 4


def test_a_path_holds_one_file(kinds: Database) -> None:
    put(kinds, file(1, replicas=[{"endpoint": "far", "path": "/a"}]))
    with pytest.raises(ConflictError, match="/a at far is file mc:f/00001"):
        put(kinds, file(2, replicas=[{"endpoint": "far", "path": "/a"}]))


BAD: list[tuple[Record, str]] = [
    ({"size": -1}, "size is -1"),
    ({"size": True}, "size is True"),
    ({"size": 2**63}, "size is"),
    ({"size": 1.0}, "size is 1.0"),
    ({"sha256": "x" * 64}, "hexadecimal"),
    ({"sha256": "A" * 64}, "small hexadecimal"),
    ({"adler32": None}, "adler32 is missing"),
    ({"name": "no scope"}, "write scope:name"),
    ({"name": "a:../../etc/passwd"}, "is no name"),
    ({"name": "a:x'; DROP TABLE file; --"}, "is no name"),
    ({"name": "x" * 10_000_000}, "10000002 characters"),
    ({"name": ["a:b"]}, "a name is"),
    ({"sizes": 1}, "did you mean size"),
    ({"metadata": {"qd": {"energy": 1.0}}}, "did you mean dq"),
    ({"metadata": {"dq": {"energi": 1.0}}}, "did you mean energy"),
    ({"metadata": {"dq": {"x'); DROP TABLE file; --": 1.0}}}, "has no key"),
    ({"metadata": {"dq": {"site": "a"}}}, "dq.energy is missing"),
    ({"metadata": {"dq": {"energy": float("nan")}}}, "dq.energy is nan.*finite"),
    ({"metadata": {"dq": {"energy": float("inf")}}}, "dq.energy is inf"),
    ({"metadata": {"dq": {"energy": "5"}}}, "dq.energy is '5'"),
    ({"metadata": {"dq": {"energy": True}}}, "dq.energy is True"),
    ({"metadata": {"dq": {"energy": 10**400}}}, "dq.energy is"),
    ({"metadata": {"dq": {"energy": 1.0, "count": 2**63}}}, "64 bits"),
    ({"metadata": {"dq": {"energy": 1.0, "count": 1.5}}}, "64 bits"),
    ({"metadata": {"dq": {"energy": 1.0, "note": "x" * 10_000_000}}}, "10000 are allowed"),
    ({"metadata": {"dq": {"energy": 1.0, "site": "x" * 501}}}, "indexed are at most 500"),
    ({"metadata": {"dq": {"energy": 1.0, "note": "a\0b"}}}, "no text"),
    ({"metadata": {"dq": {"energy": 1.0, "note": "\ud800"}}}, "no text"),
    ({"metadata": {"dq": {"energy": 1.0, "taken": "May"}}}, "dq.taken is 'May'"),
    ({"metadata": {"dq": [1]}}, "no table of keys"),
    ({"metadata": [1]}, "no table of kinds"),
    ({"origin": {"x": "y" * 70_000}}, "bytes"),
    ({"origin": {"x": float("nan")}}, "NaN"),
    ({"origin": {"x": "\0"}}, "NUL"),
    ({"replicas": [{"endpoint": "far"}]}, "a replica is"),
    ({"replicas": [{"endpoint": "far", "path": " "}]}, "no path"),
    ({"parents": ["mc:f/1", "mc:f/1"]}, "names a file twice"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), BAD, ids=range(len(BAD)))
def test_a_bad_record_is_refused_by_line_and_what_came_before_stays(
    kinds: Database, change: Record, words: str
) -> None:
    told: list[int] = []
    with pytest.raises(FormatError, match=words) as caught:
        register(kinds, "file", numbered([file(1), file(2) | change, file(3)]), SOURCE, told.append)
    assert caught.value.message.startswith("list.jsonl, line 2")
    assert len(str(caught.value)) < 1000
    assert told == [1] and count(kinds, schema.file) == 1


def test_text_that_would_be_a_statement_is_kept_as_text(kinds: Database) -> None:
    nasty = "'); DROP TABLE file; -- \\ %s :x {}"
    put(kinds, file(1, metadata={"dq": {"energy": 1.0, "site": nasty, "note": nasty}}))
    with kinds.read() as conn:
        assert metadata.of(conn, "file", [1])[1]["dq"]["note"] == nasty


def test_a_kind_that_gets_an_index_meanwhile_is_indexed_in_every_batch(
    kinds: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registering, "BATCH", 4)
    key = DQ["key"] | {"count": {"type": "int", "indexed": True}}  # type: ignore[operator]

    def index(done: int) -> None:
        with kinds.begin() as conn:
            metadata.declare(conn, DQ | {"key": key}, 11.0)

    records = [file(n, metadata={"dq": {"energy": 1.0, "count": 5}}) for n in range(30)]
    register(kinds, "file", numbered(records), SOURCE, index)
    with kinds.read() as conn:
        assert len(list(ask(conn, Question("file", "dq.count == 5")))) == 30


def test_large_lists_leave_a_connection_to_sqlite_as_it_was(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registering, "BATCH", 10)
    found: list[tuple[int, int]] = []

    def look(done: int) -> None:
        with sqlite_database.begin() as conn:
            settings = ("cache_size", "wal_autocheckpoint")
            found.append(tuple(conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in settings))

    look(0)
    register(sqlite_database, "file", numbered([file(n) for n in range(25)]), SOURCE, look)
    look(25)
    assert found[0] == found[-1] == (-2000, 1000)
    assert found[1] == found[2] == (-262_144, 32_768)


def test_numbers_are_reserved_for_one_alone(database: Database) -> None:
    with database.begin() as conn:
        assert bulk.reserve(conn, schema.file, 0) == []
        assert bulk.reserve(conn, schema.file, 3) == [1, 2, 3]


def test_numbers_are_reserved_while_others_draw_from_the_same_sequence(postgresql_database: Database) -> None:
    drawn: list[list[int]] = []

    def draw() -> None:
        for _ in range(5):
            with postgresql_database.begin() as conn:
                drawn.append(bulk.reserve(conn, schema.file, 3000))

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(part) for part in drawn] == 15 * [3000]
    assert all(part == sorted(part) for part in drawn)
    assert len({number for part in drawn for number in part}) == 45_000


def test_an_unknown_parent_is_named(kinds: Database) -> None:
    with pytest.raises(UnknownNameError, match="no registered parent is called 'mc:gone'"):
        put(kinds, file(1, parents=["mc:gone"]))
    assert count(kinds, schema.file) == 0


def test_a_rehearsal_lists_every_problem_and_writes_nothing(kinds: Database) -> None:
    put(kinds, file(1))
    records = [file(1), file(2), file(1, size=5), file(3, size=-1), file(4, metadata={"x": {}}), file(5)]
    with kinds.read() as conn:
        found, problems = rehearse(conn, "file", numbered(records), SOURCE)
    assert found == Outcome(new=2, equal=1)
    assert [text.split(",")[1].strip().split(":")[0] for text in problems] == ["line 4", "line 5", "line 3"]
    assert count(kinds, schema.file) == 1


def test_a_stream_that_was_cut_is_taken_up_again(
    kinds: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registering, "BATCH", 10)
    lines = [json.dumps(file(n, metadata={"dq": {"energy": n / 2}})) + "\n" for n in range(35)]
    path, told = tmp_path / "list.jsonl", list[int]()
    path.write_text("".join(lines[:25]) + lines[25][:40])
    with pytest.raises(FormatError, match=r"line 26: the stream ends inside a record \(what came before"):
        register(kinds, "file", read_records(path), SOURCE, told.append)
    assert told == [10, 20, 25] and count(kinds, schema.file) == 25
    path.write_text("".join(lines))
    place = [0]
    assert register(kinds, "file", read_records(path, place), SOURCE) == Outcome(new=10, equal=25)
    assert place == [path.stat().st_size]
    assert count(kinds, schema.metadata_number) == 35


@pytest.mark.parametrize("name", ["list.jsonl.gz", "list.jsonl"])
def test_a_gzipped_stream_that_was_cut_is_taken_up_again(
    kinds: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The stream itself tells that it is gzipped, whatever its file is called."""
    monkeypatch.setattr(registering, "BATCH", 10)
    lines = [json.dumps(file(n)) + "\n" for n in range(3000)]
    path, whole = tmp_path / name, gzip.compress("".join(lines).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=rf"{name} is cut or damaged after line \d+.*what came before"):
        register(kinds, "file", read_records(path), SOURCE)
    there = count(kinds, schema.file)
    assert 0 < there < 3000
    path.write_bytes(whole)
    place = [0]
    assert register(kinds, "file", read_records(path, place), SOURCE) == Outcome(3000 - there, there)
    assert place == [len(whole)]
    path.write_bytes(whole[:-20] + b"x" * 20)
    with pytest.raises(FormatError, match="is cut or damaged"):
        list(read_records(path))


def test_standard_input_may_be_gzipped(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(file(1)).encode() + b"\n"
    for data in (text, gzip.compress(text), b""):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)))
        monkeypatch.setattr("sys.stdin", stdin)
        lines = [line.data for _, line in read_records(Path("-")) if isinstance(line, Line)]
        assert lines == ([text] if data else [])


def test_a_table_that_is_damaged_within_is_taken_up_again(kinds: Database, tmp_path: Path) -> None:
    pa, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    rows = [{**file(n), "replicas": None, "metadata": None} for n in range(9000)]
    rows = [{name: row[name] for name in ("name", "size", "sha256", "adler32", "tier")} for row in rows]
    path = tmp_path / "list.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3000, write_page_checksum=False)
    whole = path.read_bytes()
    column = parquet.ParquetFile(path).metadata.row_group(2).column(2)
    start = column.dictionary_page_offset or column.data_page_offset
    path.write_bytes(whole[:start] + b"\xff" * 400 + whole[start + 400 :])
    with pytest.raises(FormatError, match=r"list.parquet is damaged after row \d+.*what came before"):
        register(kinds, "file", read_records(path), SOURCE)
    there = count(kinds, schema.file)
    assert there in (5000, 6000)
    path.write_bytes(whole)
    assert register(kinds, "file", read_records(path), SOURCE) == Outcome(9000 - there, there)


def test_bytes_that_are_no_text_are_refused_by_line(kinds: Database, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(FormatError, match="list.jsonl, line 1: no UTF-8 text"):
        register(kinds, "file", read_records(path), SOURCE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": NaN}\n', "NaN is no number"),
        ("[1]\n", "no record"),
        ('{"a": \n', "line 1"),
        ("\xff\n", "line 1"),
        ('{"a":' * 5000 + "\n", "line 1"),
        ('{"a": "' + "x" * (1 << 20) + '"}\n', "more than"),
    ],
)
def test_what_is_no_json_line_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=words):
        [line.members() for _, line in read_records(path) if isinstance(line, Line)]


def test_parquet_gives_the_same_records(kinds: Database, tmp_path: Path) -> None:
    pa, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    rows = [
        {"name": f"mc:f/{n:05d}", "size": n, "sha256": sha256_hex(str(n).encode()), "tier": "dst"}
        | {"adler32": sha256_hex(str(n).encode())[:8], "endpoint": "far", "path": f"/p/{n}"}
        | {"dq.energy": n / 2, "dq.note": "x" if n % 2 else None}
        for n in range(20)
    ]
    path = tmp_path / "list.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    assert register(kinds, "file", read_records(path), SOURCE) == Outcome(new=20)
    json_rows = [
        file(n, replicas=[{"endpoint": "far", "path": f"/p/{n}"}])
        | {"metadata": {"dq": {"energy": n / 2} | ({"note": "x"} if n % 2 else {})}}
        for n in range(20)
    ]
    assert put(kinds, *json_rows) == Outcome(equal=20)
    path.write_bytes(b"no parquet")
    with pytest.raises(FormatError, match="is no Parquet file"):
        list(read_records(path))


def run(number: int, **extra: Any) -> Record:
    return {"series": "B", "number": number, "luminosity": 1.5} | extra


def test_what_a_run_is_worth_can_be_said_later_and_not_otherwise(database: Database) -> None:
    assert put(database, run(1, luminosity=None), subject="run") == Outcome(new=1)
    assert put(database, run(1), subject="run") == Outcome(equal=1)
    assert put(database, run(1, luminosity=None, livetime=60), subject="run") == Outcome(equal=1)
    with database.read() as conn:
        (row,) = conn.execute(sa.select(schema.run)).all()
        assert (row.luminosity, row.livetime, row.state) == (1.5, 60.0, "announced")
        told = [(line.target, line.reason, line.actor) for line in history.of(conn, "run", row.id)]
    assert told[1:] == [
        ("measured", "luminosity 1.5", SOURCE.actor),
        ("measured", "livetime 60", SOURCE.actor),
    ]
    with pytest.raises(ConflictError, match="livetime is 60.0, not 61.0"):
        put(database, run(1, livetime=61), subject="run")


def test_runs_are_announced_or_known_from_elsewhere(database: Database) -> None:
    assert put(database, run(1), run(2, state="closed", livetime=5), subject="run") == Outcome(new=2)
    assert put(database, run(1), subject="run") == Outcome(equal=1)
    with pytest.raises(ConflictError, match=r"run B/1 \(raw\): luminosity is 1.5, not 2.0"):
        put(database, run(1, luminosity=2.0), subject="run")
    with database.read() as conn:
        rows = conn.execute(sa.select(schema.run).order_by(schema.run.c.number)).all()
        assert [(row.state, row.livetime) for row in rows] == [("announced", None), ("closed", 5.0)]
        assert [e.target for e in history.of(conn, "run", rows[1].id)] == ["closed"]
    for change in ({"state": "open"}, {"luminosity": -1.0}, {"number": -1}, {"is_mc": 1}, {"series": "a b"}):
        with pytest.raises(FormatError):
            put(database, run(3) | change, subject="run")


def collection(n: int, **extra: Any) -> Record:
    said = {"name": f"mc:c/{n}", "tier": "dst", "stream": "dst", "series": "B", "first": n, "last": n}
    return said | {"events": 10, "files": [f"mc:f/{n:05d}"], "release": "24.1"} | extra


def test_collections_are_there_when_all_their_files_are(database: Database) -> None:
    put(database, file(1), file(2), file(3))
    with pytest.raises(UnknownNameError, match="no registered file is called 'mc:f/00009'"):
        put(database, collection(1), collection(2, files=["mc:f/00002", "mc:f/00009"]), subject="collection")
    assert count(database, schema.collection) == 0
    both = collection(2, files=["mc:f/00002", "mc:f/00003"], first=[2, 5], last=[2, 9, 100])
    assert put(database, collection(1), both, subject="collection") == Outcome(new=2)
    assert put(database, both, subject="collection") == Outcome(equal=1)
    with pytest.raises(ConflictError, match="a valid collection of this name holds other content") as caught:
        put(database, both | {"files": ["mc:f/00003", "mc:f/00002"]}, subject="collection")
    assert "register --supersede REASON" in caught.value.hint
    with database.read() as conn:
        row = conn.execute(sa.select(schema.collection).where(schema.collection.c.name == "c/2")).one()
        assert (row.first_section, row.last_event, row.state) == (5, 100, "valid")
    for change in ({"files": []}, {"events": -1}, {"first": 5, "last": 2}, {"first": "x"}, {"stream": ""}):
        with pytest.raises(BeamwrightError):
            put(database, collection(3) | change, subject="collection")


def test_a_run_that_was_announced_opens_with_its_first_chunk(database: Database) -> None:
    put(database, run(5, luminosity=None), subject="run")
    said: Record = {"series": "B", "run": 5, "tier": "raw", "sequence": 1, "reader": "daq", "files": []}
    said |= {"first_section": 0, "last_section": 9, "records": {}, "is_mc": False, "end_marker": True}
    with database.begin() as conn:
        runs.deliver(conn, said, {}, 20.0, records={"event": 1}, index_file="i")
        entries = history.of(conn, "run", runs.find(conn, "B", 5).id)
    assert [entry.target for entry in entries] == ["announced", "open", "closed"]
