"""The document of a production says everything, and equal productions give equal documents."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.cli.main import run
from beamwright.core.errors import FormatError
from beamwright.db import views
from beamwright.db.engine import Database
from beamwright.report import document, grid, schema
from support.sample_production import Sample

VOLATILE = [
    "production.created",
    "production.finished",
    "workspace",
    "report",
    "summary.attempts",
    "summary.cpu_s",
    "summary.wall_s",
    "summary.farms",
    "runs[].chunks[].files[].path",
    "latency",
    "collections[].files[].path",
    "units[].attempts",
]


def build(conn: sa.Connection) -> dict:
    return document.build(conn, views.find_production(conn))


def test_document_follows_its_schema_and_is_json(conn: sa.Connection) -> None:
    built = build(conn)
    schema.check(built)
    schema.check(json.loads(json.dumps(built)))


def test_schema_is_written_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--schema"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["properties"]["workspace"]["volatile"] is True
    assert set(written["required"]) == set(written["properties"])


def test_volatile_members_are_these_and_no_others() -> None:
    assert schema.volatile_members() == VOLATILE


def test_two_workspaces_differ_in_volatile_members_only(conn: sa.Connection, tmp_path: Path) -> None:
    other = Database(tmp_path / "other.db")
    other.migrate()
    with other.begin() as connection:
        Sample(connection, folder=Path("elsewhere"), shift=1234.5).build()
    with other.read() as connection:
        second = build(connection)
    first = build(conn)
    assert first != second
    assert schema.strip_volatile(first) == schema.strip_volatile(second)
    assert "attempts" not in schema.strip_volatile(first)["units"][0]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda d: d["summary"].update(units="9"), "document.summary.units is str"),
        (
            lambda d: d["collections"][0].update(colour="red"),
            r"document.collections\[0\].colour is not described",
        ),
        (lambda d: d["runs"][0].pop("series"), r"document.runs\[0\].series is missing"),
    ],
)
def test_document_that_breaks_the_schema_is_refused_by_name(conn: sa.Connection, spoil, problem: str) -> None:
    spoilt = copy.deepcopy(build(conn))
    spoil(spoilt)
    with pytest.raises(FormatError, match=problem):
        schema.check(spoilt)


def test_ledger_lines_balance_and_an_unbalanced_one_is_told(conn: sa.Connection) -> None:
    built = build(conn)
    assert built["summary"]["unbalanced"] == 0
    assert all(line["balanced"] for line in built["ledger"])
    assert built["summary"]["quarantined"] == 2
    assert not document.balanced({**built["ledger"][0], "filtered": 1_000})


def test_collection_names_its_parents_and_checksum(conn: sa.Connection) -> None:
    merged = next(c for c in build(conn)["collections"] if c["step"] == "merged")
    assert merged["parents"] == [
        "sample:skim/good.10.root",
        "sample:skim/good.11.root",
        "sample:skim/good.12.root",
    ]
    assert merged["sha256"] == merged["files"][0]["sha256"]


def test_grid_has_a_row_per_chunk_and_a_cell_per_step_that_applies(conn: sa.Connection) -> None:
    found = grid.grid(conn, views.find_production(conn))
    rows = {(row["series"], row["run"], row["sequence"]): row["cells"] for row in found["rows"]}
    assert [column["step"] for column in found["columns"]] == ["pass1", "reco", "skim", "merged"]
    assert list(rows) == [("A", 1, 1), ("A", 2, 1), ("A", 2, 2), ("S", 7, 1)]
    assert [rows["A", 2, n]["pass1"]["state"] for n in (1, 2)] == ["accepted", "carried"]
    assert set(rows["A", 1, 1]) == {"pass1", "reco", "skim", "merged"}
    assert "pass1" not in rows["S", 7, 1]


def test_merge_unit_shows_in_the_row_of_every_chunk_it_takes(conn: sa.Connection) -> None:
    found = grid.grid(conn, views.find_production(conn))
    assert [row["cells"]["merged"]["total"] for row in found["rows"][:3]] == [1, 1, 1]
    assert "merged" not in found["rows"][3]["cells"]


def test_cell_takes_the_worst_state_of_its_units(database: Database) -> None:
    with database.begin() as connection:
        Sample(connection, job_state="failed").build()
    with database.read() as connection:
        found = grid.grid(connection, views.find_production(connection))
    cell = found["rows"][0]["cells"]["reco"]
    assert cell == {"state": "failed", "done": 0, "total": 1, "counts": {"failed": 1}}
    assert grid.is_bad(cell)


def test_newest_verdict_is_the_one_shown(conn: sa.Connection) -> None:
    assert [(v["run"], v["value"]) for v in build(conn)["quality"]] == [(1, "good"), (2, "bad")]
