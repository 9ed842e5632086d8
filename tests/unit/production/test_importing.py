"""Reports taken in: what an accepted one leaves, and everything that is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.batch import wrapper
from beamwright.batch.children import Fresh
from beamwright.catalog import files
from beamwright.core.clock import ManualClock
from beamwright.db import history, schema
from beamwright.db.engine import Database
from beamwright.production import failing, importing, jobs
from beamwright.production.tickets import signature, ticket
from beamwright.production.workspace import Workspace
from kill.production import COMMANDS, EVENTS, UNIT, add_unit, make, populate


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "workspace"
    make(root).db.close()
    return root


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Any:
    """A workspace of two units over a raw file; the first one's job has the id 1."""
    root = tmp_path / "workspace"
    shutil.copytree(template, root)
    found = Workspace(root, Workspace.open(root).settings, ManualClock(1000.0))
    with found.db.begin() as conn:
        for row in conn.execute(sa.select(schema.unit)).all():
            moved = json.loads(json.dumps(row.definition).replace(str(template), str(root)))
            conn.execute(sa.update(schema.unit).where(schema.unit.c.id == row.id).values(definition=moved))
    yield found
    found.db.close()


def attempt(workspace: Workspace, job_id: int = 1, farm: str = "near") -> jobs.Places:
    """Lease an attempt and run it to its report."""
    places = leased(workspace, job_id, farm)
    wrapper.run_job(places.job, lambda job: Fresh(), wrapper.Stop())
    return places


def leased(workspace: Workspace, job_id: int = 1, farm: str = "near") -> jobs.Places:
    with workspace.db.begin() as conn:
        (made,) = jobs.lease(conn, workspace, [(job_id, farm)], workspace.clock.now(), COMMANDS)
    jobs.write_job_directory(made, workspace.secret)
    return made.places


def take(workspace: Workspace, places: jobs.Places) -> tuple[str, str]:
    outcome = importing.import_report(workspace, places.report)
    return outcome.result, outcome.message


def special(workspace: Workspace, wish: str, **changes: Any) -> int:
    """Make a unit whose payload does something special."""
    with workspace.db.begin() as conn:
        row = conn.execute(sa.select(schema.unit).where(schema.unit.c.id == 1)).one()
        interval = (1, row.first_section, 0), (1, row.last_section, EVENTS)
        records = row.definition["records"]
        config = {"wish": wish}
        return add_unit(
            conn, "pass", "process", interval, row.definition["inputs"], ("dst", "skim", "histograms"),
            config=config, records=records, **changes,
        )  # fmt: skip


def resign(workspace: Workspace, places: jobs.Places, **changes: Any) -> None:
    """Replace the report by a changed one with a right signature, as its wrapper could have written it."""
    report = json.loads(places.report.read_bytes()) | changes
    report["signature"] = signature(report, ticket(workspace.secret, places.nonce, places.unit))
    places.report.unlink()
    places.report.write_text(json.dumps(report))


def state(workspace: Workspace, table: sa.Table, id: int = 1) -> str:
    with workspace.db.read() as conn:
        return str(conn.execute(sa.select(table.c.state).where(table.c.id == id)).scalar_one())


def dump(workspace: Workspace) -> dict[str, list[Any]]:
    with workspace.db.read() as conn:
        return {t.name: list(conn.execute(sa.select(t))) for t in schema.metadata.sorted_tables}


def test_an_accepted_report_registers_everything(workspace: Workspace) -> None:
    places = attempt(workspace)
    assert take(workspace, places) == ("accepted", "")
    assert state(workspace, schema.job) == "ok" and state(workspace, schema.attempt) == "accepted"
    rows = dump(workspace)
    outputs = {row.stream: row for row in rows["output"]}
    assert set(outputs) == {"dst", "skim", "histograms"} and outputs["histograms"].collection_id is None
    assert {row.stream: row.state for row in rows["collection"]} == {"dst": "valid", "skim": "valid"}
    files = {row.id: row for row in rows["file"]}
    assert (
        files[outputs["dst"].file_id].kind == "rntuple"
        and files[outputs["histograms"].file_id].kind == "bundle"
    )
    assert all(f.lineage["release"] == "sha256:trivial" for f in files.values() if f.kind != "raw")
    assert {files[row.parent_id].name for row in rows["file_parent"]} == {"chunk0"}
    replicas = [row for row in rows["replica"] if row.endpoint == "near"]
    assert len(replicas) == 3 and {row.state for row in replicas} == {"verified"}
    assert [os.stat(row.path).st_ino for row in replicas] == [row.inode for row in replicas]
    line = next(row for row in rows["ledger"] if row.stream == "dst")
    assert line.read == UNIT * EVENTS == line.written + line.filtered + line.quarantined
    assert [(row.section, row.event) for row in rows["quarantine"]] == [(0, 1)]
    found = rows["attempt"][0]
    assert found.cpu_s > 0 and found.exit_code == 0 and found.timings["process"] > 0
    assert found.figures == {"kept": line.written, "statistics": {}}


def test_trouble_of_the_database_costs_no_attempt(workspace: Workspace) -> None:
    places = attempt(workspace)
    with workspace.db.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE ledger RENAME TO gone")
    with pytest.raises(sa.exc.OperationalError):
        take(workspace, places)
    with workspace.db.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE gone RENAME TO ledger")
    assert state(workspace, schema.job) == "submitted" and state(workspace, schema.attempt) == "leased"
    assert take(workspace, places) == ("accepted", "")


def test_taking_a_report_many_times_equals_taking_it_once(workspace: Workspace) -> None:
    places = attempt(workspace)
    take(workspace, places)
    once = dump(workspace)
    assert [take(workspace, places)[0] for _ in range(3)] == ["duplicate"] * 3
    both = importing.import_reports(workspace, [places.report, places.report])
    assert both[places.report].result == "duplicate"
    assert dump(workspace) == once


@pytest.mark.parametrize("copies", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_flood_of_duplicate_reports_changes_nothing(workspace: Workspace, copies: int) -> None:
    places, other = attempt(workspace, 1), attempt(workspace, 2)
    take(workspace, places)
    once = dump(workspace)
    flood = [places.report] * copies
    for start in range(0, copies, 200):
        found = importing.import_reports(workspace, flood[start : start + 200])
        assert found[places.report].result == "duplicate"
    assert dump(workspace) == once
    assert take(workspace, other)[0] == "accepted"


def test_two_reports_of_one_unit_in_one_transaction_leave_one_accepted(workspace: Workspace) -> None:
    first = leased(workspace)
    lose(workspace, first)
    second = attempt(workspace, farm="far")
    wrapper.run_job(first.job, lambda job: Fresh(), wrapper.Stop())
    outcomes = importing.import_reports(workspace, [second.report, first.report])
    assert [outcome.result for outcome in outcomes.values()] == ["accepted", "superseded"]


def test_a_name_that_is_taken_spoils_no_other_report_of_its_transaction(workspace: Workspace) -> None:
    good, other = attempt(workspace, 1), attempt(workspace, 2)
    with workspace.db.begin() as conn:
        unit = conn.execute(sa.select(schema.unit).where(schema.unit.c.id == 1)).one()
        name = unit.definition["streams"]["dst"]["name"]
        taken = {"scope": "p", "name": name, "kind": "raw", "tier": "raw", "size": 1, "sha256": "0",
                 "adler32": "0", "lineage": {}, "created": 0.0}  # fmt: skip
        conn.execute(sa.insert(schema.file), [taken])
    outcomes = importing.import_reports(workspace, [good.report, other.report])
    assert [outcome.result for outcome in outcomes.values()] == ["rejected", "accepted"]
    assert "is taken" in outcomes[good.report].message


def test_the_first_valid_report_wins_and_the_other_is_superseded(workspace: Workspace) -> None:
    first = leased(workspace)
    lose(workspace, first)
    second = attempt(workspace, farm="far")
    wrapper.run_job(first.job, lambda job: Fresh(), wrapper.Stop())  # it was slow, not dead
    assert take(workspace, first)[0] == "accepted"
    assert state(workspace, schema.job) == "ok"
    assert take(workspace, second)[0] == "superseded"
    rows = dump(workspace)
    assert {row.attempt_id for row in rows["output"]} == {1}
    assert len(rows["output"]) == 3 and len(rows["ledger"]) == 2


def lose(workspace: Workspace, places: jobs.Places) -> None:
    """Declare an attempt lost though its wrapper could still start, as happens on remote farms."""
    with workspace.db.begin() as conn:
        row = next(row for row in jobs.in_flight(conn) if row.nonce == places.nonce)
        gone = failing.Failure(row.id, row.job_id, "lost", "gone")
        failing.lose(conn, [row], [gone], tries=3, actor="tracker", now=workspace.clock.now())


def test_a_late_report_is_accepted_while_the_job_waits_to_be_tried_again(workspace: Workspace) -> None:
    places = attempt(workspace)
    lose(workspace, places)
    assert state(workspace, schema.job) == "prepared"
    assert take(workspace, places)[0] == "accepted"
    assert state(workspace, schema.job) == "ok"
    with workspace.db.read() as conn:
        moves = [(e.source, e.target) for e in history.of(conn, "job", 1)]
    assert moves[-2:] == [("prepared", "submitted"), ("submitted", "ok")]


def test_the_report_of_a_held_job_waits(workspace: Workspace) -> None:
    places = attempt(workspace)
    with workspace.db.begin() as conn:
        history.move(conn, schema.job, 1, "submitted", "held", actor="operator", at=0.0)
    before = dump(workspace)
    assert take(workspace, places)[0] == "waiting"
    assert dump(workspace) == before


def test_a_failure_is_retried_within_bounds_and_then_stays(workspace: Workspace) -> None:
    job_id = special(workspace, "fail")
    for number in (1, 2, 3):
        assert state(workspace, schema.job, job_id) == "prepared"
        places = attempt(workspace, job_id)
        assert take(workspace, places) == ("failed", "application_error: told to fail")
        assert state(workspace, schema.attempt, number) == "rejected"
    assert state(workspace, schema.job, job_id) == "failed"
    with workspace.db.read() as conn:
        row = conn.execute(sa.select(schema.job).where(schema.job.c.id == job_id)).one()
    assert row.failures == 3 and "told to fail" in row.reason


def test_a_production_that_is_started_again_gives_failed_jobs_all_their_tries_anew(
    workspace: Workspace,
) -> None:
    job_id = special(workspace, "fail")
    for _ in range(2):
        for _ in range(3):
            take(workspace, attempt(workspace, job_id))
        assert state(workspace, schema.job, job_id) == "failed"
        workspace.clock.sleep(10.0)
        with workspace.db.begin() as conn:
            assert jobs.prepare_again(conn, 1, "started again", workspace.clock.now()) == 1
    assert state(workspace, schema.job, job_id) == "prepared"
    with workspace.db.read() as conn:
        assert failing.failures(conn, [job_id]) == {job_id: {}}


@pytest.mark.parametrize("term", ["read", "created", "written", "filtered", "prescaled", "quarantined"])
def test_a_miscount_of_any_term_of_the_ledger_is_caught(workspace: Workspace, term: str) -> None:
    job_id = special(workspace, f"miscount {term}")
    result, message = take(workspace, attempt(workspace, job_id))
    assert result == "rejected" and term in message
    rows = dump(workspace)
    assert not rows["output"] and not rows["ledger"] and not rows["collection"]
    assert state(workspace, schema.job, job_id) == "prepared"


@pytest.mark.parametrize(("wish", "words"), [("release", "sha256:another"), ("conditions", "another")])
def test_another_release_or_other_conditions_are_refused(workspace: Workspace, wish: str, words: str) -> None:
    result, message = take(workspace, attempt(workspace, special(workspace, wish)))
    assert result == "rejected" and message.startswith("policy") and words in message


def test_a_wrong_signature_is_refused(workspace: Workspace) -> None:
    places = attempt(workspace)
    report = json.loads(places.report.read_bytes())
    report["payload"]["figures"]["kept"] = 999
    places.report.unlink()
    places.report.write_text(json.dumps(report))
    result, message = take(workspace, places)
    assert result == "rejected" and "signature" in message
    assert state(workspace, schema.attempt) == "rejected" and not dump(workspace)["output"]


def test_a_report_for_somebody_elses_attempt_is_refused_and_harms_nobody(workspace: Workspace) -> None:
    mine, theirs = attempt(workspace, 1), leased(workspace, 2)
    theirs.output.mkdir(parents=True)
    shutil.copy(mine.report, theirs.report)
    before = dump(workspace)
    assert take(workspace, theirs)[0] == "rejected"
    assert dump(workspace) == before
    assert take(workspace, mine)[0] == "accepted"


def test_a_report_with_an_unknown_nonce_or_no_sense_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    stray = tmp_path / "report.json"
    for text in ("{", "[]", '{"attempt": {"nonce": "x", "unit": "y"}, "outputs": []}'):
        stray.write_text(text)
        assert importing.import_report(workspace, stray).result == "rejected"
    assert importing.import_report(workspace, tmp_path / "absent.json").result == "rejected"


def test_an_unreadable_report_in_its_own_place_fails_the_attempt(workspace: Workspace) -> None:
    places = leased(workspace)
    places.output.mkdir(parents=True)
    places.report.write_text("{ half")
    assert take(workspace, places)[0] == "rejected"
    assert state(workspace, schema.attempt) == "rejected" and state(workspace, schema.job) == "prepared"


@pytest.mark.parametrize("how", ["flipped", "shorter", "gone", "linked", "renamed"])
def test_an_output_that_is_not_what_was_reported_is_refused(workspace: Workspace, how: str) -> None:
    places = attempt(workspace)
    path = next(p for p in places.output.iterdir() if ".dst." in p.name)
    data = path.read_bytes()
    path.unlink()
    if how == "flipped":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    if how == "shorter":
        path.write_bytes(data[:-1])
    if how == "linked":
        outside = places.output.parent / "outside"
        outside.write_bytes(data)
        path.symlink_to(outside)
    if how == "renamed":
        path.write_bytes(data)
        report = json.loads(places.report.read_bytes())
        outputs = [o | {"file": "../" + o["file"]} for o in report["outputs"]]
        resign(workspace, places, outputs=outputs)
    assert take(workspace, places)[0] == "rejected"
    assert not dump(workspace)["output"]


def test_an_output_touched_between_reading_and_writing_is_refused(workspace: Workspace) -> None:
    places = attempt(workspace)
    examined = importing.examine(places.report)
    path = next(p for p in places.output.iterdir() if ".dst." in p.name)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with workspace.db.begin() as conn:
        (outcome,) = importing.settle(conn, workspace, [examined])
    assert outcome.result == "rejected" and "touched" in outcome.message


def test_outputs_beyond_or_short_of_the_declaration_are_refused(workspace: Workspace) -> None:
    short, double = attempt(workspace, 1), attempt(workspace, 2)
    resign(workspace, short, outputs=json.loads(short.report.read_bytes())["outputs"][1:])
    outputs = json.loads(double.report.read_bytes())["outputs"]
    resign(workspace, double, outputs=[*outputs, outputs[0]])
    assert take(workspace, short)[0] == "rejected"
    assert take(workspace, double)[0] == "rejected"


def test_a_signed_report_without_the_agreed_form_is_refused(workspace: Workspace) -> None:
    places = attempt(workspace)
    payload = json.loads(places.report.read_bytes())["payload"]
    resign(workspace, places, payload=payload | {"ledger": [{"record": 1}]})
    result, message = take(workspace, places)
    assert result == "rejected" and "form" in message


def test_one_bad_report_does_not_spoil_the_others_of_its_transaction(workspace: Workspace) -> None:
    good, other = attempt(workspace, 1), attempt(workspace, 2)
    bad = attempt(workspace, special(workspace, "few"))
    outcomes = importing.import_reports(workspace, [good.report, bad.report, other.report])
    assert [o.result for o in outcomes.values()] == ["accepted", "failed", "accepted"]


def test_reports_are_taken_in_on_postgresql_as_well(postgresql_database: Database, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    opened = make(tmp_path / "workspace", raw)
    opened.db.close()
    workspace = Workspace(opened.root, opened.settings, ManualClock(1000.0))
    workspace.__dict__["db"] = postgresql_database
    with postgresql_database.begin() as conn:
        populate(conn, raw)
    first, second = attempt(workspace, 1), attempt(workspace, 2, "far")
    outcomes = importing.import_reports(workspace, [first.report, second.report])
    assert [outcome.result for outcome in outcomes.values()] == ["accepted", "accepted"]
    assert take(workspace, first)[0] == "duplicate"
    bad = attempt(workspace, special(workspace, "miscount read"))
    assert take(workspace, bad)[0] == "rejected"
    assert len(dump(workspace)["output"]) == 6


def points(workspace: Workspace, places: jobs.Places, uuid: str) -> tuple[str, str]:
    """Let the report of an attempt say that its skim is a pointer skim, and take it in."""
    payload = json.loads(places.report.read_bytes())["payload"]
    for output in payload["outputs"]:
        if output["stream"] == "skim":
            output["sources"] = [uuid]
    resign(workspace, places, payload=payload)
    return take(workspace, places)


def test_a_pointer_skim_holds_the_files_that_it_leads_into(workspace: Workspace) -> None:
    assert take(workspace, attempt(workspace))[0] == "accepted"
    with workspace.db.read() as conn:
        dst = conn.execute(sa.select(schema.file).where(schema.file.c.name.like("%dst/%"))).one()
    assert points(workspace, attempt(workspace, 2), dst.uuid)[0] == "accepted"
    with workspace.db.read() as conn:
        (holder,) = files.holders(conn, dst.id)
        skim = files.show(conn, holder)
        assert skim.lineage["sources"] == [dst.uuid]
        parents = {
            relative.id for relative in files.lineage(conn, skim.id, "ancestors") if relative.distance == 1
        }
        others = [row.id for row in conn.execute(sa.select(schema.file.c.id)) if row.id != dst.id]
        assert dst.id in parents and [files.holders(conn, other) for other in others] == [[]] * len(others)
    with workspace.db.begin() as conn:
        gone = schema.replica.c.file_id == skim.id
        conn.execute(sa.update(schema.replica).where(gone).values(state="deleted"))
        assert files.holders(conn, dst.id) == []


def test_a_pointer_into_a_file_that_nobody_knows_is_refused(workspace: Workspace) -> None:
    result, message = points(workspace, attempt(workspace), "00000000-0000-8000-8000-000000000000")
    assert result != "accepted" and "which a pointer skim leads into, is not registered" in message
